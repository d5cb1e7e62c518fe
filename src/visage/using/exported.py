"""What an exported folder says about itself, without PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visage.errors import UserError
from visage.files import Strict, read_typed

ABOUT = "export.json"
"""The file that tells an export from other folders, which are never replaced."""
Format = Literal["torch.export", "onnx"]
SUFFIXES: Mapping[Format, str] = {"torch.export": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True, slots=True)
class Program(Strict):
    """A file that holds one function.

    input, output: their names and shapes, such as x (batch, 3, 32, 32). difference: the largest from the model's own
        output on random inputs of another batch, over that output's largest value where that is above 1.
    """

    function: str
    format: Format
    file: str
    input: str
    output: str
    difference: float


@dataclass(frozen=True, slots=True)
class Export(Strict):
    """What an exported folder holds.

    weights: `visage.weights.weights_hash`. left_out: file -> why it could not be written.
    """

    version: Literal[1]
    run: str
    weights: str
    programs: list[Program]
    left_out: dict[str, str]


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, by its files."""
    return (folder / ABOUT).is_file()


def read_export(folder: Path) -> Export:
    """What an exported folder says that it holds.

    Raises:
        UserError: it is none, or damaged.
    """
    return read_typed(folder / ABOUT, Export, "export the model again")


def refuse_other(folder: Path) -> None:
    """Refuse a folder that exists, unless it is empty or an earlier export.

    Raises:
        UserError: it holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not is_export(folder):
        raise UserError(f"{folder} holds other files: name a new folder, an empty one or an earlier export")
