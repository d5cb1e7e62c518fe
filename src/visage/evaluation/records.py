"""One measured figure, or the reason why there is none."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from visage.files import read_json, write_json
from visage.models.base import GenerativeModel, reason

Kind = Literal["exact", "upper_bound", "lower_bound", "estimate", "undefined"]
SQUARED_ERROR = "squared error, pixels in [0, 1]"
BITS_PER_DIM = "bits/dim"


@dataclass(frozen=True, slots=True)
class Record:
    """A figure together with everything that is needed to judge it.

    value: None exactly where kind is "undefined"; `note` then holds the reason.
    kind: exact: computed as defined, on these images; upper_bound, lower_bound: of the quantity named; estimate: with
        random draws of its own behind it. Only figures of one kind may be ranked against each other.
    n: images behind it.
    ci95: bootstrap interval over these images, None where there is none.
    data_hash, model_hash: what was measured on, and what was measured.
    """

    name: str
    value: float | None
    unit: str
    kind: Kind
    n: int
    ci95: tuple[float, float] | None
    note: str
    data_hash: str
    model_hash: str

    def __post_init__(self) -> None:
        """Refuse values that JSON and tables cannot hold, and gaps without a reason."""
        if (self.value is None) != (self.kind == "undefined"):
            raise ValueError(f"record {self.name}: kind {self.kind} does not go with value {self.value}")
        if self.value is None and not self.note:
            raise ValueError(f"record {self.name}: an undefined figure needs its reason in the note")
        if not all(math.isfinite(number) for number in (self.value or 0.0, *(self.ci95 or ()))):
            raise ValueError(f"record {self.name}: value {self.value}, interval {self.ci95} must be finite")


def undefined(name: str, unit: str, reason: str, *, data_hash: str, model_hash: str) -> Record:
    """The record of a figure that does not exist, and why."""
    return Record(name, None, unit, "undefined", 0, None, reason, data_hash, model_hash)


def save_records(path: Path, records: Sequence[Record]) -> None:
    """Write a JSON list of records."""
    write_json(path, [asdict(record) for record in records])


def load_records(path: Path) -> list[Record]:
    """Read what `save_records` wrote."""
    return [Record(**raw | {"ci95": tuple(raw["ci95"]) if raw["ci95"] else None}) for raw in read_json(path)]


def why_not(model: GenerativeModel, *capabilities: type, otherwise: str) -> str:
    """Why the model has none of these capabilities, in words for a table; `otherwise` where it does not say."""
    return next((why for capability in capabilities if (why := reason(model, capability))), otherwise)


def model_hash(model: nn.Module) -> str:
    """Hex digest of the names, types, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
