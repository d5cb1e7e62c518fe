"""`.scratch`, where a training is kept until DVC has recorded it: a kill at any moment costs seconds of it at most."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from visage.config import RunConfig


def scratch_folder(home: Path, config: RunConfig, card: Mapping[str, Any]) -> Path:
    """Where the training of this config on this data is kept.

    home: the project's root, also for DVC's temporary copies of it. card: the data card of the training.
    """
    return home / ".scratch" / f"{config.name}-{config.key(dict(card))[:16]}"


def is_recorded(root: Path, stage: str) -> bool:
    """Whether dvc.lock says that a stage has run with the files that it depends on as they are now."""
    entry = _entry(root / "dvc.lock", stage)
    return bool(entry) and all(
        (root / dep["path"]).is_file() and hashlib.md5((root / dep["path"]).read_bytes()).hexdigest() == dep.get("md5")
        for dep in entry["deps"]
    )


def _entry(lock: Path, stage: str) -> dict[str, Any]:
    """What dvc.lock says of one stage; empty where it says nothing. Reading all of it would take seconds."""
    lines = lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []
    if f"  {stage}:" not in lines:
        return {}
    start = lines.index(f"  {stage}:") + 1
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("    ")), len(lines))
    entry: dict[str, Any] = YAML(typ="safe").load("\n".join(lines[start:end]))
    return entry
