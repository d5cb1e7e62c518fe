"""`python -m visage.tracking.process`: the process that logs the runs of all stages that connect to it."""

import base64
import contextlib
import queue
import socket
import textwrap
import threading
import time
import traceback
from pathlib import Path

from visage.errors import UserError
from visage.redaction import redact, redact_streams
from visage.results import Training, read
from visage.tracking.connection import Listener
from visage.tracking.events import (
    DONE,
    End,
    EvaluationFinished,
    Event,
    Image,
    Opening,
    Points,
    Standings,
    TrainingFinished,
    decode,
    decode_first,
    encode,
)
from visage.tracking.log import RunLog, Store
from visage.tracking.record import record_evaluation, record_training
from visage.tracking.registry import set_aliases
from visage.tracking.seeds import group_seeds

IDLE_SECONDS = 30.0
"""How long the process waits for the next stage."""
LOOK_SECONDS = 1.0
"""The time between two looks at whether it is still needed."""
GATHER_SECONDS = 2.0
"""Events are logged together that arrive within this time."""
SYSTEM_SECONDS = {"demo": 5, "full": 10}
"""The time between two measurements of the machine, by scale."""

_opening = threading.Lock()
"""Two threads that import MLflow at once, or create the tables of one database, can harm each other."""


def main() -> None:
    """Serve the stages that connect to the socket that is this process's standard input."""
    redact_streams()  # before MLflow is imported, whose log keeps the stream that it finds
    with socket.socket(fileno=0) as listening:
        serve(Listener(listening), IDLE_SECONDS)


def serve(listener: Listener, idle_seconds: float) -> None:
    """Log the run of every stage that connects, in a thread of its own, until none has been there for some seconds."""
    runs: list[threading.Thread] = []
    last = time.monotonic()
    while True:
        stage = listener.accept(min(LOOK_SECONDS, idle_seconds))
        if runs:
            last = time.monotonic()
        runs = [run for run in runs if run.is_alive()]
        if stage is None and not runs and (time.monotonic() - last >= idle_seconds or listener.is_lost()):
            stage = listener.withdraw()
            if stage is None:
                return
        if stage is not None:
            runs.append(threading.Thread(target=log_run, args=(stage,), daemon=True))
            runs[-1].start()


def log_run(stage: socket.socket) -> None:
    """Log the events that a stage sends, one JSON object per line, the first of which says which run.

    The answer is `DONE` after the last event, or else a line that says why there is no more to be found in MLflow.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    ended = threading.Event()
    reader = threading.Thread(target=_read, args=(stage, lines, ended), daemon=True)
    reader.start()
    try:
        first = decode_first(lines.get())
        if isinstance(first, Standings):
            set_aliases(_open(first), first.best)
        else:
            _log(first, lines, ended)
        answer = DONE
    except Exception as error:  # it is this run's, and the others go on
        traceback.print_exc()
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        answer = textwrap.shorten(redact(told), 600, placeholder=" ...")
    with stage, contextlib.suppress(OSError):  # the stage was killed
        stage.sendall(answer.encode())
        stage.shutdown(socket.SHUT_RDWR)  # which ends the reader too
    reader.join()


def _read(stage: socket.socket, lines: "queue.SimpleQueue[str]", ended: threading.Event) -> None:
    """The body of a thread: read until the stage has nothing left to say, or dies, perhaps in mid-line."""
    with contextlib.suppress(OSError), stage.makefile(encoding="utf-8") as events:
        for line in events:
            if line.endswith("\n"):
                lines.put(line)
    ended.set()
    lines.put(encode(End("KILLED", "the process died")).decode())


def _open(first: Opening | Standings) -> Store:
    with _opening:
        return Store(Path(first.root), first.experiment)


def _log(opening: Opening, lines: "queue.SimpleQueue[str]", ended: threading.Event) -> None:
    store = _open(opening)
    with _opening:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    open_run = store.resume if opening.mode == "train" and not opening.again else store.join
    log = open_run(opening.run, opening.time)
    if not log.new:
        log.reopen()

    monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        log.run_id,
        sampling_interval=SYSTEM_SECONDS[opening.run.scale],
        resume_logging=not log.new,
        tracking_uri=store.uri,
    )
    monitor.start()  # type: ignore[no-untyped-call]
    try:
        end = _log_events(log, lines, ended)
    except BaseException:
        threading.Thread(target=monitor.finish, daemon=True).start()  # which may wait for a store that is gone
        raise
    monitor.finish()  # type: ignore[no-untyped-call]
    log.end(end.status, end.reason)
    group_seeds(store, opening.run)


def _log_events(log: RunLog, lines: "queue.SimpleQueue[str]", ended: threading.Event) -> End:
    while True:
        gathered = _gather(lines, ended)
        log.points((event.time, event.step, event.values) for event in gathered if isinstance(event, Points))
        for event in gathered:
            if isinstance(event, End):
                return event
            _record(log, event)


def _gather(lines: "queue.SimpleQueue[str]", ended: threading.Event) -> list[Event]:
    """Wait for an event, then a little for more."""
    gathered = [lines.get()]
    ended.wait(GATHER_SECONDS)
    while not lines.empty():
        gathered.append(lines.get())
    return [decode(line) for line in gathered]


def _record(log: RunLog, event: Event) -> None:
    match event:
        case Image(key, step, png):
            log.image(key, base64.b64decode(png), step)
        case TrainingFinished(folder, cost):
            record_training(log, Path(folder), cost)
        case EvaluationFinished(folder, results, cost):
            trained = Path(folder).parent / "train"
            model_id, size = record_training(log, trained, None), read(trained / "run.json", Training).config.size
            record_evaluation(log, Path(folder), size, model_id, results, cost, replace=True)


if __name__ == "__main__":
    main()
