"""Images into uint8 arrays: decode once, crop once, resize once per size. The layout is in `visage.data.arrays`.

JPEGs go through libjpeg-turbo into one buffer per block of images, and the buffer through PyTorch's antialiased resize
for uint8. Its fast kernel wants the channels last in memory, which is how they are decoded; results are within 2 levels
of Pillow's filter of the same name. Threads suffice: decoding and resizing release Python's lock.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from visage.config import PreprocessConfig
from visage.data import ood, sources
from visage.data.arrays import Split
from visage.data.card import DataCard, ExternalSet, SkippedImage
from visage.data.celeba_format import IMAGE_SIZE
from visage.data.collection import LEAST_IMAGES, SPLITS, Collection, Files, opened
from visage.data.decoding import UNREADABLE, BadImageError, cannot_be_read, centre_square, decode, resize
from visage.data.disk import naming_a_full_disk
from visage.data.raw import Raw, RawSet
from visage.errors import UserError
from visage.files import replacing_folder, write_json
from visage.machine import cores

BLOCK = 64
"""Images that a thread holds at a time."""
Name = TypeVar("Name", bound=str)
Arrays = dict[int, NDArray[np.uint8]]
"""For each size one memory-mapped array, (N, size, size, 3)."""


@dataclass(slots=True)
class Block:
    """Some images of one array: their rows among the files, and where in the arrays they begin."""

    rows: NDArray[np.intp]
    start: int
    arrays: Arrays
    bad: dict[int, str] = field(default_factory=dict)
    """Position in the block -> what is wrong."""


def preprocess(config: PreprocessConfig, raw: Path, out: Path) -> None:
    """Write `out` from what `raw` holds or points at; whole or not at all. The same images give the same bytes.

    Raises:
        UserError: too many images cannot be used, a split has too few, the disk is full, or the files are not those
            that `download` found.
    """
    record = Raw.load(raw)
    faces = record.faces(raw)
    others = [(other, other.images(raw)) for other in record.ood]
    rows = {name: _rows(faces, i, config.limit) for i, name in enumerate(SPLITS)}
    with naming_a_full_disk(out), replacing_folder(out) as temporary:
        kept, skipped = write_files(faces, rows, config, temporary)
        _refuse_too_few(kept, files=faces.path)
        sets = []
        for other, images in others:
            written, bad = _write_ood(other, images, config, temporary)
            sets.append(written)
            skipped += bad
        arrays = [*SPLITS, *(_array(other.name) for other in sets)]
        hashes = {str(size): _hash_arrays(temporary / str(size), arrays) for size in config.sizes}
        crop = config.crop if faces.aligned else ()
        card = DataCard(
            source=record.source,
            title=sources.find(record.source).TITLE,
            note="; ".join(faces.remarks),
            crop=crop,
            filter=config.filter,
            sizes=config.sizes,
            counts={name: len(kept[name]) for name in SPLITS},
            ood=tuple(sets),
            skipped=skipped,
            hashes=hashes,
            label_hashes={
                name: _write_labels(faces, kept[name], temporary / "labels" / f"{name}.npz") for name in SPLITS
            },
            data_hash={},
        )
        card = replace(card, data_hash={size: _data_hash(card, size) for size in hashes})
        write_json(temporary / "card.json", asdict(card))
        for label in config.labels:
            write_json(temporary / "train" / f"{label}.json", _training_part(card, size=label.rpartition("-")[2]))


def _rows(faces: Collection, split: int, limit: int) -> NDArray[np.intp]:
    """The first images of a split; limit 0 = all."""
    rows = np.flatnonzero(faces.split == split)
    return rows[:limit] if limit else rows


# --- image files -----------------------------------------------------------------------------------------------------


def write_files(
    files: Files, rows: Mapping[Name, NDArray[np.intp]], config: PreprocessConfig, out: Path
) -> tuple[dict[Name, NDArray[np.intp]], list[SkippedImage]]:
    """Write <size>/<name>.npy from the files in the rows of each name.

    Returns:
        The rows of each name that could be used, and the files that could not.

    Raises:
        UserError: more than `max_bad_share` of the files could not be used.
    """
    blocks: list[Block] = []
    for name in rows:
        arrays = {size: _create(out / str(size) / f"{name}.npy", len(rows[name]), size) for size in config.sizes}
        for start in range(0, len(rows[name]), BLOCK):
            blocks.append(Block(rows[name][start : start + BLOCK], start, arrays))
    total = sum(len(block.rows) for block in blocks)
    bad: dict[int, str] = {}
    with opened(files.path) as read, tqdm(desc="images", total=total, unit="img") as bar:
        for block in _in_threads(partial(_fill, files=files, read=read, config=config), blocks):
            bad |= {int(block.rows[i]): reason for i, reason in block.bad.items()}
            bar.update(len(block.rows))
    skipped = [SkippedImage(files.members[row], bad[row]) for row in sorted(bad)]
    _refuse_too_many(skipped, total, files.path, config.max_bad_share)
    kept = dict(rows)
    for name in rows:
        good = ~np.isin(rows[name], list(bad))
        if not good.all():
            kept[name] = rows[name][good]
            for size in config.sizes:
                _keep_rows(out / str(size) / f"{name}.npy", np.flatnonzero(good))
    return kept, skipped


def _in_threads(work: Callable[[Block], Block], blocks: Sequence[Block]) -> Iterator[Block]:
    """Work on blocks on all cores, one thread of PyTorch's in each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, blocks)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _fill(block: Block, files: Files, read: Callable[[str], bytes], config: PreprocessConfig) -> Block:
    """Decode, crop and resize a block's images into its arrays; rows of bad images keep zeros."""
    if files.aligned:
        left, top, right, bottom = config.crop
        crops = torch.zeros(len(block.rows), bottom - top, right - left, 3, dtype=torch.uint8)
        for i, row in enumerate(block.rows):
            try:
                crops[i] = _decode_aligned(read, files.members[row])[top:bottom, left:right]
            except BadImageError as error:
                block.bad[i] = str(error)
        _resize_into(block, 0, crops, config)
    else:
        for i, row in enumerate(block.rows):
            try:
                _resize_into(block, i, centre_square(_decode(read, files.members[row]))[None], config)
            except BadImageError as error:
                block.bad[i] = str(error)
    return block


