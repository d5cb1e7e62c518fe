"""What can be trained, and what is trained, as plain data."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visage.config import RunConfig
from visage.results import Results, Training, read
from visage.using.places import RUN, find_project, trained_runs

SOURCE = Path(__file__).parents[2]
"""The folder that holds this package."""


def recipes(start: Path | None = None) -> list[dict[str, Any]]:
    """Each recipe of the project's params.yaml: recipe, model, title, paper, can.

    Raises:
        UserError: there is no project here, or its params.yaml is wrong.
    """
    from visage import params
    from visage.models import base
    from visage.report.model_page import ABILITIES
    from visage.training.outputs import build_model

    project = find_project(start)
    shipped = params.load(project / "params.yaml")
    labels = [f"{recipe}-{min(shipped.preprocess.sizes)}" for recipe in shipped.recipes]
    found = []
    for config in params.resolve(shipped.model_copy(update={"runs": labels, "seeds": shipped.seeds[:1]}), SOURCE):
        model, kind = build_model(config), base.find(config.model)
        can = [words for name, words in ABILITIES.items() if base.can(model, getattr(base, name))]
        found.append(
            {"recipe": config.recipe, "model": config.model, "title": title(kind), "paper": kind.paper, "can": can}
        )
    return found


def title(kind: type) -> str:
    """What a model is called: the beginning of its file's docstring, up to the paper."""
    first = (inspect.getdoc(inspect.getmodule(kind)) or "").split("\n", 1)[0]
    return re.split(r" \(|[:,.]", first)[0].removeprefix("The ")


def trained(metrics: Sequence[str], start: Path | None = None) -> list[dict[str, Any]]:
    """Each trained run: run, model, folder, and the figures that there are of `metrics`.

    A figure is {"value", "kind", "text"}: text as the page writes it, with ≤ for an upper bound.

    Raises:
        UserError: there is no project here, or a file of results is damaged.
    """
    from visage.measures.table import BY_KEY
    from visage.report.wording import MARKS, WRITE

    project = find_project(start)
    found = []
    for name in trained_runs(project):
        folder = project / "runs" / name
        config: RunConfig = read(folder / "train" / RUN, Training).config
        results = folder / "evaluate" / "results.json"
        figures = {}
        if results.is_file():
            measured = read(results, Results)
            for metric in metrics:
                record = measured.find(metric)
                if record is not None and record.value is not None:
                    text = MARKS.get(record.kind, "") + WRITE[BY_KEY[metric].format](record.value)
                    figures[metric] = {"value": record.value, "kind": record.kind, "text": text}
        where = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        found.append({"run": name, "model": config.model, "folder": where.as_posix(), "figures": figures})
    return found
