"""What a stage tells the process that logs: one event on each line, as JSON; the first one is an `Opening`.

The report's stage tells no events, but a `Standings` alone.

After the last one it answers: `DONE`, or a line that says why it could not go on.
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AllowInfNan, TypeAdapter

from visage.files import Strict
from visage.results import EvaluationCost, Results, TrainingCost
from visage.tracking.identity import RunIdentity
from visage.tracking.standings import Best

Mode = Literal["train", "evaluate"]
Status = Literal["FINISHED", "FAILED", "KILLED"]

DONE = "done"
"""The answer after an `End` when everything is logged."""


@dataclass(frozen=True, slots=True)
class Opening(Strict):
    """The run to be opened in the store of the project in `root`.

    time: when it began, in milliseconds. again: see `Tracker.open`.
    """

    root: str
    experiment: str
    mode: Mode
    time: int
    run: RunIdentity
    again: bool


@dataclass(frozen=True, slots=True)
class Standings(Strict):
    """The best runs of the project in `root`, which the registry of its store is to name."""

    root: str
    experiment: str
    best: list[Best]


@dataclass(frozen=True, slots=True)
class Points(Strict):
    """One point for each of several curves; `time` in milliseconds. A loss may be infinite or NaN."""

    time: int
    step: int
    values: dict[str, Annotated[float, AllowInfNan(True)]]


@dataclass(frozen=True, slots=True)
class Image(Strict):
    """One picture of a series; `png` is the file's content in base64."""

    key: str
    step: int
    png: str


@dataclass(frozen=True, slots=True)
class TrainingFinished(Strict):
    """The files of a training are complete in `folder`."""

    folder: str
    cost: TrainingCost


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Strict):
    """The files of an evaluation are complete in `folder`."""

    folder: str
    results: Results
    cost: EvaluationCost


@dataclass(frozen=True, slots=True)
class End(Strict):
    """Nothing comes after this event."""

    status: Status
    reason: str


Event = Points | Image | TrainingFinished | EvaluationFinished | End
"""The fields of an event tell which one it is."""


def encode(event: Opening | Standings | Event) -> bytes:
    """Write an event as a line of JSON. Values that are not finite are kept."""
    return json.dumps(asdict(event), default=float).encode() + b"\n"  # numbers of NumPy and PyTorch become floats


def decode_first(line: str) -> Opening | Standings:
    """Read the first line."""
    first: Opening | Standings = _adapter(Opening | Standings).validate_json(line)
    return first


def decode(line: str) -> Event:
    """Read any other line."""
    event: Event = _adapter(Event).validate_json(line)
    return event


def now() -> int:
    """The time in milliseconds, as MLflow counts it."""
    return time.time_ns() // 1_000_000


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
