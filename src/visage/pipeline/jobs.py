"""Stages that run now, each in processes of its own."""

import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from visage.pipeline.dvc import last_error

FORKING = sys.platform == "linux"
PROCESSES: Any = multiprocessing.get_context("forkserver" if FORKING else "spawn")
"""DVC takes a second to import: one process does, and forks for each stage where the libraries stand a fork."""
if FORKING:  # names that a DVC lacks are passed over
    PROCESSES.set_forkserver_preload(
        ["visage.pipeline.run", "dvc.cli.parser", "dvc.repo.reproduce", "dvc.rwlock", "ruamel.yaml"]
    )

TAIL = 4096
"""Bytes at the end of a log that hold its last progress bar."""
PERCENT = re.compile(rb"(\d{1,3})%\|")


@dataclass
class Job:
    """A stage that runs. log: all that it prints."""

    stage: str
    process: BaseProcess
    log: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    @property
    def percent(self) -> int | None:
        """How far its progress bar is; None before it has one."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - TAIL))
            found = PERCENT.findall(log.read())
        return int(found[-1]) if found else None

    @property
    def error(self) -> str:
        """Why it failed, in one line."""
        return last_error(self.log.read_text(encoding="utf-8", errors="replace"))

    def stop(self, how: signal.Signals) -> None:
        """Send a signal to all of its processes, as a terminal does; end them on Windows, where none can be sent."""
        if not self.process.is_alive() or not self.process.pid:
            return
        if not hasattr(os, "killpg"):
            end_family(self.process.pid)
            return
        with suppress(ProcessLookupError):  # it has ended by now
            try:
                os.killpg(self.process.pid, how)
            except ProcessLookupError:  # it has begun by now, and has no others
                os.kill(self.process.pid, how)


def end_family(pid: int) -> None:
    """End a process and all that it has started, at once: what it has saved is all that is kept."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def start(stage: str, root: Path) -> Job:
    """Have DVC run one stage, if it is out of date, and none of those before it; its output goes to `.scratch/logs`."""
    log = root / ".scratch" / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    process = PROCESSES.Process(target=be_dvc, args=(root, log, "--wait-for-lock", "repro", "--single-item", stage))
    process.start()
    return Job(stage, process, log)


def be_dvc(root: Path, log: Path, *words: str) -> None:
    """Be `python -m dvc` with these arguments. Signals come by `Job.stop` alone, but for Ctrl-C on Windows."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(root)
    sys.argv = ["dvc", *words]
    runpy.run_module("dvc", run_name="__main__", alter_sys=True)
