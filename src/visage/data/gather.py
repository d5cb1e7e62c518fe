"""Make `data/raw`: draw, find or download the faces and the images that are no faces."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from visage.config import DownloadConfig
from visage.data import celeba, fashion_mnist
from visage.data.disk import naming_a_full_disk
from visage.data.download import Mirror, MirrorError, celeba_mirrors, download_celeba, fetch, scratch_folder
from visage.data.drawn_faces import draw_dataset
from visage.data.drawn_garments import draw_garments
from visage.data.raw import RAW, Raw, read_faces
from visage.errors import UserError
from visage.files import replacing_folder

GARMENTS = 10_000
"""Drawn garments: as many as Fashion-MNIST has test images."""


def gather(
    config: DownloadConfig,
    raw: Path = RAW,
    scratch: Path | None = None,
    mirrors: Sequence[Mirror] | None = None,
) -> Raw:
    """Draw, find or download both kinds of images, check them, and write `raw`, whole or not at all.

    scratch: where downloads arrive; they survive a failure there. None = `scratch_folder()`.
    mirrors: to try in turn for CelebA. None = those of the config and the public ones.

    Raises:
        UserError: something is missing, broken or cannot be had.
    """
    scratch = scratch or scratch_folder()
    with naming_a_full_disk(raw), FileLock(_made(scratch) / "lock"), replacing_folder(raw) as temporary:
        faces, layout_note = _get_faces(config, temporary / "faces", scratch / "celeba", mirrors)
        ood, ood_note = _get_ood(config, temporary / "ood", scratch / "fashion_mnist")
        collection = read_faces(config.source, faces, config.attributes, config.valid_share, config.test_share)
        record = Raw(
            source=config.source,
            root=_keep(faces, temporary / "faces", scratch),
            layout=layout_note,
            counts=collection.counts,
            remarks=collection.remarks,
            fingerprint=collection.fingerprint,
            attributes=str(Path(config.attributes).resolve()) if config.attributes else None,
            valid_share=config.valid_share,
            test_share=config.test_share,
            ood_source=config.ood_source,
            ood_root=_keep(ood, temporary / "ood", scratch),
            ood_note=ood_note,
        )
        record.save(temporary)
    return record


def _get_faces(
    config: DownloadConfig, target: Path, arriving: Path, mirrors: Sequence[Mirror] | None
) -> tuple[Path, str]:
    """Where the faces are, and in words how they came there."""
    if config.source == "synthetic":
        draw_dataset(target, config.images, config.images_per_identity, config.seed)
        return target, "drawn"
    if config.root is not None:
        root = Path(config.root).expanduser().resolve()
        return root, "a folder of images" if config.source == "folder" else str(celeba.find(root))
    ladder = celeba_mirrors(config.mirrors, config.checksums) if mirrors is None else mirrors
    name = download_celeba(arriving, ladder)
    return arriving, f"{celeba.find(arriving)}, from {name}"


def _get_ood(config: DownloadConfig, target: Path, arriving: Path) -> tuple[Path, str]:
    """Where the other images are, and in words what they are."""
    if config.ood_source == "synthetic":
        draw_garments(target, GARMENTS, config.seed)
        return target, "drawn garments"
    root = Path(config.ood_root).expanduser().resolve() if config.ood_root else _download_ood(arriving)
    path = fashion_mnist.find(root)
    count = len(fashion_mnist.read(path))
    official = "" if path.suffix != ".gz" or fashion_mnist.is_official(path) else ", not the published file"
    return root, f"Fashion-MNIST: {count:,} test images{official}"


def _download_ood(arriving: Path) -> Path:
    from torchvision.datasets import FashionMNIST  # for its list of mirrors; 5 s of imports that few need

    reasons = []
    for base_url in FashionMNIST.mirrors:
        url = f"{base_url.rstrip('/')}/{fashion_mnist.IMAGES}"
        try:
            fetch(url, _made(arriving) / fashion_mnist.IMAGES, fashion_mnist.MD5)
            return arriving
        except MirrorError as error:
            reasons.append(str(error))
    raise UserError(
        f"Fashion-MNIST could not be downloaded ({'; '.join(reasons)}): put {fashion_mnist.IMAGES} into a folder "
        "and name that folder in params.yaml: ood.root"
    )


def _keep(found: Path, target: Path, scratch: Path) -> str:
    """What source.json calls a place; what arrived in scratch moves to its final place first."""
    if found.is_relative_to(scratch):
        target.mkdir()
        for file in sorted(found.iterdir()):
            if file.is_file() and file.suffix != ".part":
                shutil.move(file, target / file.name)
        found = target
    return target.name if found == target else str(found)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