def _resize_into(block: Block, offset: int, crops: Tensor, config: PreprocessConfig) -> None:
    """crops: (n, h, w, 3) uint8, resized to every size."""
    first = block.start + offset
    for size, array in block.arrays.items():
        array[first : first + len(crops)] = resize(crops, size, config.filter).numpy()


def _decode_aligned(read: Callable[[str], bytes], member: str) -> Tensor:
    image = _decode(read, member)
    height, width, _ = image.shape
    if (width, height) != IMAGE_SIZE:
        raise BadImageError(f"is {width}x{height} pixels, not {IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}")
    return image


def _decode(read: Callable[[str], bytes], member: str) -> Tensor:
    """(H, W, 3) uint8 RGB, upright."""
    try:
        data = read(member)
    except UNREADABLE as error:
        raise cannot_be_read(error) from error
    return decode(data)


def _refuse_too_few(kept: Mapping[Split, NDArray[np.intp]], files: Path) -> None:
    """Raise if a split has too few images that could be used."""
    for name, rows in kept.items():
        if len(rows) < LEAST_IMAGES:
            raise UserError(f"{files}: only {len(rows)} {name} images can be used, {LEAST_IMAGES} are needed: add some")


def _refuse_too_many(skipped: Sequence[SkippedImage], total: int, path: Path, max_bad_share: float) -> None:
    """Name what is skipped; raise if it is too much."""
    first = "; ".join(f"{image.file} {image.reason}" for image in skipped[:3])
    if len(skipped) > max_bad_share * total:
        raise UserError(
            f"{path}: {len(skipped):,} of {total:,} images cannot be used ({first}): "
            f"replace them, or raise preprocess.max_bad_share (now {max_bad_share})"
        )
    for image in skipped:
        print(f"skipped: {image.file} {image.reason}")


# --- other images ----------------------------------------------------------------------------------------------------


