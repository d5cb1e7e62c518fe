"""`python -m visage.sync`: give MLflow what it lacks of the runs whose results are here.

Stages that DVC takes from its cache log nothing, a fresh clone has an empty MLflow store, and a server can fail while a
run goes on. git and DVC hold the truth; this command, run after `dvc repro` or `dvc pull`, copies it: parameters,
curves, pictures and figures of every run in `configs/`. What is there already stays as it is: a second call adds
nothing.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.errors import UserError
from visage.files import read_json
from visage.tracking import (
    RunLog,
    Store,
    Subject,
    check_store,
    evaluation_results,
    now,
    origin,
    record_evaluation,
    record_training,
    store_uri,
)


def sync_all(root: Path, home: Path) -> dict[str, str]:
    """Complete the MLflow runs of all configs; one line of what was done for each run's name.

    root: the working copy with configs, runs and metrics. home: the project's root, which holds the default store.

    Raises:
        UserError: there are no configs, or the store cannot be used.
    """
    configs = root / "configs"
    if not (configs / "runtime.json").is_file():
        raise UserError(f"{configs} is missing: run `python -m visage.sync` in the project's root, after `dvc repro`")
    check_store(store_uri(home))
    store = Store(home, RuntimeConfig.load(configs).experiment)
    names = sorted(path.stem for path in configs.glob("*-[0-9]*.json"))
    return {name: sync_run(store, RunConfig.load(name, configs), root) for name in names}


def sync_run(store: Store, config: RunConfig, root: Path) -> str:
    """Complete the MLflow run of one config; what was done, in words."""
    name, train = config.name, root / "runs" / config.name / "train"
    about = _json(train / "run.json")
    metrics = _json(root / "metrics" / f"{name}.json")
    if about is None and metrics is None:
        return f"no results here: run `dvc repro evaluate@{name}` or `dvc pull`"
    if about is not None and about["config"] != json.loads(json.dumps(asdict(config))):
        return (
            f"left alone, it was trained with other settings than configs/{name}.json: run `dvc repro evaluate@{name}`"
        )

    log = _open(store, config, root, metrics)
    if about is not None:
        record_training(log, train, _json(root / "metrics" / "cost" / "train" / f"{name}.json") or {})
    step = 0 if about is None else about["steps"]
    outdated = metrics is not None and not _record_evaluation(log, config, root, step, metrics)
    if log.new or about is not None:
        log.finish_if_open()
    return _in_words(log, trained=about is not None, outdated=outdated)


def _open(store: Store, config: RunConfig, root: Path, metrics: Mapping[str, Any] | None) -> RunLog:
    card = _json(root / "data" / "processed" / "train" / f"{config.label}.json") or {}
    settings = EvaluateConfig.load(root / "configs") if metrics is not None else None
    subject = Subject.of(config, card, settings)
    log = store.find(subject, evaluation_results(metrics or {})) if not card else None
    if log is None:
        log = store.join(subject, now())
    if log.new:
        log.tags(origin("sync"))
    return log


def _record_evaluation(log: RunLog, config: RunConfig, root: Path, step: int, metrics: Mapping[str, Any]) -> bool:
    """Log the figures, unless they were measured on other weights than those here; whether they were logged."""
    folder = root / "runs" / config.name / "evaluate"
    if log.lacks(evaluation_results(metrics)) and not _is_of_these_weights(config, folder):
        return False
    cost = _json(root / "metrics" / "cost" / "evaluate" / f"{config.name}.json") or {}
    record_evaluation(log, folder, step, metrics, cost, replace=False)
    return True


def _is_of_these_weights(config: RunConfig, folder: Path) -> bool:
    records = _json(folder / "records.json")
    if not records:
        return True  # nothing here that says otherwise
    from visage.evaluation.records import model_hash
    from visage.training.outputs import load_trained

    return bool(records[0]["model_hash"] == model_hash(load_trained(folder.parent / "train", config)))


def _in_words(log: RunLog, *, trained: bool, outdated: bool) -> str:
    added = [f"{count} {what}" for what, count in log.added.items() if count]
    words = ["rebuilt" if log.new else "completed", *added] if added else ["up to date"]
    if not trained:
        words.append("figures only, the curves and pictures are not here: `dvc pull` brings them")
    if outdated:
        words.append("its figures are of other weights and were left out: run `dvc repro`")
    return ", ".join(words)


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def main() -> None:
    """Sync the project in the working directory."""
    root = Path.cwd()
    try:
        for name, done in sync_all(root, Path(os.environ.get("DVC_ROOT", root))).items():
            print(f"{name}: {done}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
