"""What a task of a cluster does in its clone of the project, each step by DVC, until it is done or told to stop."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from visage.config import CONFIGS, ReportConfig
from visage.errors import UserError
from visage.pipeline import dvc
from visage.pipeline.clone import is_prepared, note_prepared
from visage.pipeline.display import clock

POLL_SECONDS = 0.2
NOTICE_SECONDS = 1.0
"""Slurm signals every process of a job, and the second signal ends a training in the middle of a step. Within this time
it shows whether DVC, which a SIGTERM ends at once, has been told as well."""


class StoppedError(Exception):
    """A signal asked the task to stop, and all that ran has ended."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: what was done is kept; run it again to continue")
        self.number = number


class Task:
    """Commands of DVC in one clone, one after the other; several tasks may use a clone at once.

    Create it in the main thread: it listens for SIGINT and SIGTERM from then on. It needs locks that a process hands
    down to those that it starts, and groups of processes, which Windows lacks.

    Raises:
        UserError: DVC cannot read the project, or the system is Windows.
    """

    def __init__(self, root: Path) -> None:
        if not hasattr(os, "killpg"):
            raise UserError("tasks of a cluster need Linux or macOS: on Windows, use `python -m visage.pipeline`")
        self.root = root
        self.signals: list[int] = []
        self.locks: list[IO[bytes]] = []
        self.listen()
        self.pull = ["--pull"] if dvc.default_remote(root) else []

    def listen(self) -> None:
        """Note SIGINT and SIGTERM, instead of obeying them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda got, frame: self.signals.append(got))
        # Ray starts its workers with SIGINT blocked, and a stage would inherit that
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))

    def prepare(self) -> None:
        """Have all that every training and evaluation needs, once for each clone.

        Raises:
            UserError: a stage fails.
            StoppedError: by a signal.
        """
        with self._alone("prepare"):
            if is_prepared(self.root):
                return
            self.command("reference", "repro", *self.pull, "reference")
            self._push("reference", "--with-deps", "reference")
            note_prepared(self.root)

    def run(self, name: str) -> None:
        """Train and measure one run with one seed, and push what it made where there is a default remote.

        Raises:
            UserError: there is no such run, or a stage fails.
            StoppedError: by a signal.
        """
        self.prepare()
        if name not in names(self.root):
            raise UserError(f"params.yaml has no run {name}: `python -m visage.pipeline.one --list` names them")
        with self._alone(name):
            for stage in (f"train@{name}", f"evaluate@{name}"):
                self.command(stage, "repro", "--single-item", *self.pull, stage)
            self._push(name, f"train@{name}", f"evaluate@{name}")

    def names_out_of_date(self) -> list[str]:
        """The runs with their seeds that are still to be trained or measured, as far as this clone knows.

        Raises:
            UserError: a stage fails.
            StoppedError: by a signal.
        """
        self.prepare()
        stages = dvc.out_of_date(self.root)
        return [name for name in names(self.root) if {f"train@{name}", f"evaluate@{name}"} & stages]

    def command(self, title: str, *words: str) -> str:
        """Run `dvc ...` to its end; its output, which is returned, goes to `.scratch/logs`.

        Raises:
            UserError: it fails.
            StoppedError: by a signal.
        """
        self._raise_if_stopped()
        # clones on several machines may share one .scratch, so that a training can go on elsewhere
        log = Path(".scratch") / "logs" / f"{title}.{platform.node()}.log"
        started = time.monotonic()
        process = _start(dvc.command(*words), self.root, self.root / log, self.locks)
        told = 0
        while process.poll() is None or (_interrupted(process, told) and _group_lives(process.pid)):
            if len(self.signals) > told:
                _stop(process, again=told > 0)
                told += 1
            time.sleep(POLL_SECONDS)
        self._raise_if_stopped()
        text = (self.root / log).read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            raise UserError(f"{title} failed: {dvc.last_error(text)}; its log: {log}")
        print(f"{title}: done in {clock(time.monotonic() - started)}; its log: {log}", file=sys.stderr, flush=True)
        return text

    def _push(self, title: str, *targets: str) -> None:
        if self.pull:
            self.command(f"push-{title}", "push", "--run-cache", *targets)

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        """Let no other task in this clone do the same at the same time, nor while a stage of a killed one ends."""
        path = self.root / "data" / f".{what}.lock"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as lock:
            waiting = False
            while not _taken(lock):
                self._raise_if_stopped()
                if not waiting:
                    print(
                        f"{what}: waiting for another task in this clone that does the same",
                        file=sys.stderr,
                        flush=True,
                    )
                    waiting = True
                time.sleep(POLL_SECONDS)
            self.locks.append(lock)
            yield
            self.locks.remove(lock)

    def _raise_if_stopped(self) -> None:
        if self.signals:
            raise StoppedError(self.signals[0])


def names(root: Path) -> tuple[str, ...]:
    """The runs of a prepared clone with their seeds, such as vae-32-0.

    Raises:
        UserError: the clone is not prepared.
    """
    return ReportConfig.load(root / CONFIGS).runs


def _taken(lock: IO[bytes]) -> bool:
    """Take the lock of a file, if it is free. It is held until no process has this file open any more."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(command: Sequence[str], root: Path, log: Path, locks: Sequence[IO[bytes]]) -> "subprocess.Popen[bytes]":
    """Start a command that ends with this process, even if that is killed, and until then holds its locks."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "visage.pipeline.leash", *command],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno() for lock in locks],
            process_group=0,  # a signal reaches the stage through `_stop` alone
        )


def _stop(process: "subprocess.Popen[bytes]", again: bool) -> None:
    """Tell the stage to save and end, as Ctrl-C does, which DVC leaves to it; or again, to end at once."""
    if not again:
        time.sleep(NOTICE_SECONDS)
        if process.poll() is not None:
            return  # the signal went to all, and the stage has it
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if again else signal.SIGINT)


def _interrupted(process: "subprocess.Popen[bytes]", told: int) -> bool:
    """Whether DVC may have ended before the stage that it ran."""
    return told > 0 or process.returncode < 0


def _group_lives(group: int) -> bool:
    """Whether a process of a group still runs."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
