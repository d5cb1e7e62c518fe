"""Stages that run now, each in processes of its own."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visage.pipeline.dvc import last_error

TAIL = 4096
"""Bytes at the end of a log that hold its last progress bar."""
PERCENT = re.compile(rb"(\d{1,3})%\|")


@dataclass
class Job:
    """A stage that runs. log: all that it prints."""

    stage: str
    process: "subprocess.Popen[bytes]"
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
        return last_error(self.log.read_text(errors="replace"))

    def stop(self, how: signal.Signals) -> None:
        """Send a signal to all of its processes, as a terminal does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, how)


def start(stage: str, command: Sequence[str], root: Path) -> Job:
    """Start a stage; its output goes to `.scratch/logs`."""
    log = root / ".scratch" / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches it through `Job.stop` alone, once
        )
    return Job(stage, process, log)
