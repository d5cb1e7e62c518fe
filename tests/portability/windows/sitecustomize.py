"""On PYTHONPATH, this shows this project's code the system as Python shows Windows; libraries see the real one.

What Windows lacks is missing from the modules that `visage` and the stages import, and `sys.platform` says win32. It
cannot show what Windows does otherwise: its files, its console, its processes.
"""

import builtins
import importlib
from types import ModuleType, SimpleNamespace

MISSING = {
    "os": "chown fchmod fork forkpty getegid geteuid getgid getpgid getpgrp getpriority getsid getuid killpg mkfifo"
    " nice pidfd_open posix_fallocate posix_spawn sched_getaffinity setpgid setsid statvfs sysconf uname wait waitid",
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGSTOP SIGUSR1 SIGUSR2 SIG_BLOCK SIG_UNBLOCK alarm"
    " pthread_sigmask",
    "socket": "AF_UNIX recv_fds send_fds",
}
PEAK = 123 * 2**20
ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "pty"}


class View(ModuleType):
    """A module without some of its names."""

    def __init__(self, module, missing, replaced):
        super().__init__(module.__name__)
        object.__setattr__(self, "_rest", (module, frozenset(missing), replaced))

    def __getattribute__(self, name):
        module, missing, replaced = object.__getattribute__(self, "_rest")
        if name in missing:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}, as on Windows")
        return replaced[name] if name in replaced else getattr(module, name)

    def __setattr__(self, name, value):
        setattr(object.__getattribute__(self, "_rest")[0], name, value)


def socketpair():
    """What Python does where the system has no pairs: two ends of a connection to this machine."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        return ours, listening.accept()[0]


def process(*pid):
    """A process that tells its memory as psutil does on Windows."""
    import psutil

    found = psutil.Process(*pid)
    return found if pid else SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=PEAK))


REPLACED = {
    "sys": {"platform": "win32"},
    "socket": {"socketpair": socketpair},
    "psutil": {"Process": process},
}
views = {}
real_import = builtins.__import__


def shown(name):
    if name not in views:
        views[name] = View(importlib.import_module(name), MISSING.get(name, "").split(), REPLACED.get(name, {}))
    return views[name]


def importing(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__file__") or ""
    if "/src/visage/" not in importer and "/stages/" not in importer:
        return real_import(name, globals, locals, fromlist, level)
    if name in ABSENT:
        raise ModuleNotFoundError(f"No module named {name!r}, as on Windows", name=name)
    found = real_import(name, globals, locals, fromlist, level)
    return shown(name) if name in MISSING.keys() | REPLACED.keys() else found


builtins.__import__ = importing
