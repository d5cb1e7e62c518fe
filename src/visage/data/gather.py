"""Make `data/raw`: draw, find or download the faces and the sets of other images."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from visage.config import DownloadConfig, OodSet
from visage.data import ood, sources
from visage.data.disk import naming_a_full_disk
from visage.data.download import scratch_folder
from visage.data.raw import RAW, Raw, RawSet, count, fingerprint
from visage.data.request import Request
from visage.files import project_path, replacing_folder


def gather(config: DownloadConfig, raw: Path = RAW, scratch: Path | None = None) -> Raw:
    """Draw, find or download the faces and all other images, check them, and write `raw`, whole or not at all.

    scratch: where downloads arrive; they survive a failure there. None = `scratch_folder()`.

    Raises:
        UserError: something is missing, broken or cannot be had.
    """
    scratch = scratch or scratch_folder()
    scratch.mkdir(parents=True, exist_ok=True)
    with naming_a_full_disk(raw), FileLock(scratch / "lock"), replacing_folder(raw) as temporary:
        ask = partial(_request, raw=temporary, scratch=scratch, seed=config.seed)
        source, settings = sources.find(config.source), sources.settings(config.source, config.settings)
        request = ask("faces", config.root)
        found = source.get(settings, request)
        faces = source.read(settings, found.folder)
        others = [_get_set(other, ask(f"ood/{other.name}", other.root)) for other in config.ood]
        # everything is there and whole: only now do downloads leave the scratch folder
        record = Raw(
            source=config.source,
            root=_keep(found.folder, request, temporary),
            settings=config.settings,
            note=found.note,
            counts=faces.counts,
            remarks=faces.remarks,
            fingerprint=faces.fingerprint,
            ood=tuple(replace(other, root=_keep(Path(other.root), asked, temporary)) for other, asked in others),
        )
        record.save(temporary)
    return record


def _request(place: str, root: str | None, raw: Path, scratch: Path, seed: int) -> Request:
    folder = project_path(root).resolve() if root is not None else None
    return Request(folder, raw / place, scratch / place, seed)


def _get_set(wanted: OodSet, request: Request) -> tuple[RawSet, Request]:
    """What source.json says of a set, but with the place where it is now, and what its source was asked for."""
    source = ood.find(wanted.source)
    found = source.get(request)
    images = source.images(found.folder)
    record = RawSet(wanted.name, wanted.source, str(found.folder), found.note, count(images), fingerprint(images))
    return record, request


def _keep(folder: Path, request: Request, raw: Path) -> str:
    """What source.json calls a folder; whole files that arrived in scratch first move to their final place."""
    if folder == request.root:
        return str(folder)
    if folder == request.arriving:
        request.target.mkdir(parents=True)
        for file in sorted(folder.iterdir()):
            if file.suffix != ".part":
                shutil.move(file, request.target / file.name)
    return request.target.relative_to(raw).as_posix()
