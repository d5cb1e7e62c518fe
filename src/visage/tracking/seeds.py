"""Runs that differ in their seed alone, below one run in MLflow that holds the mean and the range of their figures.

A run knows its siblings by the tag `SEEDS_KEY`. The run above them is found by `PARENT_KEY`, which has the same value,
and is there as soon as there are two seeds: a single run stands for itself.
"""

import random
import time
from typing import TYPE_CHECKING

from visage.tracking.identity import PARENT_KEY, SEEDS_KEY, RunIdentity
from visage.tracking.log import RunLog, Store

if TYPE_CHECKING:
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"
"""The tag by which MLflow shows runs below another one."""
ATTEMPTS = 8
"""How often the run above the seeds is attempted while other machines change it."""
OF_A_SEED = ("seed", "name", "first_stage.seed", "first_stage.name")
"""The parameters in which seeds differ."""


def group_seeds(store: Store, identity: RunIdentity) -> None:
    """Have the run above all seeds of a run, with their mean and range, where there are two seeds or more.

    Processes of one project do this one after the other. Other machines may do it at the same moment: whoever finds
    that something has changed meanwhile, or is refused, does it again.

    Raises:
        MlflowException: the store failed again and again.
    """
    from mlflow import MlflowException

    for attempt in range(ATTEMPTS):
        try:
            with store.lock():
                if _group(store, identity):
                    return
        except MlflowException:
            if attempt == ATTEMPTS - 1:
                raise
        time.sleep(attempt * random.random())


def _group(store: Store, identity: RunIdentity) -> bool:
    """Try it; whether it is done."""
    siblings = store.runs(SEEDS_KEY, identity.seeds_key)
    latest = {run.data.tags.get("seed", ""): run for run in reversed(siblings)}
    if len(latest) < 2:
        return True
    log = _parent(store, identity, siblings)
    for run in siblings:
        if run.data.tags.get(PARENT) != log.run_id:
            store.client.set_tag(run.info.run_id, PARENT, log.run_id)
    log.describe({"seeds": ", ".join(sorted(latest, key=_number))})
    log.figures(spread(list(latest.values())))
    return [run.info.run_id for run in store.runs(PARENT_KEY, identity.seeds_key)] == [log.run_id]


def spread(runs: "list[Run]") -> dict[str, float]:
    """Mean, lowest and highest of each figure that all measured runs have, of two runs or more."""
    measured = [{key: value for key, value in run.data.metrics.items() if key.startswith("eval/")} for run in runs]
    measured = [figures for figures in measured if figures]
    if len(measured) < 2:
        return {}
    found: dict[str, float] = {}
    for key in sorted(set.intersection(*(set(figures) for figures in measured))):
        values, name = [figures[key] for figures in measured], key.removeprefix("eval/")
        found |= {key: sum(values) / len(values), f"lowest/{name}": min(values), f"highest/{name}": max(values)}
    return found


def _parent(store: Store, identity: RunIdentity, siblings: "list[Run]") -> RunLog:
    """The run above the seeds. Where two machines have made one each at the same moment, the older one stays."""
    own = (*OF_A_SEED, *(key for key in identity.params if key.startswith("evaluate.")))  # measured anew, these change
    params = {key: value for key, value in identity.params.items() if key not in own}
    parents = store.runs(PARENT_KEY, identity.seeds_key) or _adopted(store, identity, siblings)
    if not parents:
        began = min(run.info.start_time for run in siblings)
        label, _, experiment = identity.name.partition(" ")
        name = f"{label.rpartition('-')[0]} {experiment}".strip()
        tags = {key: identity.tags[key] for key in ("recipe", "size", "scale")} | {PARENT_KEY: identity.seeds_key}
        run = store.client.create_run(store.experiment_id, run_name=name, start_time=began, tags=tags)
        store.client.set_terminated(run.info.run_id, "FINISHED")
        parents = store.runs(PARENT_KEY, identity.seeds_key)
    first, *others = sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    for other in others:
        store.client.delete_run(other.info.run_id)
    log = RunLog(store.client, first.info.run_id, new=False)
    log.describe({}, params)
    return log


def _adopted(store: Store, identity: RunIdentity, siblings: "list[Run]") -> "list[Run]":
    """The run above the seeds from the time when their data was not known, which had another key then."""
    known = sorted({run.data.tags[PARENT] for run in siblings if PARENT in run.data.tags})
    parents = [run for run in map(store.client.get_run, known) if run.info.lifecycle_stage == "active"]
    for run in parents:
        store.client.set_tag(run.info.run_id, PARENT_KEY, identity.seeds_key)
    return parents


def _number(seed: str) -> int:
    return int(seed) if seed.isdecimal() else -1
