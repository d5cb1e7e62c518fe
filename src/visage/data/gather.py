"""Make `data/raw`: draw, find or download the faces and the images that are no faces."""

import shutil
from pathlib import Path

from filelock import FileLock

from visage.config import DownloadConfig
from visage.data import ood, sources
from visage.data.disk import naming_a_full_disk
from visage.data.download import scratch_folder
from visage.data.raw import RAW, Raw, RawSet, count, fingerprint
from visage.data.request import Request
from visage.files import replacing_folder


def gather(config: DownloadConfig, raw: Path = RAW, scratch: Path | None = None) -> Raw:
    """Draw, find or download the faces and all other images, check them, and write `raw`, whole or not at all.

    scratch: where downloads arrive; they survive a failure there. None = `scratch_folder()`.

    Raises:
        UserError: something is missing, broken or cannot be had.
    """
    scratch = scratch or scratch_folder()
    scratch.mkdir(parents=True, exist_ok=True)
    with naming_a_full_disk(raw), FileLock(scratch / "lock"), replacing_folder(raw) as temporary:

        def request(place: str, root: str | None) -> Request:
            folder = Path(root).expanduser().resolve() if root else None
            return Request(folder, temporary / place, scratch / place, config.seed)

        source, settings = sources.find(config.source), sources.settings(config.source, config.settings)
        wanted = request("faces", config.root)
        found = source.get(settings, wanted)
        faces = source.read(settings, found.folder)
        others = []
        for other in config.ood:
            other_wanted = request(f"ood/{other.name}", other.root)
            other_found = ood.find(other.source).get(other_wanted)
            others.append((other, other_wanted, other_found, ood.find(other.source).images(other_found.folder)))
        # everything is there and whole: only now do downloads leave the scratch folder
        record = Raw(
            source=config.source,
            root=_keep(found.folder, wanted, temporary),
            settings=config.settings,
            note=found.note,
            counts=faces.counts,
            remarks=faces.remarks,
            fingerprint=faces.fingerprint,
            ood=tuple(
                RawSet(
                    name=other.name,
                    source=other.source,
                    root=_keep(found.folder, wanted, temporary),
                    note=found.note,
                    count=count(images),
                    fingerprint=fingerprint(images),
                )
                for other, wanted, found, images in others
            ),
        )
        record.save(temporary)
    return record


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
