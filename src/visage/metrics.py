"""`metrics/`, which git keeps: the plain figures and the costs of the runs, copied from where DVC keeps them.

    metrics/<run>.json           all figures, `Results.metrics`
    metrics/summary/<run>.json   a dozen of them, which `dvc metrics` and `dvc exp show` compare: `summary`
    metrics/cost/<stage>/        `TrainingCost`, `EvaluationCost`
    metrics/<shared stage>.json  the figures of a stage that measures no run

A stage that has run on another machine is taken from DVC's cache if all of its outputs are there, so a file that git
keeps instead can be no output of it. Therefore each stage writes its figures beside its results, and they are copied:
by an evaluation, as soon as they are known, and by the report, also for the stages that DVC took from its cache.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from visage.files import replacing, write_json
from visage.results import Results, cost_file, read

FIGURES = "metrics.json"
"""The file with the plain figures in the folder of a stage that measures no run."""
SHARED = ("attribute_network", "reference")
"""Those stages; their folders are in data/."""
COSTLY = ("download", "preprocess", *SHARED)
"""The stages whose costs are in data/cost."""
SUMMARIZED = (
    "recon_mse",
    "bits_per_dim",
    "elbo",
    "fd_attr128",
    "kd_attr128",
    "precision",
    "recall",
    "coverage",
    "memorization",
    "probe_auroc",
    "ood_auroc",
)
"""The figures of a run's summary: of each of the page's views but cost those by which models are compared first."""
TRIPPED = "tripped"
"""The figure of a summary that counts the tripwires that are tripped."""
STAGES: tuple[Literal["train"], Literal["evaluate"]] = ("train", "evaluate")


def publish(root: Path, names: Iterable[str]) -> None:
    """Make `metrics/` hold what is known of the named runs, and of the stages that all runs share, and nothing else.

    Raises:
        UserError: the results of a run are damaged.
    """
    folder = root / "metrics"
    found = {folder / f"{stage}.json": path for stage in SHARED if (path := root / "data" / stage / FIGURES).is_file()}
    costs = {folder / "cost" / f"{stage}.json": root / "data" / "cost" / f"{stage}.json" for stage in COSTLY}
    found |= {target: source for target, source in costs.items() if source.is_file()}
    published = {path for name in names for path in publish_run(root, name)}
    for target, source in found.items():
        _copy(source, target)
    for path in folder.rglob("*.json"):
        if path not in published | found.keys():
            path.unlink()


def publish_run(root: Path, name: str) -> list[Path]:
    """Copy the figures and costs of one run, as far as they are there; return the files in `metrics/`.

    Raises:
        UserError: the results are damaged.
    """
    published = []
    results = root / "runs" / name / "evaluate" / "results.json"
    if results.is_file():
        figures = read(results, Results).metrics()
        for path, content in ((f"{name}.json", figures), (f"summary/{name}.json", summary(figures))):
            published.append(root / "metrics" / path)
            write_json(published[-1], content)
    for stage in STAGES:
        if (cost := cost_file(root, name, stage)).is_file():
            published.append(root / "metrics" / "cost" / stage / f"{name}.json")
            _copy(cost, published[-1])
    return published


def summary(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures by which runs are compared, those of `SUMMARIZED` that are defined, and how many tripwires tripped.

    figures: `Results.metrics`.
    """
    return {key: figures[key] for key in SUMMARIZED if key in figures} | {TRIPPED: sum(figures["tripwires"].values())}


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
