"""What a model can do as pure functions of tensors, as programs that run without this project's code.

Two formats: `torch.export` programs (.pt2), for PyTorch from Python and C++, and ONNX, for every other runtime. A
program takes float32 with any number of rows, images (B, 3, S, S) in [-1, 1] and codes (B, D), as `visage.models.base`
has them.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from visage.errors import UserError
from visage.maths.streams import torch_generator
from visage.models.base import Decodes, Encodes, GenerativeModel, Reconstructs, Translates, can
from visage.using.exported import SUFFIXES, Format, Program

TOLERANCE = 1e-4
"""Largest difference from the model's own output, over its largest value where that is above 1."""
TRACED, TRIED = 2, 5
"""Rows of the input that a program is made with, and of those that it is tried with."""
UNTRACEABLE = (RuntimeError, ValueError, TypeError, AssertionError)
"""What PyTorch's exporters raise where a function is none that they know how to write down."""
OPSET = 20
"""Of ONNX: the one of 2023, which onnxruntime reads since version 1.17."""


class Function(nn.Module):
    """One function of a model, as a module.

    name: of the file. takes, gives: x or z, for an image or a code. model: under which its weights are stored.
    """

    def __init__(
        self, name: str, takes: str, gives: str, model: GenerativeModel, call: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.name, self.takes, self.gives, self.model, self.call = name, takes, gives, model, call

    def forward(self, values: Tensor) -> Tensor:
        return self.call(values)


def functions(model: GenerativeModel) -> list[Function]:
    """What the model can do as a function of one tensor, without randomness."""
    found = []
    if isinstance(model, Encodes) and can(model, Encodes):
        found.append(Function("encode", "x", "z", model, model.encode))
    if isinstance(model, Decodes) and can(model, Decodes):
        found.append(Function("decode", "z", "x", model, model.decode))
    if isinstance(model, Reconstructs) and can(model, Reconstructs):
        found.append(Function("reconstruct", "x", "x", model, model.reconstruct))
    if isinstance(model, Translates) and can(model, Translates):
        for index, domain in enumerate(model.domains):
            found.append(Function(f"translate_to_{domain}", "x", "x", model, _translation(model, index)))
    return [function.eval() for function in found]


def _translation(model: Translates, index: int) -> Callable[[Tensor], Tensor]:
    return lambda x: model.translate(x, index)


def inputs(function: Function, size: int, rows: int, seed: int) -> Tensor:
    """Random inputs: codes of the prior, or images of noise in [-1, 1]."""
    generator = torch_generator(seed, "inputs of a program")
    if function.takes == "z" and isinstance(function.model, Decodes):
        return function.model.prior(rows, generator)
    return torch.rand(rows, 3, size, size, generator=generator) * 2 - 1


def needs(formats: list[Format]) -> None:
    """Refuse what cannot be written here, before anything is computed.

    Raises:
        UserError: the packages for ONNX are not installed.
    """
    if "onnx" in formats:
        try:
            for package in ("onnx", "onnxscript", "onnxruntime"):
                import_module(package)
        except ImportError as error:
            raise UserError(f"ONNX files need the package {error.name}: `uv sync --extra onnx`") from error


def save_programs(
    model: GenerativeModel, size: int, folder: Path, formats: list[Format]
) -> tuple[list[Program], dict[str, str]]:
    """Write every function of the model in the formats, and try each file.

    model: on the CPU, in eval mode.

    Returns:
        The files, and by the name of each that could not be written why not.

    Raises:
        UserError: a program computes something else than the model.
    """
    written: list[Program] = []
    left_out: dict[str, str] = {}
    for function in functions(model) if formats else ():
        try:
            with _silent():
                traced = _traced(function, size)
        except UNTRACEABLE as error:
            why = f"PyTorch cannot trace it: {_why(error)}"
            left_out |= {function.name + SUFFIXES[one]: why for one in formats}
            continue
        for one in formats:
            path = folder / (function.name + SUFFIXES[one])
            try:
                with _silent():
                    _save(traced, function, one, path)
            except UNTRACEABLE as error:
                left_out[path.name] = f"ONNX cannot express it: {_why(error)}"
                continue
            written.append(_tried(function, size, one, path))
    return written, left_out


@contextmanager
def _silent() -> Iterator[None]:
    """Without what PyTorch's exporters say to those who develop them; each file is tried afterwards."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@torch.no_grad()
def _traced(function: Function, size: int) -> ExportedProgram:
    """The function as a graph of PyTorch's operations, for any number of rows.

    First as Python runs it, then, since some code asks for `len(x)`, by reading its bytecode, which takes longer.
    """
    example, rows = (inputs(function, size, TRACED, seed=0),), ({0: Dim("batch")},)
    try:
        traced = torch.export.export(function, example, dynamic_shapes=rows, strict=False)
    except GuardOnDataDependentSymNode:
        raise
    except UNTRACEABLE:
        traced = torch.export.export(function, example, dynamic_shapes=rows, strict=True)
    for part in traced.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # it names files of this machine
    return traced


def _save(traced: ExportedProgram, function: Function, one: Format, path: Path) -> None:
    if one == "torch.export":
        torch.export.save(traced, path)
        return
    gives = "out" if function.gives == function.takes else function.gives
    written = torch.onnx.export(
        traced,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[function.takes],
        output_names=[gives],
        dynamic_shapes=({0: "batch"},),
    )
    assert written is not None  # it is where no file is named
    written.save(path)


@torch.no_grad()
def _tried(function: Function, size: int, one: Format, path: Path) -> Program:
    """The file's description, from trying it on other inputs than it was made with."""
    given = inputs(function, size, TRIED, seed=1)
    expected, got = function(given), run_program(path, given)
    if got.shape != expected.shape:
        raise UserError(f"{path.name} gives {tuple(got.shape)}, not {tuple(expected.shape)}: leave out that format")
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path.name} differs from the model by {difference:.2g}, more than {TOLERANCE:g}: leave out that format"
        )
    return Program(
        function=function.name,
        format=one,
        file=path.name,
        input=_shape(function.takes, given),
        output=_shape(function.gives, expected),
        difference=float(f"{difference:.2g}"),
    )


def run_program(path: Path, given: Tensor) -> Tensor:
    """What the program in a file answers to an input, on the CPU."""
    if path.suffix == SUFFIXES["torch.export"]:
        answer: Tensor = torch.export.load(path).module()(given)
        return answer
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    return torch.from_numpy(found)


def _shape(name: str, values: Tensor) -> str:
    return f"{name} ({', '.join(['batch', *map(str, values.shape[1:])])})"


def _why(error: BaseException) -> str:
    """What the exporter could not do: the first line of the innermost cause, short, or plainer words for it."""
    if isinstance(error, GuardOnDataDependentSymNode):
        return "it chooses its steps by numbers that it computes on the way"
    while error.__cause__ is not None:
        error = error.__cause__
    first, *_ = str(error).strip().split("\n")
    return first[:120] or type(error).__name__
