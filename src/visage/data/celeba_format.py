"""CelebA's annotation files: the names they use, and writers for them.

    list_attr_celeba.txt     number of images; the 40 names; then `000001.jpg -1  1 ...`, every value two columns wide
    identity_CelebA.txt      `000001.jpg 2880`: one person, one number
    list_eval_partition.txt  `000001.jpg 0`: 0 = train, 1 = valid, 2 = test

Lines end in CR LF, and the header of the attributes in a space, as in the files that its authors publish
(Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from visage.files import write_text

ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
"""The 40 attributes in the order of `list_attr_celeba.txt`."""

ARCHIVE = "img_align_celeba.zip"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
IDENTITY_FILE = "identity_CelebA.txt"
PARTITION_FILE = "list_eval_partition.txt"
FACTOR_FILE = "factors.csv"
"""Beside drawn faces, not of CelebA: a column of file names and one column of numbers for each factor."""

IMAGE_SIZE = (178, 218)
"""Width and height in pixels of an aligned image."""


def image_name(index: int) -> str:
    """The file name of image `index`, counted from 0: `000001.jpg` is the first."""
    return f"{index + 1:06d}.jpg"


def write_attributes(path: Path, rows: Mapping[str, Sequence[bool]]) -> None:
    """Write `list_attr_celeba.txt`. rows: file name -> 40 values in the order of ATTRIBUTES, True where it is set."""
    lines = [str(len(rows)), " ".join(ATTRIBUTES) + " "]
    lines += [name + "".join(f" {1 if value else -1:2d}" for value in values) for name, values in rows.items()]
    _write_lines(path, lines)


def write_identities(path: Path, identities: Mapping[str, int]) -> None:
    """Write `identity_CelebA.txt`. identities: file name -> number of the person, from 1."""
    _write_lines(path, (f"{name} {identity}" for name, identity in identities.items()))


def write_partition(path: Path, splits: Mapping[str, int]) -> None:
    """Write `list_eval_partition.txt`. splits: file name -> 0 (train), 1 (valid) or 2 (test)."""
    _write_lines(path, (f"{name} {split}" for name, split in splits.items()))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(f"{line}\r\n" for line in lines))
