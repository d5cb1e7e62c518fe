"""Run what is out of date, as much at once as the machine has cores or GPUs, and let DVC have the last word."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from visage.config import CONFIGS, ReportConfig
from visage.errors import UserError
from visage.files import read_json
from visage.fork_server import ForkServer
from visage.pipeline import dvc
from visage.pipeline.display import Display, clock
from visage.pipeline.jobs import Job, start
from visage.pipeline.machine import slots
from visage.pipeline.plan import Plan

POLL_SECONDS = 0.2
PREVIEW_SHARE = 0.03
"""Of the time, at most, in which previews of the page are drawn."""
PREVIEW = "preview/index.html"


class Runner:
    """Runs the stages of a project.

    jobs: stages at once, 0 = as `machine.slots` finds right. devices: the number of GPUs.
    """

    def __init__(self, root: Path, jobs: int, devices: int) -> None:
        self.root, self.jobs, self.devices = root, jobs, devices
        needs = dvc.needs(root)
        self.last = [stage for stage in needs if not any(stage in needed for needed in needs.values())]
        """Those that no other needs; the `dvc repro` at the end runs them."""
        self.plan = Plan({k: v for k, v in needs.items() if k not in self.last}, expected_seconds(root, needs))
        self.display = Display(len(self.plan.needs))
        self.running: list[Job] = []
        self.changed: set[str] = set()
        self.ran: set[str] = set()
        """Stages that have run since DVC was asked what is out of date."""
        self.stopping: signal.Signals | None = None
        self.preview: subprocess.Popen[bytes] | None = None
        self.preview_started = self.preview_due = time.monotonic()

    def run(self) -> int:
        """Run everything; returns the exit status."""
        self.changed = dvc.out_of_date(self.root)
        if not self.changed:
            print("Everything is up to date.")
            return 0
        with self.display, self._listening(), closing(ForkServer()) as forks, self._leaving_none():
            if any(stage.startswith("train@") for stage in self.changed):
                forks.start()  # while there are no faces yet, most cores are idle
            while (self.running or self.plan.ready()) and not (self.stopping and not self.running):
                if not self.stopping:
                    self._fill()
                self._collect()
                self._draw()
                forks.start_if_asked()
                time.sleep(POLL_SECONDS)
        if self.preview is not None:
            self.preview.wait()
        if self.stopping:
            print("stopped: what was done is kept; run the same command again to continue", file=sys.stderr)
            return 128 + self.stopping
        if self.plan.failed:
            return self._complain()
        return self._last_word()

    def _fill(self) -> None:
        """Start what can start."""
        most = slots(self.root, self.jobs, self.devices)
        for stage in self.plan.ready(most):
            if stage not in self.changed and not self.plan.needs[stage] & self.ran:
                self.plan.started.add(stage)
                self.plan.done.add(stage)
                self.display.ended += 1
            elif len(self.running) < most:
                self.plan.started.add(stage)
                self.running.append(start(stage, self.root))
                return  # the order of the others may be another one now

    def _collect(self) -> None:
        """Take note of what has ended."""
        for job in [job for job in self.running if not job.process.is_alive()]:
            self.running.remove(job)
            if job.process.exitcode:
                self.plan.failed.add(job.stage)
                if not self.stopping:
                    self.display.end(job.stage, f"FAILED after {clock(job.seconds)}: {job.error}")
                continue
            self.plan.done.add(job.stage)
            self.ran.add(job.stage)
            self.plan.took(job.stage, job.seconds)
            self.display.end(job.stage, clock(job.seconds))
            # what reads its outputs may be up to date all the same; DVC can only tell while nothing runs
            if len(self.plan.readers[job.stage]) > 1 and not self.running:
                self.changed, self.ran = dvc.out_of_date(self.root), set()

    def _draw(self) -> None:
        """Show where things stand; now and then the page of what is finished so far."""
        left = self.plan.left({job.stage: job.seconds for job in self.running})
        self.display.show(self.running, left / max(1, len(self.running)))
        now = time.monotonic()
        if self.preview is not None and self.preview.poll() is not None:
            if self.preview.returncode == 0 and (self.root / PREVIEW).is_file():
                self.display.say(f"So far: {PREVIEW}")
            self.preview_due = now + (now - self.preview_started) / PREVIEW_SHARE
            self.preview = None
        measured = self.plan.deepest & self.plan.done & self.ran
        drawable = (self.root / CONFIGS / ReportConfig.FILE).is_file()
        if self.preview is None and drawable and measured and now >= self.preview_due and self.running:
            command = [sys.executable, "-m", "visage.pipeline.preview"]
            self.preview = subprocess.Popen(
                command, cwd=self.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
            )
            self.preview_started = now

    @contextmanager
    def _leaving_none(self) -> Iterator[None]:
        """Whatever happens, no stage goes on without its runner."""
        try:
            yield
        finally:
            for job in self.running:
                job.stop(signal.SIGINT)
            for job in self.running:
                job.process.join()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """On Ctrl-C or SIGTERM, tell the stages to save and end; at the second one, end them."""

        def stop(number: int, frame: object) -> None:
            first, self.stopping = self.stopping is None, signal.Signals(number)
            if first and not hasattr(os, "killpg"):
                return  # on Windows the console sends Ctrl-C to the stages, too
            how = signal.SIGINT if first else signal.SIGTERM
            for job in self.running:
                job.stop(how)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _complain(self) -> int:
        """Say what failed and what could not run."""
        for stage in self.plan.failed:
            print(f"error: {stage} failed; its log: .scratch/logs/{stage}.log", file=sys.stderr)
        if blocked := self.plan.blocked():
            print(f"not run, because they need what failed: {', '.join(blocked)}", file=sys.stderr)
        print("the other results are kept; run the same command again to continue", file=sys.stderr)
        return 1

    def _last_word(self) -> int:
        """A plain `dvc repro`, which finds nothing to run but the last stage: DVC agrees that all is done."""
        log = self.root / ".scratch" / "logs" / "repro.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            status = subprocess.run(
                dvc.command("repro"), cwd=self.root, stdout=output, stderr=subprocess.STDOUT, check=False
            ).returncode
        text = log.read_text(encoding="utf-8", errors="replace")
        if status:
            raise UserError(f"`dvc repro` failed: {dvc.last_error(text)}; its log: {log.relative_to(self.root)}")
        for stage in dvc.stages_that_ran(text):
            print(f"{stage}: done" if stage in self.last else f"{stage} ran again, which it should not have to")
        return status


def expected_seconds(root: Path, stages: Sequence[str] | Mapping[str, object]) -> dict[str, float]:
    """Seconds that trainings and evaluations took last time, by their costs in metrics/cost."""
    found = {}
    for stage in stages:
        kind, _, item = stage.partition("@")
        path = root / "metrics" / "cost" / kind / f"{item}.json"
        if path.is_file():
            found[stage] = float(read_json(path)["seconds"])
    return found
