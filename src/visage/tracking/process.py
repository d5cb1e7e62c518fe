"""`python -m visage.tracking.process`: the process that logs the events which arrive on stdin."""

import base64
import os
import queue
import sys
import textwrap
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

from visage.results import Training, read
from visage.tracking.events import (
    End,
    EvaluationFinished,
    Event,
    Image,
    Points,
    TrainingFinished,
    decode,
    decode_opening,
    encode,
)
from visage.tracking.identity import origin
from visage.tracking.log import RunLog, Store
from visage.tracking.record import record_evaluation, record_training

GATHER_SECONDS = 2.0
"""Events are logged together that arrive within this time."""
SYSTEM_SECONDS = {"demo": 5, "full": 10}
"""The time between two measurements of the machine, by scale."""


def main() -> None:
    """Log the events that arrive on stdin, one JSON object per line; the first says which run."""
    sys.excepthook = _report
    opening = decode_opening(sys.stdin.readline())
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_read, args=(sys.stdin, lines, ended), daemon=True).start()

    store = Store(Path(opening.root), opening.experiment)
    open_run = store.resume if opening.mode == "train" else store.join
    log = open_run(opening.run, opening.time)
    log.tags(origin(opening.mode))
    if not log.new:
        log.reopen()

    from mlflow import set_tracking_uri
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    set_tracking_uri(store.uri)  # where the monitor writes
    monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        log.run_id, sampling_interval=SYSTEM_SECONDS[opening.run.scale], resume_logging=not log.new
    )
    monitor.start()  # type: ignore[no-untyped-call]
    while True:
        gathered = _gather(lines, ended)
        log.points((event.time, event.step, event.values) for event in gathered if isinstance(event, Points))
        for event in gathered:
            if isinstance(event, End):
                monitor.finish()  # type: ignore[no-untyped-call]
                log.end(event.status, event.reason)
                return
            _record(log, event)


def _read(pipe: IO[str], lines: "queue.SimpleQueue[str]", ended: threading.Event) -> None:
    """The body of a thread: read until the other side has nothing left to say, or dies, perhaps in mid-line."""
    for line in pipe:
        if line.endswith("\n"):
            lines.put(line)
    ended.set()
    lines.put(encode(End("KILLED", "the process died")).decode())


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
            record_training(log, trained, None)
            step = read(trained / "run.json", Training).steps
            record_evaluation(log, Path(folder), step, results, cost, replace=True)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as one short line, the last that this process prints; `Tracker` shows it."""
    print(textwrap.shorten(f"{kind.__name__}: {error}", 200, placeholder=" ..."), file=sys.stderr, flush=True)
    os._exit(1)  # without waiting for threads that still read or measure


if __name__ == "__main__":
    main()
