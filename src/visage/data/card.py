"""What preprocessing says of the arrays that it wrote: the protocol, counts and hashes."""

from dataclasses import dataclass

from visage.files import Strict


@dataclass(frozen=True, slots=True)
class SkippedImage(Strict):
    """An image that could not be used, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExternalSet(Strict):
    """A set of images other than faces, as preprocessing found it.

    name: that of the arrays `<size>/ood/<name>.npy`. title: what the images are, for the page.
    note: where they come from. count: how many there are.
    """

    name: str
    source: str
    title: str
    note: str
    count: int


@dataclass(frozen=True, slots=True)
class DataCard(Strict):
    """The protocol of all arrays: `data/processed/card.json`.

    source: a file name under visage/data/sources; title: what the faces are, for the page; note: remarks on them.
    crop: (left, top, right, bottom) in pixels of the 178x218 original; empty where a centred square was cut.
    counts: faces in each split. ood: the external sets; the first is the headline.
    hashes: size -> name of an array ("train", "ood/<name>", ...) -> SHA-256 of its pixels.
    label_hashes: split -> SHA-256 of its labels.
    data_hash: size -> digest of all that a figure of this size can depend on: every array, the other images included,
        all labels, the crop and the filter. Figures of different hashes cannot be compared.
    """

    source: str
    title: str
    note: str
    crop: tuple[int, ...]
    filter: str
    sizes: tuple[int, ...]
    counts: dict[str, int]
    ood: tuple[ExternalSet, ...]
    skipped: list[SkippedImage]
    hashes: dict[str, dict[str, str]]
    label_hashes: dict[str, str]
    data_hash: dict[str, str]
