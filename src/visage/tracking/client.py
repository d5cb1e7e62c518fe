"""The side of training and evaluation: what happens is handed to the process that logs."""

import base64
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from visage.config import EvaluateConfig, RunConfig
from visage.errors import UserError
from visage.results import EvaluationCost, Results, TrainingCost
from visage.tracking.events import (
    End,
    EvaluationFinished,
    Event,
    Image,
    Mode,
    Opening,
    Points,
    Status,
    TrainingFinished,
    encode,
    now,
)
from visage.tracking.identity import RunIdentity
from visage.tracking.store import check_store, store_uri, tracking_is_off

PROCESS = (sys.executable, "-m", "visage.tracking.process")
SOURCE = Path(__file__).parents[2]


class Tracker:
    """Hands what happens to the process that logs it. No method waits for MLflow, or fails because of it, but `close`.

    As a context manager it closes the run as finished, as failed with the reason when an error passes, and as killed
    after Ctrl-C or SystemExit (what SIGTERM becomes).
    """

    def __init__(self, command: Sequence[str] | None) -> None:
        """Start the process that logs.

        command: None tracks nothing.
        """
        self._events: queue.SimpleQueue[Opening | Event | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._alive = command is not None
        if command is None:
            return
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        paths = [str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._messages,
            stderr=self._messages,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the training; the end of the pipe ends this process
        )
        self._writer = threading.Thread(target=self._write, args=(self._process,), daemon=True)
        self._writer.start()

    @classmethod
    def open(
        cls,
        config: RunConfig,
        card: Mapping[str, Any],
        *,
        root: Path,
        experiment: str,
        mode: Mode,
        evaluate: EvaluateConfig | None = None,
    ) -> Self:
        """Check the store, and begin to open the run without waiting for it. VISAGE_TRACKING=off tracks nothing.

        card: `data/processed/train/<label>.json`.
        root: the project's root (DVC_ROOT), which holds the default store.
        mode: training resumes or starts a run; evaluation joins it, or starts one where there is none, or where the one
            there is was measured with other settings.
        evaluate: the settings of an evaluation, parameters of the run.

        Raises:
            UserError: the store cannot be used, see `check_store`.
        """
        if tracking_is_off():
            return cls(None)
        check_store(store_uri(root))
        tracker = cls(PROCESS)
        tracker._put(Opening(str(root.resolve()), experiment, mode, now(), RunIdentity.of(config, card, evaluate)))
        return tracker

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves. Steps that a curve has already, from before a kill, are left out."""
        self._put(Points(now(), step, dict(values)))

    def image(self, key: str, path: Path, step: int) -> None:
        """Add a PNG file to a series that MLflow shows with a slider over the steps."""
        if self._alive:
            self._put(Image(key, step, base64.b64encode(path.read_bytes()).decode()))

    def finish_training(self, folder: Path, cost: TrainingCost) -> None:
        """Log what training wrote.

        folder: `runs/<name>/train`.
        """
        self._put(TrainingFinished(str(folder.resolve()), cost))

    def finish_evaluation(self, folder: Path, results: Results, cost: EvaluationCost) -> None:
        """Log what evaluation found and wrote.

        folder: `runs/<name>/evaluate`. The training's files beside it are logged too where MLflow lacks them, because
            the run was trained elsewhere or taken from DVC's cache.
        """
        self._put(EvaluationFinished(str(folder.resolve()), results, cost))

    def close(self, status: Status, reason: str = "") -> None:
        """Wait until everything is logged, and end the run."""
        if self._process is None:
            return
        self._put(End(status, reason))
        self._events.put(None)
        self._writer.join()
        if self._process.wait() != 0 and self._alive:
            self._give_up()
        self._messages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("FINISHED")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self.close("KILLED", f"{type(error).__name__} {error}".strip())
        else:
            self.close("FAILED", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")

    def _put(self, event: Opening | Event) -> None:
        if self._alive:
            self._events.put(event)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """The body of a thread: a full pipe must not hold up the training while the other process imports MLflow."""
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                while (event := self._events.get()) is not None:
                    pipe.write(encode(event))
                    pipe.flush()
        except OSError:  # the process is gone
            process.wait()
            self._give_up()

    def _give_up(self) -> None:
        self._alive = False
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        why = next((line for line in reversed(lines) if line.strip()), "its process was killed")
        print(
            f"warning: MLflow logs no more of this run ({why}); the work goes on, and `python -m visage.tracking.sync` "
            "adds later what is missing",
            file=sys.stderr,
        )
