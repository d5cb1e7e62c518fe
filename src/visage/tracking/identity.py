"""What identifies a run in MLflow, and what describes it there: keys, parameters and tags."""

import getpass
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from visage.config import EvaluateConfig, RunConfig
from visage.files import Strict

RUN_KEY = "visage.run_key"
CONFIG_KEY = "visage.config_key"
"""The same as the run key, but without the data: it finds a run in a clone that does not have the data."""
LABEL = "visage.label"
"""`RunConfig.label`, by which runs are grouped that differ in their seed alone."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or a model."""
SEEDS_KEY = "visage.seeds_key"
"""The run key that the same run has with seed 0: what all its seeds have in common."""
PARENT_KEY = "visage.parent_key"
"""The `SEEDS_KEY` of the runs below a run that stands for several seeds."""

LONGEST_PARAM = 6000
"""Characters of a parameter that MLflow keeps."""


@dataclass(frozen=True, slots=True)
class RunIdentity(Strict):
    """Everything about a run that MLflow is told when the run is opened, whoever opens it.

    name: what the run is called in lists; an experiment of DVC is named in it.
    key, config_key: see `RUN_KEY` and `CONFIG_KEY`; equal where the data is not known. seeds_key: see `SEEDS_KEY`.
    params: every setting, flat; tags: facts about the run.
    dataset: name and digest of the training images, None where they are not known.
    """

    name: str
    scale: str
    key: str
    config_key: str
    seeds_key: str
    params: dict[str, str]
    tags: dict[str, str]
    dataset: tuple[str, str] | None

    @classmethod
    def of(cls, config: RunConfig, card: Mapping[str, Any], evaluate: EvaluateConfig | None) -> Self:
        """Describe a run.

        card: `data/processed/train/<label>.json`, empty where it is not known.
        evaluate: how the run is measured; None in training.
        """
        settings = asdict(config)
        settings["model"] = {"": settings["model"]} | settings.pop("settings")
        nested = settings | {"data": dict(card)} | ({} if evaluate is None else {"evaluate": asdict(evaluate)})
        tags = {
            "run": config.name,
            LABEL: config.label,
            "recipe": config.recipe,
            "size": str(config.size),
            "seed": str(config.seed),
            "scale": config.scale,
        }
        dataset = None
        if card:
            digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
            dataset = (str(card.get("source", "faces")), digest)
            tags |= {"dataset": dataset[0], "data_hash": digest}
        experiment = os.environ.get("DVC_EXP_NAME")
        return cls(
            name=f"{config.name} [{experiment}]" if experiment else config.name,
            scale=config.scale,
            key=config.key(dict(card)),
            config_key=config.key({}),
            seeds_key=config.seeded(0).key(dict(card)),
            params={key: as_text(value)[:LONGEST_PARAM] for key, value in flat(nested).items()},
            tags=tags,
            dataset=dataset,
        )


def flat(nested: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Join nested keys to one level: {"a": {"b": 1, "": 2}} gives {"a.b": 1, "a": 2}."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            result |= {f"{key}{separator}{k}".removesuffix(separator): v for k, v in flat(value, separator).items()}
        else:
            result[key] = value
    return result


def as_text(value: object) -> str:
    """A parameter as MLflow stores it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def origin(mode: str) -> dict[str, str]:
    """Tags that say where a run comes from: the git commit, marked where code or parameters were edited; DVC's stage.

    MLflow's own tags, by which its page shows who ran what, are among them.

    mode: "train", "evaluate" or "sync", with which the names of our own tags begin.
    """
    tags = {"mlflow.source.type": "LOCAL", "mlflow.source.name": os.environ.get("DVC_STAGE") or Path(sys.argv[0]).name}
    if user := _user():
        tags["mlflow.user"] = user
    commit = _git("rev-parse", "HEAD")
    if commit:
        edited = _git("status", "--porcelain", "--", "src", "stages", "params.yaml")
        tags |= {
            f"{mode}.git_commit": f"{commit} (edited)" if edited else commit,
            "mlflow.source.git.commit": commit,
            "mlflow.source.git.dirty": str(bool(edited)).lower(),
        }
        if branch := _git("branch", "--show-current"):
            tags["mlflow.source.git.branch"] = branch
    for name, variable in (("dvc_stage", "DVC_STAGE"), ("dvc_experiment", "DVC_EXP_NAME")):
        if variable in os.environ:
            tags[f"{mode}.{name}"] = os.environ[variable]
    return tags


def _user() -> str:
    """The account's name, "" where it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""
