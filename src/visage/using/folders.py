"""A folder of samples, one PNG file each, that can be continued where it was cut off."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from visage.errors import UserError
from visage.files import read_json, replacing, write_json
from visage.results import Training, read
from visage.using.loaded import LoadedModel
from visage.using.places import RUN

ABOUT = "samples.json"
"""The file that says what the samples are."""
DIGITS = 6
UNFINISHED = ".unfinished"
"""Where samples are written before they take their place: `replacing` looks through the folder that it writes to, which
takes too long for each of 50,000 files."""


def fill(model: LoadedModel, folder: Path, n: int, how: dict[str, Any], settings: list[str]) -> None:
    """Have samples 0 to n - 1 in `folder` as 000000.png, 000001.png, ...; what is there is kept.

    how: arguments of `LoadedModel.samples`. settings: the model's, as the command changed them.

    Raises:
        UserError: the folder holds samples of another model or drawn in another way, or other files.
    """
    about = {
        "run": model.name,
        "key": read(model.place.trained / RUN, Training).key,
        "settings": sorted(settings),
        **how,
    }
    _claim(folder, about)
    files = [folder / f"{i:0{DIGITS}d}.png" for i in range(n)]
    with tqdm(total=n, desc=model.name, unit="img") as bar:

        def there(rows: slice) -> bool:
            done = all(file.is_file() for file in files[rows])
            bar.update(rows.stop - rows.start if done else 0)
            return done

        for rows, images in model.samples(n, **how, skip=there):
            for file, image in zip(files[rows], images, strict=True):
                written = folder / UNFINISHED / file.name
                with replacing(written) as temporary:
                    Image.fromarray(image).save(temporary, format="PNG")
                written.replace(file)
            bar.update(len(images))
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Say in the folder what it holds, or refuse one that holds something else."""
    file = folder / ABOUT
    if file.is_file():
        try:
            known = read_json(file)
        except ValueError as error:
            raise UserError(f"{file} cannot be read: remove the folder, or name another one") from error
        if known != about:
            differs = next((key for key in about if not isinstance(known, dict) or known.get(key) != about[key]), "run")
            raise UserError(f"{folder} holds samples with another {differs}: name another folder, or remove this one")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds other files: name an empty or new folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, about)
