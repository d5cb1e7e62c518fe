"""Commands that give a model to others: as a folder, on a model hub, as a page in the browser."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visage.cli import output
from visage.cli.drawing import Device, Run, load

if TYPE_CHECKING:
    from visage.using.exported import Format


def export(
    run: Run,
    out: Annotated[Path, typer.Option("--output", "-o", help="The folder: a new one, or an earlier export.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Programs for ONNX runtimes as well.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Programs of torch.export as well.")] = False,
) -> None:
    """Write a folder with weights, figures and a model card, which works anywhere without this project's data.

    `visage.load` and all commands take it in the place of a run. Programs hold one function each (encode, decode,
    reconstruct, translate), need no Visage, and are compared with the model before the folder appears.

    Example: `visage export vae-64 -o exported/vae-64 --onnx`
    """
    from visage.using.export import export as write

    wanted: list[tuple[bool, Format]] = [(torch_export, "torch.export"), (onnx, "onnx")]
    about = write(run, out, [one for asked, one in wanted if asked])
    for program in about.programs:
        output.say(f"{program.file}: {program.input} -> {program.output}, differs by {program.difference:g} at most")
    for file, why in about.left_out.items():
        output.say(f"{file} is left out: {why}")
    output.wrote(out, f"{about.run}: weights, figures, model card and {len(about.programs)} programs")


def publish(
    source: Annotated[str, typer.Argument(metavar="FOLDER_OR_RUN", help="An exported folder, or a run.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only you see it.")] = False,
    to: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write PATH/OWNER/NAME instead; nothing is uploaded.")
    ] = None,
) -> None:
    """Upload a model to a Hugging Face hub, with its model card; a run is exported first, without programs.

    Weights that learnt from CelebA carry CelebA's terms; the card says so.

    Examples:
    `visage publish exported/vae-64 me/faces-vae-64 --private`

    `visage publish vae-64 me/faces-vae-64 --to preview`
    """
    from visage.using.publish import publish as upload
    from visage.using.publish import publish_to_folder

    if to is not None:
        output.wrote(publish_to_folder(source, repo, to), "what would be uploaded")
    else:
        print(upload(source, repo, private=private))


def demo(
    run: Run,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine; others cannot reach it.")] = 7860,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
    device: Device = "auto",
) -> None:
    """Serve a page to try a model: sliders over its codes, samples, your photographs. Ctrl-C ends it.

    Photographs stay on this machine, and are deleted when the page ends.

    Example: `visage demo vae-64`
    """
    from visage.using.demo import serve

    model = load(run, device)
    output.say(f"{model.name}: preparing the page; Ctrl-C ends it")
    serve(model, port, open_browser=open_, ready=print)


COMMANDS: tuple[Callable[..., None], ...] = (export, publish, demo)
