"""MLflow's registry: one registered model for each image size, whose aliases name the best runs.

Figures are compared within one size only, so a size is what can have a best model. Its versions are the models that
have been the best ones, oldest first.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from visage.tracking.identity import RUN_KEY
from visage.tracking.log import Store
from visage.tracking.standings import Best

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

MODEL_ID = "visage.model_id"
"""The tag of a version that names its logged model."""


def registered_name(experiment: str, size: int) -> str:
    """What a size's model is called, such as `visage-32`."""
    return f"{re.sub('[/:]', '-', experiment)}-{size}"


def set_aliases(store: Store, best: Sequence[Best]) -> dict[str, str]:
    """Point the aliases at the models of the best runs; (name@alias -> run) of those that have moved.

    A run that MLflow does not have, or that has no model there, is passed over.

    Raises:
        MlflowException: the store has no registry, or cannot be reached.
    """
    moved = {}
    for one in best:
        name, model_id = registered_name(store.experiment, one.size), _model_id(store, one.key)
        if model_id is None:
            continue
        version, aliases = _version(store, name, model_id, one), _aliases(store, name)
        if aliases.get(one.alias) != version:
            store.client.set_registered_model_alias(name, one.alias, version)
            moved[f"{name}@{one.alias}"] = one.run
    return moved


def _model_id(store: Store, key: str) -> str | None:
    """The model of the latest run with this key; None where there is none."""
    runs = store.runs(RUN_KEY, key)
    outputs = runs[0].outputs.model_outputs if runs and runs[0].outputs else []
    return str(outputs[-1].model_id) if outputs else None


def _version(store: Store, name: str, model_id: str, one: Best) -> str:
    """The version of a model, created where there is none."""
    versions: list[ModelVersion] = list(store.client.search_model_versions(f"name = '{name}'", max_results=1000))
    known = {version.tags.get(MODEL_ID): str(version.version) for version in versions}
    if model_id in known:
        return known[model_id]
    if not versions and not list(store.client.search_registered_models(f"name = '{name}'")):
        text = f"The best models of {one.size} x {one.size} pixels in the experiment {store.experiment}."
        store.client.create_registered_model(name, description=text)
    model = store.client.get_logged_model(model_id)
    version = store.client.create_model_version(
        name,
        model.artifact_location,
        model.source_run_id,
        tags={MODEL_ID: model_id, "run": one.run},
        description=f"{one.run}: {one.metric} {one.value:.4g} when it became {one.alias}",
        model_id=model_id,
    )
    link = [{"name": name, "version": str(version.version)}]  # MLflow's page of the model shows it
    store.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(link)})
    return str(version.version)


def _aliases(store: Store, name: str) -> dict[str, str]:
    return {alias: str(version) for alias, version in store.client.get_registered_model(name).aliases.items()}
