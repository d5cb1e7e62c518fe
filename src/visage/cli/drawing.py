"""Commands that draw pictures: from nothing, from photographs, from a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visage.cli import output
from visage.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from visage.using.loaded import LoadedModel

    Pixels = NDArray[np.uint8]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FILMS = (".gif", ".mp4")
COLUMNS = 16
"""Photographs side by side; more of them go on below."""
STRENGTHS = 5
"""Columns of `visage edit`: from the reconstruction to the full strength."""

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run, such as vae-64-0 or vae-64, or a folder.")]
Files = Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Photographs, or folders of them.")]
Out = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same images.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a setting of the model; may be repeated."),
]
Aligned = Annotated[
    bool, typer.Option("--aligned", help="The photos are CelebA's aligned 178x218 images: cut them as in training.")
]


def load(run: str, device: str, settings: Sequence[str] | None = None) -> "LoadedModel":
    """Load a model as a command names it; importing PyTorch takes seconds, so this comes last."""
    changed = dict(_setting(text) for text in settings or ())
    import visage

    loaded: LoadedModel = visage.load(run, device=device, settings=changed)
    return loaded


def _setting(text: str) -> tuple[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UserError(f"--set {text}: write KEY=VALUE, such as sampling_steps=100")
    try:
        return key, YAML(typ="safe").load(value)
    except YAMLError as error:
        raise UserError(f"--set {text}: the value cannot be read: write KEY=VALUE as in params.yaml") from error


def photos(model: "LoadedModel", files: Sequence[Path], aligned: bool) -> "Pixels":
    """The photographs as the model sees them."""
    from visage.using.photos import listed, square

    if aligned and model.crop is None:
        raise UserError(f"{model.name} was not trained on CelebA's aligned images: leave out --aligned")
    return square([str(file) for file in listed(files)], model.size, aligned=model.crop if aligned else None)


def save_sheet(rows: Sequence["Pixels"], path: Path, columns: int = COLUMNS) -> None:
    """Save rows of equally many images, one above the other; where there are more than `columns`, block below block."""
    import numpy as np

    from visage.files import replacing
    from visage.pictures import grid

    columns = min(columns, len(rows[0]))
    blocks = [_padded(row[i : i + columns], columns) for i in range(0, len(rows[0]), columns) for row in rows]
    picture = grid(np.concatenate(blocks), columns)
    with replacing(path) as temporary:
        picture.save(temporary)


# --- from nothing


def sample(
    run: Run,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="One picture of all samples.")] = None,
    folder: Annotated[Path | None, typer.Option(help="A folder for one PNG file per sample; can be continued.")] = None,
    attributes: Annotated[
        str | None, typer.Option(help="Wanted and unwanted ones, such as Smiling,-Eyeglasses; others are absent.")
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Another way to sample: a sampler, a temperature. A wrong name lists them.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, help="How strongly attributes are followed.")] = None,
    set_: Settings = None,
    device: Device = "auto",
) -> None:
    """Draw faces: as one picture, or as a folder of files.

    Examples:
    `visage sample vae-64 -n 64 -o grid.png`

    `visage sample ddpm-32 -n 50000 --folder samples --set sampling_steps=100`

    `visage sample conditional_gan-32 -n 16 --attributes Smiling,-Eyeglasses -o smiling.png`

    `visage sample glow-32 --variant "T 0.7" -o typical.png`
    """
    from visage.using.attributes import parse

    if (out is None) == (folder is None):
        raise UserError("name either a picture with -o grid.png or a folder with --folder samples")
    if out is not None:
        output.suffix(out, PICTURES)
    wanted = parse(attributes) if attributes is not None else None
    model = load(run, device, set_)
    how = {"seed": seed, "attributes": wanted, "variant": variant, "guidance": guidance}
    if out is not None:
        images = model.sample(n, **how)  # type: ignore[arg-type]  # each option has its own type
        save_sheet([images], out, max(8, round(n**0.5)))
        output.wrote(out, f"{n} samples of {model.name}")
    else:
        from visage.using.folders import fill

        assert folder is not None
        fill(model, folder, n, how, set_ or [])
        output.wrote(folder, f"{n} samples of {model.name}")


def _padded(row: "Pixels", columns: int) -> "Pixels":
    """A row of images, filled up with white."""
    import numpy as np

    white = np.full((columns - len(row), *row.shape[1:]), 255, np.uint8)
    return np.concatenate([row, white])


# --- from photographs


def reconstruct(run: Run, files: Files, out: Out, aligned: Aligned = False, device: Device = "auto") -> None:
    """Put photographs through a model's code and back: photographs above, reconstructions below.

    Photographs of any size are turned upright and cut to their centred square; the face should fill it.

    Example: `visage reconstruct vae-64 me.jpg you.jpg -o sheet.png`
    """
    output.suffix(out, PICTURES)
    model = load(run, device)
    pixels = photos(model, files, aligned)
    save_sheet([pixels, model.reconstruct(pixels)], out)
    output.wrote(out, f"{len(pixels)} photographs, and what {model.name} makes of them")


def translate(
    run: Run,
    files: Files,
    out: Out,
    to: Annotated[str | None, typer.Option(help="The kind of image to make; by default the second one.")] = None,
    aligned: Aligned = False,
    device: Device = "auto",
) -> None:
    """Translate photographs to the other kind of face, and back: three rows.

    Example: `visage translate cyclegan-32 me.jpg --to Blond_Hair -o blond.png`
    """
    output.suffix(out, PICTURES)
    model = load(run, device)
    pixels = photos(model, files, aligned)
    there = model.translate(pixels, 1 if to is None else to)
    kinds = list(model.model.domains)  # type: ignore[arg-type]  # it translates, so it has them
    back = 0 if to is None or kinds.index(to) == 1 else 1
    save_sheet([pixels, there, model.translate(there, back)], out)
    output.wrote(out, f"photographs, as {kinds[1 - back]}, and back")


def inpaint(
    run: Run, files: Files, out: Out, seed: Seed = 0, aligned: Aligned = False, device: Device = "auto"
) -> None:
    """Hide random parts of photographs and fill them in: three rows.

    Example: `visage inpaint mae-32 me.jpg -o filled.png`
    """
    output.suffix(out, PICTURES)
    model = load(run, device)
    pixels = photos(model, files, aligned)
    filled, hidden = model.inpaint(pixels, seed=seed)
    masked = pixels.copy()
    masked[hidden] = 128
    save_sheet([pixels, masked, filled], out)
    output.wrote(out, "photographs, what the model saw, and what it filled in")


def edit(
    run: Run,
    files: Files,
    out: Out,
    add: Annotated[
        list[str] | None, typer.Option(help="An attribute to add, such as Smiling; may be repeated.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="An attribute to remove; may be repeated.")] = None,
    strength: Annotated[
        float, typer.Option(min=0.0, help="1 is the mean difference between faces with and without the attribute.")
    ] = 1.0,
    aligned: Aligned = False,
    device: Device = "auto",
) -> None:
    """Give faces attributes by moving their codes: a row for each photograph, the strength rises from left to right.

    Example: `visage edit vae-64 me.jpg --add Smiling --strength 2 -o smile.png`
    """
    import numpy as np

    output.suffix(out, PICTURES)
    changes = dict.fromkeys(add or (), 1.0) | dict.fromkeys(remove or (), -1.0)
    if not changes:
        raise UserError("name an attribute with --add or --remove")
    if both := set(add or ()) & set(remove or ()):
        raise UserError(f"{min(both)} is both added and removed: choose one")
    model = load(run, device)
    pixels = photos(model, files, aligned)
    steps = np.linspace(0, strength, STRENGTHS)
    edited = [model.edit(pixels, {name: sign * float(s) for name, sign in changes.items()}) for s in steps]
    save_sheet(list(np.stack([pixels, *edited], axis=1)), out)
    output.wrote(out, f"photographs, then strengths {', '.join(f'{s:g}' for s in steps)}")


# --- films


def interpolate(
    run: Run,
    out: Out,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[PHOTO...]", help="Two photographs or more; none for samples.")
    ] = None,
    frames: Annotated[int, typer.Option(min=2, max=1000, help="Images from one face to the next.")] = 24,
    faces: Annotated[int, typer.Option(min=2, max=100, help="Random faces, where no photographs are named.")] = 4,
    seed: Seed = 0,
    aligned: Aligned = False,
    device: Device = "auto",
) -> None:
    """Walk from face to face through a model's codes: an animation, or one picture of all steps.

    Examples:
    `visage interpolate vae-64 me.jpg you.jpg -o walk.gif`

    `visage interpolate glow-32 --faces 6 --seed 3 -o walk.mp4`
    """
    import numpy as np

    from visage.using.films import save_film

    kind = output.suffix(out, (*FILMS, *PICTURES))
    model = load(run, device)
    if files:
        pixels = photos(model, files, aligned)
        if len(pixels) < 2:
            raise UserError("one photograph is no walk: name two or more, or none for random faces")
        codes = model.encode(pixels)
    else:
        codes = model.prior(faces, seed=seed)
    if kind in FILMS:
        codes = np.concatenate([codes, codes[:1]])  # back to the first, so that it can be repeated
    strips = [model.walk(codes[i], codes[i + 1], frames) for i in range(len(codes) - 1)]
    if kind in FILMS:
        save_film(np.concatenate([strip[:-1] for strip in strips]), out)
    else:
        save_sheet(strips, out, frames)
    output.wrote(out, f"{len(strips)} walks of {frames} images")


def progress(run: Run, out: Out) -> None:
    """Show a training: what the model made of the same noise, or the same faces, from its first step to its last.

    Example: `visage progress dcgan-64 -o training.gif`
    """
    from visage.using.films import save_pictures, training_pictures
    from visage.using.places import find_run

    output.suffix(out, FILMS)
    pictures = training_pictures(find_run(run).trained)
    save_pictures(pictures, out)
    output.wrote(out, f"{len(pictures)} moments of the training")


COMMANDS = (sample, reconstruct, translate, inpaint, edit, interpolate, progress)
