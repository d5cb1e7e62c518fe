"""The side of training and evaluation: what happens is handed to the process that logs."""

import base64
import contextlib
import queue
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from visage.config import EvaluateConfig, RunConfig
from visage.errors import UserError
from visage.results import EvaluationCost, Results, TrainingCost
from visage.tracking.connection import connect, messages_file
from visage.tracking.events import (
    DONE,
    End,
    EvaluationFinished,
    Event,
    Image,
    Mode,
    Opening,
    Points,
    Standings,
    Status,
    TrainingFinished,
    encode,
    now,
)
from visage.tracking.identity import RunIdentity, origin
from visage.tracking.standings import Best
from visage.tracking.store import check_store, store_uri, tracking_is_off

ATTEMPTS = 3
"""How many processes a run is handed to, one after the other, if each is killed."""


def announce(root: Path, experiment: str, best: list[Best]) -> None:
    """Have MLflow's registry name the best runs, and wait for it; what goes wrong costs a line on stderr.

    root: the project's root (DVC_ROOT), which holds the default store. experiment: the name of the MLflow experiment.
    """
    if tracking_is_off() or not best:
        return
    try:
        check_store(store_uri(root))
        with connect(root) as connection:
            connection.sendall(encode(Standings(str(root.resolve()), experiment, best)))
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile(encoding="utf-8") as answer:
                told = answer.read() or "the process that logs was killed"
    except (UserError, OSError, AttributeError) as error:  # the last one where there are no Unix sockets
        told = str(error)
    if told != DONE:
        print(
            f"warning: MLflow's registry does not name the best runs ({told}); `python -m visage.tracking.sync` does",
            file=sys.stderr,
        )


class Tracker:
    """Hands what happens to the process that logs it. No method waits for MLflow, or fails because of it, but `close`.

    As a context manager it closes the run as finished, as failed with the reason when an error passes, and as killed
    after Ctrl-C or SystemExit (what SIGTERM becomes).
    """

    def __init__(self, opening: Opening | None) -> None:
        """Begin to open a run; None tracks nothing."""
        self._events: queue.SimpleQueue[Opening | Event] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._alive = opening is not None
        if opening is not None:
            self._events.put(opening)
            self._writer = threading.Thread(target=self._write, args=(Path(opening.root),), daemon=True)
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
        again: bool = False,
    ) -> Self:
        """Check the store, and begin to open the run without waiting for it. VISAGE_TRACKING=off tracks nothing.

        card: `data/processed/train/<label>.json`.
        root: the project's root (DVC_ROOT), which holds the default store.
        mode: training resumes or starts a run; evaluation joins it, or starts one where there is none, or where the one
            there is was measured with other settings.
        evaluate: the settings of an evaluation, parameters of the run.
        again: this very training was logged before, perhaps to its end; its run is gone on with, whatever its status.

        Raises:
            UserError: the store cannot be used, see `check_store`.
        """
        if tracking_is_off():
            return cls(None)
        check_store(store_uri(root))
        run = RunIdentity.of(config, card, evaluate)
        run = replace(run, tags=run.tags | origin(mode))
        return cls(Opening(str(root.resolve()), experiment, mode, now(), run, again))

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
        if self._writer is None:
            return
        self._put(End(status, reason))
        self._writer.join()

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

    def _write(self, root: Path) -> None:
        """The body of a thread: nothing must hold up the training while the other process imports MLflow."""
        try:
            answer = self._deliver(root)
        except Exception as error:  # whatever it is, the training is worth more
            answer = f"{type(error).__name__}: {error}"
        if answer != DONE:
            self._alive = False
            print(
                f"warning: MLflow logs no more of this run ({answer}); the work goes on, and "
                "`python -m visage.tracking.sync` adds later what is missing",
                file=sys.stderr,
            )

    def _deliver(self, root: Path) -> str:
        """Send all events; the answer of the process that logs. One that was killed is replaced, and told all again."""
        told: list[Opening | Event] = []
        for _ in range(ATTEMPTS):
            with connect(root) as connection:
                process = str(connection.getpeername())
                with contextlib.suppress(OSError):  # it ends the connection when it cannot go on, or was killed
                    self._tell(connection, told)
                with contextlib.suppress(OSError), connection.makefile(encoding="utf-8") as answer:
                    if text := answer.read():
                        return text
            told = [replace(event, again=True) if isinstance(event, Opening) else event for event in told]
        return f"the process that logs was killed {ATTEMPTS} times; {messages_file(Path(process))} holds its messages"

    def _tell(self, connection: socket.socket, told: list[Opening | Event]) -> None:
        """Send what has been told before, and then what happens, up to the end; `told` grows by it."""
        for event in told:
            connection.sendall(encode(event))
        while not (told and isinstance(told[-1], End)):
            told.append(self._events.get())
            connection.sendall(encode(told[-1]))
        connection.shutdown(socket.SHUT_WR)
