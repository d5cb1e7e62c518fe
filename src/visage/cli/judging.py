"""Commands that measure: images under a model, folders of samples against real faces."""

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from visage.cli import output
from visage.cli.drawing import Aligned, Device, Files, Run, load, photos
from visage.cli.listing import Json
from visage.errors import UserError


def score(
    run: Run,
    files: Files,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="A CSV file; standard output without it.")] = None,
    aligned: Aligned = False,
    device: Device = "auto",
) -> None:
    """Score images: their likelihood under the model, and how unlike a face they are, as CSV.

    Columns: file; log_prob (exact), elbo (a lower bound) or log_prob_estimate, in nats of the 8-bit image, and
    bits_per_dim; each score of the model (higher is less like a face) and its percentile among held-out faces.

    Example: `visage score glow-32 photos/ -o scores.csv`
    """
    from visage.files import write_text
    from visage.using.photos import listed
    from visage.using.scores import rows

    if out is not None:
        output.suffix(out, (".csv",))
    model = load(run, device)
    names = [file.as_posix() for file in listed(files)]
    found = rows(model, names, photos(model, files, aligned))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    if out is None:
        print(text.getvalue(), end="")
    else:
        write_text(out, text.getvalue())
        output.wrote(out, f"{len(found)} images under {model.name}")


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, from any project.")],
    size: Annotated[
        int | None, typer.Option(help="Image size to judge at, in pixels; by default the images' own.")
    ] = None,
    inception: Annotated[
        str | None, typer.Option(help="Weights of Inception for FID and KID: a file, or download.")
    ] = None,
    dinov2: Annotated[
        bool, typer.Option("--dinov2", help="FD_DINOv2 as well; downloads the network's code and weights.")
    ] = False,
    join: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show it under this name on the page, beside the runs.")
    ] = None,
    json: Json = False,
    device: Device = "auto",
) -> None:
    """Judge a folder of samples by the measures of the page, against the same test faces.

    The distances of all runs use the same number of samples; where the folder has fewer, a note says so. Needs
    `data/attribute_network` and `data/reference` of this project, which `dvc repro reference` makes.

    Examples:
    `visage evaluate samples/ --size 32`

    `visage evaluate samples/ --join their-ddpm && dvc repro report`
    """
    from visage.measures.table import BY_KEY
    from visage.report.wording import WRITE
    from visage.using.judge import join as join_page
    from visage.using.judge import judge_folder, own_size
    from visage.using.photos import listed

    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that holds the samples")
    size = size or own_size(listed([folder])[0])
    found = judge_folder(folder, size, inception=inception, dinov2=dinov2, device=device)
    if join is not None:
        output.say(f"wrote {join_page(folder, join, size, found)}; `dvc repro report` shows it on the page")
    if json:
        output.as_json([record.as_dict() for record in found])
        return
    lines = []
    for figure in found:
        title = BY_KEY[figure.metric].title if figure.metric in BY_KEY else figure.metric
        words = WRITE[BY_KEY[figure.metric].format] if figure.metric in BY_KEY else WRITE["significant"]
        interval = f"{words(figure.ci95[0])} to {words(figure.ci95[1])}" if figure.ci95 else ""
        lines.append(
            (title, "–" if figure.value is None else words(figure.value), interval, str(figure.n), figure.note)
        )
    output.table(("figure", "value", "95 % interval", "images", "note"), lines)


COMMANDS = (score, evaluate)