def _write_ood(
    record: RawSet, images: ood.Images, config: PreprocessConfig, out: Path
) -> tuple[ExternalSet, list[SkippedImage]]:
    """Write <size>/ood/<name>.npy; give what the card says of the set, and the files that could not be used."""
    name, count = _array(record.name), record.count
    skipped: list[SkippedImage] = []
    if isinstance(images, Files):
        kept, bad = write_files(images, {name: np.arange(count)}, config, out)
        count = len(kept[name])
        skipped = [replace(image, file=f"{name}/{image.file}") for image in bad]
    else:
        for size in config.sizes:
            array = _create(out / str(size) / f"{name}.npy", count, size)
            for start in range(0, count, BLOCK):
                array[start : start + BLOCK] = to_square(images[start : start + BLOCK], size, config.filter)
    title = ood.find(record.source).TITLE or record.name
    return ExternalSet(record.name, record.source, title, record.note, count), skipped


def _array(name: str) -> str:
    """By what a set's array is called, in the folder of a size and in the card."""
    return f"ood/{name}"


def to_square(images: NDArray[np.uint8], size: int, filter: str) -> NDArray[np.uint8]:
    """(N, 28, 28) grey or (N, H, H, 3) colour images to (N, size, size, 3); colour ones are resized as faces are."""
    if images.ndim == 3:
        return enlarge(images, size)
    return resize(torch.from_numpy(images), size, filter).numpy()


def enlarge(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, 28, 28) uint8 in a black frame of 32x32, three times, and from there to (N, size, size, 3), bilinear."""
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2)))[:, None]
    if size != framed.shape[-1]:
        larger = F.interpolate(torch.from_numpy(framed).float(), (size, size), mode="bilinear", antialias=True)
        framed = larger.round().to(torch.uint8).numpy()
    return framed.transpose(0, 2, 3, 1).repeat(3, axis=3)


# --- arrays ----------------------------------------------------------------------------------------------------------


def _create(path: Path, count: int, size: int) -> NDArray[np.uint8]:
    """A memory-mapped array of zeros whose room on the disk is there: running out later would kill the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as f:
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
    return array


def _keep_rows(path: Path, rows: NDArray[np.intp]) -> None:
    """Write an array again with these rows alone."""
    whole = np.load(path, mmap_mode="r")
    shorter = path.with_suffix(".shorter.npy")
    kept = _create(shorter, len(rows), whole.shape[1])
    for start in range(0, len(rows), BLOCK):
        kept[start : start + BLOCK] = whole[rows[start : start + BLOCK]]
    del whole, kept  # Windows renames no file that is open
    shorter.replace(path)


def _write_labels(faces: Collection, rows: NDArray[np.intp], path: Path) -> str:
    """Write one split's labels; give the hash of their content."""
    path.parent.mkdir(exist_ok=True)
    labels = {
        "attributes": faces.attributes[rows],
        "names": np.array(faces.names, np.str_),
        "image_id": faces.image_id[rows],
        "identity": faces.identity[rows],
        "factors": faces.factors[rows],
        "factor_names": np.array(faces.factor_names, np.str_),
    }
    np.savez(path, allow_pickle=False, **labels)
    digest = hashlib.sha256()
    for name, array in labels.items():
        digest.update(f"{name} {array.dtype} {array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()


# --- what the arrays are ---------------------------------------------------------------------------------------------


def _hash_arrays(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the pixels of each array, without the file's header."""
    return {name: hashlib.sha256(np.load(folder / f"{name}.npy", mmap_mode="r").data).hexdigest() for name in names}


def _data_hash(card: DataCard, size: str) -> str:
    """The hash of all that a figure at this size can depend on: every array, all labels, and how images were cut.

    The order of the sets of other images is part of it: the first one is the headline.
    """
    parts = [card.hashes[size], card.label_hashes, card.crop, card.filter]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _training_part(card: DataCard, size: str) -> dict[str, Any]:
    """The part of the card that a training at this size depends on: it reads no test image."""
    read = ("train", "valid")
    return {
        "source": card.source,
        "crop": list(card.crop),
        "filter": card.filter,
        "images": {name: card.hashes[size][name] for name in read},
        "labels": {name: card.label_hashes[name] for name in read},
    }
