"""`python -m visage.tracking.sync`: give MLflow what it lacks of the runs whose results are here.

Stages that DVC takes from its cache log nothing, a fresh clone has an empty MLflow store, and a server can fail while a
run goes on. git and DVC hold the truth; this command, run after `dvc repro` or `dvc pull`, copies it: parameters,
curves, pictures and figures of every run in `configs/`. What is there already stays as it is: a second call adds
nothing.
"""

import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from visage.config import EvaluateConfig, RunConfig, RuntimeConfig
from visage.errors import UserError
from visage.files import read_json
from visage.redaction import redact, redact_streams
from visage.results import EvaluationCost, Results, Training, TrainingCost, read
from visage.tracking.events import now
from visage.tracking.identity import RunIdentity, origin
from visage.tracking.log import RunLog, Store, explained
from visage.tracking.record import evaluation_figures, named_figures, record_cost, record_evaluation, record_training
from visage.tracking.registry import set_aliases
from visage.tracking.seeds import group_seeds
from visage.tracking.standings import best_runs
from visage.tracking.store import check_store, store_uri

T = TypeVar("T")


def sync_all(root: Path, home: Path) -> dict[str, str]:
    """Complete the MLflow runs of all configs; one line of what was done for each run's name, and for each alias in the
    registry that has moved.

    root: the working copy with configs, runs and metrics. home: the project's root, which holds the default store.

    Raises:
        UserError: there are no configs, a file of the results is damaged, or the store cannot be used.
    """
    configs = root / "configs"
    if not (configs / "runtime.json").is_file():
        raise UserError(
            f"{configs} is missing: run `python -m visage.tracking.sync` in the project's root, after `dvc repro`"
        )
    check_store(store_uri(home))
    store = Store(home, RuntimeConfig.load(configs).experiment)
    names = sorted(path.stem for path in configs.glob("*-[0-9]*.json"))
    with explained(store.uri):
        done = {name: sync_run(store, RunConfig.load(name, configs), root) for name in names}
        return done | _sync_registry(store, root, names)


def sync_run(store: Store, config: RunConfig, root: Path) -> str:
    """Complete the MLflow run of one config; the text says what was done.

    Raises:
        UserError: a file of the results is damaged.
    """
    name, folder, costs = config.name, root / "runs" / config.name, root / "metrics" / "cost"
    training = _read(folder / "train" / "run.json", Training)
    results = _read(folder / "evaluate" / "results.json", Results)
    figures = evaluation_figures(results) if results else _committed_figures(root / "metrics" / f"{name}.json")
    if training is None and not figures:
        return f"no results here: run `dvc repro evaluate@{name}`, or `dvc pull` where there is a remote"
    if training is not None and training.config != config:
        return (
            f"left alone, it was trained with other settings than configs/{name}.json: run `dvc repro evaluate@{name}`"
        )

    log, identity = _open(store, config, root, figures)
    outdated, cost = False, _read(costs / "evaluate" / f"{name}.json", EvaluationCost)
    if training is not None:
        train_cost = _read(costs / "train" / f"{name}.json", TrainingCost)
        model_id = record_training(log, folder / "train", train_cost)
        outdated = results is not None and not _fits(log, results, config, folder / "train")
        if results is not None and not outdated:
            record_evaluation(log, folder / "evaluate", config.size, model_id, results, cost, replace=False)
    if results is None or training is None:
        log.figures(figures)
        record_cost(log, "evaluate", cost)
    if log.new or training is not None:
        log.finish_if_open()
    group_seeds(store, identity)
    return _summary(log, trained=training is not None, outdated=outdated)


def _sync_registry(store: Store, root: Path, names: list[str]) -> dict[str, str]:
    """Name the best runs; a store without a registry, or without room in it, costs a line."""
    from mlflow import MlflowException

    try:
        return set_aliases(store, best_runs(root, names))
    except MlflowException as error:
        return {"registry": f"left alone, MLflow says: {textwrap.shorten(redact(str(error)), 200, placeholder=' ...')}"}


def _open(store: Store, config: RunConfig, root: Path, figures: Mapping[str, float]) -> tuple[RunLog, RunIdentity]:
    card_file = root / "data" / "processed" / "train" / f"{config.label}.json"
    card = read_json(card_file) if card_file.is_file() else {}
    settings = EvaluateConfig.load(root / "configs") if figures else None
    run = RunIdentity.of(config, card, settings)
    log = store.find(run, figures) if not card else None
    if log is None:
        log = store.join(run, now())
    if log.new:
        log.describe(origin("sync"))
    return log, run


def _fits(log: RunLog, results: Results, config: RunConfig, trained: Path) -> bool:
    """Whether the figures were measured on the weights that are here; those that MLflow has already are trusted."""
    if not log.lacks(evaluation_figures(results)):
        return True
    from visage.training.outputs import load_trained
    from visage.weights import weights_hash

    return results.model_hash == weights_hash(load_trained(trained, config))


def _committed_figures(path: Path) -> dict[str, float]:
    """The figures that git holds, all there is of an evaluation in a clone without its data; empty without a file."""
    return named_figures(read_json(path)) if path.is_file() else {}


def _summary(log: RunLog, *, trained: bool, outdated: bool) -> str:
    added = [f"{count} {what}" for what, count in log.added.items() if count]
    parts = ["rebuilt" if log.new else "completed", *added] if added else ["up to date"]
    if not trained:
        parts.append("figures only: `dvc repro`, or `dvc pull` where there is a remote, brings curves and pictures")
    if outdated:
        parts.append("its figures are of other weights and were left out: run `dvc repro`")
    return ", ".join(parts)


def _read(path: Path, kind: type[T]) -> T | None:
    return read(path, kind) if path.is_file() else None


def main() -> None:
    """Sync the project in the working directory."""
    redact_streams()
    root = Path.cwd()
    try:
        for name, done in sync_all(root, Path(os.environ.get("DVC_ROOT", root))).items():
            print(f"{name}: {done}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
