"""The model of a run in MLflow: it names the weights that DVC keeps, and holds no copy of them and no pickle.

Its files are an `MLmodel`, which says that `visage.tracking.pyfunc` loads it, and `weights.json`, a `Pointer`.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visage.files import Strict, write_json
from visage.results import Training
from visage.tracking.identity import LABEL, NOTE, RUN_KEY, RunIdentity

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

    from visage.tracking.log import RunLog

POINTER = "weights.json"
WEIGHTS_SHA256 = "weights_sha256"
"""The tag of a run and of its model that holds the hash of the weights' file."""
OF_A_RUN = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags that MLflow's page of a model shows, and that its run has."""
LOADER = "visage.tracking.pyfunc"


@dataclass(frozen=True, slots=True)
class Pointer(Strict):
    """Which weights a model has.

    run: the name of the run. folder: that of its training, from the project's root, such as `runs/vae-32-0/train`.
    sha256: hex digest of the `model.safetensors` in it.
    """

    run: str
    folder: str
    sha256: str


def log_model(log: "RunLog", training: Training, sha256: str) -> str:
    """Have a model of these weights in a run, once however often it is asked for; return its id.

    One that was cut off while it was made is completed. Of two that are made at the same moment the older one stays.

    sha256: hex digest of the weights' file.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client, run = log.client, log.client.get_run(log.run_id)
    experiment = str(run.info.experiment_id)
    found = _with_weights(client, experiment, log.run_id, sha256)
    if not found:
        identity, weights = RunIdentity.of(training.config, {}, None), f"{_folder(training)}/model.safetensors"
        created = client.create_logged_model(
            experiment,
            name=training.config.name,
            source_run_id=log.run_id,
            model_type=training.config.model,
            params=identity.params,
            tags={
                "run": training.config.name,
                LABEL: training.config.label,
                RUN_KEY: training.key,
                WEIGHTS_SHA256: sha256,
                "weights": weights,
                NOTE: f"DVC keeps the weights, `{weights}`; in the project's folder they can be loaded.",
                **{key: value for key, value in run.data.tags.items() if key in OF_A_RUN},
            },
        )
        found = _with_weights(client, experiment, log.run_id, sha256)
        if found[0].model_id != created.model_id:
            client.delete_logged_model(created.model_id)
        else:
            log.added["models"] += 1
    model = found[0]
    if model.status != LoggedModelStatus.READY:
        pointer = Pointer(training.config.name, _folder(training), sha256)
        _add_files(client, model, pointer, log.run_id)
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(log.run_id, [LoggedModelOutput(model.model_id, training.selected_step)])
    return str(model.model_id)


def _folder(training: Training) -> str:
    return f"runs/{training.config.name}/train"


def _with_weights(client: "MlflowClient", experiment: str, run_id: str, sha256: str) -> "list[LoggedModel]":
    """The models of a run with these weights, the oldest first."""
    wanted = f"source_run_id = '{run_id}' AND tags.{WEIGHTS_SHA256} = '{sha256}'"
    models = client.search_logged_models([experiment], wanted)
    return sorted(models, key=lambda model: (model.creation_timestamp, model.model_id))


def _add_files(client: "MlflowClient", model: "LoggedModel", pointer: Pointer, run_id: str) -> None:
    from mlflow.models import Model
    from mlflow.pyfunc import add_to_model

    described = Model(run_id=run_id, model_id=model.model_id, signature=_signature())
    add_to_model(described, loader_module=LOADER, data=POINTER)  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, POINTER), asdict(pointer))
        described.save(str(Path(folder, "MLmodel")))
        client.log_model_artifacts(model.model_id, folder)


def _signature() -> "ModelSignature":
    """What `predict` takes: a number of images and, where wanted, a seed."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(inputs=Schema([ColSpec(DataType.long, "n"), ColSpec(DataType.long, "seed", required=False)]))
