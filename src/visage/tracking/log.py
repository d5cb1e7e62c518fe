"""MLflow's side: the experiment in the store, and one run in it. MLflow is imported where it is used."""

import contextlib
import io
import math
import os
import sqlite3
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

from visage.errors import UserError
from visage.redaction import redact
from visage.tracking.datasets import ImageData, Measured
from visage.tracking.events import now
from visage.tracking.identity import CONFIG_KEY, RUN_KEY, SEEDS_KEY, RunIdentity
from visage.tracking.store import DATABASES, ENVIRONMENT, sqlite_file, store_uri

T = TypeVar("T")

REASON = "visage.reason"
"""Why a run failed or was killed."""

BATCH = 1000
"""Metrics that MLflow takes in one call."""
BATCH_TEXTS = 100
"""Parameters or tags that MLflow takes in one call."""
MALFORMED = "malformed"
"""What SQLite says of a damaged file."""
REBUILD = (
    "move it away, and `make sync` rebuilds it with what this project has logged, or name another in "
    "MLFLOW_TRACKING_URI"
)
"""What helps where a store cannot be repaired."""
MLFLOWS = "mlflow."
"""How the names of tags begin that have a meaning for MLflow; the first one of a run to set them is right."""


class Store:
    """The MLflow experiment, created with its database where there is none.

    Raises:
        UserError: it is damaged, or MLflow cannot use it; the message is one line, with the fix where it is known.
    """

    def __init__(self, root: Path, experiment: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.uri, self.experiment, self._root = store_uri(root), experiment, root
        with explained(self.uri):
            self._open(MlflowClient, experiment, root)

    def _open(self, client: "type[MlflowClient]", experiment: str, root: Path) -> None:
        with self.lock():  # two processes that create the tables of one database destroy it
            if file := sqlite_file(self.uri):
                _prepare(file, client)
            self.client = client(self.uri)
            self.experiment_id = _again(lambda: self._experiment(experiment, root))
            bring_files_along(self.uri, self.experiment_id, _files(root))

    def lock(self) -> AbstractContextManager[Any]:
        """Alone among the processes and threads of this project."""
        path = self._root / ".scratch" / "mlflow.lock"
        path.parent.mkdir(exist_ok=True)
        return FileLock(path)

    def _experiment(self, name: str, root: Path) -> str:
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage == "deleted":  # in MLflow's page; it keeps the name, and takes no runs
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        database = urlsplit(self.uri).scheme.split("+")[0] in DATABASES  # which keeps no files, and a server does
        location = _files(root) if database else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def resume(self, identity: RunIdentity, began: int) -> "RunLog":
        """For training: the latest run with this key unless it is finished, else a new one.

        began: when, in milliseconds.
        """
        runs = self.runs(RUN_KEY, identity.key)
        if runs and runs[0].info.status != "FINISHED":
            return self._continue(runs[0], identity)
        return self._start(identity, began)

    def join(self, identity: RunIdentity, began: int) -> "RunLog":
        """For evaluation, and for a training that was logged before: the latest run with this key, whatever its status,
        unless it was measured with other settings; else a new one.
        """
        runs = self.runs(RUN_KEY, identity.key) or self.runs(RUN_KEY, identity.config_key)
        same = runs and all(identity.params.get(key, value) == value for key, value in runs[0].data.params.items())
        return self._continue(runs[0], identity) if same else self._start(identity, began)

    def find(self, identity: RunIdentity, figures: Mapping[str, float]) -> "RunLog | None":
        """For a clone without the data: the latest run with this config and these figures."""
        for run in self.runs(CONFIG_KEY, identity.config_key):
            if run.data.metrics.items() >= figures.items():
                return RunLog(self.client, run.info.run_id, new=False)
        return None

    def runs(self, tag: str, value: str) -> "list[Run]":
        """The latest runs with this tag, the last one first."""
        return list(
            self.client.search_runs(
                [self.experiment_id],
                f"tags.`{tag}` = '{value}'",
                order_by=["attributes.start_time DESC"],
                max_results=50,
            )
        )

    def _start(self, identity: RunIdentity, began: int) -> "RunLog":
        # with its tags at once: one that is killed after this call is found again
        run = self.client.create_run(self.experiment_id, run_name=identity.name, start_time=began, tags=_tags(identity))
        return self._described(RunLog(self.client, run.info.run_id, new=True), run, identity)

    def _continue(self, run: "Run", identity: RunIdentity) -> "RunLog":
        return self._described(RunLog(self.client, run.info.run_id, new=False), run, identity)

    def _described(self, log: "RunLog", run: "Run", identity: RunIdentity) -> "RunLog":
        """The log of a run that has all of its tags and parameters, and the dataset."""
        tags = _tags(identity).items()
        log.describe({k: v for k, v in tags if not (k.startswith(MLFLOWS) and k in run.data.tags)}, identity.params)
        if identity.dataset is not None:
            title, digest = identity.dataset
            log.inputs([ImageData(title, digest, "training", f"data/processed/{identity.tags['size']}/train.npy")])
        return log


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or a row that it cannot read raises in this block into one line.

    Raises:
        UserError: one of these was raised.
    """
    from mlflow import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    python = (AttributeError, LookupError, TypeError, ValueError)  # what rows of other types make of MLflow's code
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError, *python) as error:
        raise UserError(_unusable(uri, error)) from error


def _prepare(path: Path, client: "type[MlflowClient]") -> None:
    """Refuse an SQLite file that is damaged or not MLflow's, before MLflow changes it; give an empty one its tables.

    MLflow takes any file that lacks one of its tables for a new one and creates, or upgrades, what it finds missing.
    Creating takes seconds and many transactions, and a process that is killed meanwhile would leave a store that MLflow
    can neither use nor complete. So the tables are made in another file, and come here in one transaction.

    Raises:
        UserError: the file is damaged, or has some of the tables.
        sqlite3.Error: it is none of SQLite's, or is locked.
    """
    import mlflow.store.db.utils  # noqa: F401  # which tells the next one of all tables
    from mlflow.store.db.base_sql_model import Base

    with contextlib.closing(sqlite3.connect(path, timeout=60)) as store:
        (found,) = store.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"{MALFORMED}: {found}")
        tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := sorted(Base.metadata.tables.keys() - tables) if tables else []:
            raise UserError(
                f"the store {path} lacks {len(missing)} of MLflow's tables, such as {missing[0]}: if an older "
                f"MLflow made it, run `mlflow db upgrade sqlite:///{path}` after a backup; else {REBUILD}"
            )
        if not tables:
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / path.name
                client(f"sqlite:///{made}").search_experiments(max_results=1)
                with contextlib.closing(sqlite3.connect(made)) as source:
                    source.backup(store)


def _unusable(uri: str, error: Exception) -> str:
    """One line that says what MLflow says, and what helps."""
    kind = "" if str(error) and "." in type(error).__module__ else f"{type(error).__name__}: "
    told = textwrap.shorten(kind + redact(str(error)), 300, placeholder=" ...")
    fixes = {
        "error code 401": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        "error code 403": "use an account that may write there",
        "out-of-date database schema": "`mlflow db upgrade` changes an older store after a backup; for a newer one, "
        "install the MLflow that made it, or name another in MLFLOW_TRACKING_URI",
        "database is locked": "wait for the program that writes to it, or end it",
        "disk is full": "free some space, and run `make sync`",
        "No space left": "free some space, and run `make sync`",
        "No module named": "install this driver beside MLflow, or unset MLFLOW_TRACKING_URI",
    }
    other = REBUILD if sqlite_file(uri) else "correct or unset MLFLOW_TRACKING_URI"
    fix = next((fix for sign, fix in fixes.items() if sign in str(error)), other)
    return f"MLflow cannot use the store {redact(uri)} ({told}): {fix}"


def _files(root: Path) -> str:
    """Where the files of a database's runs are."""
    return (root.resolve() / "mlartifacts").as_uri()


HOLD_PATHS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database in which whole paths are."""


def bring_files_along(uri: str, experiment_id: str, files: str) -> None:
    """Have an SQLite store find its files where they are, after the project was moved or copied.

    MLflow keeps whole paths, and no function of it changes them: it would go on in the old folder, or in the original.

    files: the folder of the files, as a URI.
    """
    path = sqlite_file(uri)
    if path is None:
        return
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as store, store:
        query = "SELECT artifact_location FROM experiments WHERE experiment_id = ?"
        before = str(store.execute(query, (experiment_id,)).fetchone()[0])
        if before == files or before.rpartition("/")[2] != files.rpartition("/")[2]:
            return
        store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (files, experiment_id))
        for table, column in HOLD_PATHS:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (files, len(before) + 1, len(before) + 1, f"{before}/"),
            )


def _again(action: Callable[[], T]) -> T:
    """Do again what failed because another run, perhaps on another machine, made the same at the same moment."""
    from mlflow import MlflowException

    try:
        return action()
    except MlflowException as error:
        if error.error_code not in ("BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"):
            raise
        return action()


def _tags(identity: RunIdentity) -> dict[str, str]:
    keys = {RUN_KEY: identity.key, CONFIG_KEY: identity.config_key, SEEDS_KEY: identity.seeds_key}
    return identity.tags | keys


class RunLog:
    """One MLflow run. Whatever it is told twice, it logs once.

    added: how many metrics, points of curves, pictures, files, sets of images and models it has logged.
    """

    def __init__(self, client: "MlflowClient", run_id: str, *, new: bool) -> None:
        self.client, self.run_id, self.new = client, run_id, new
        self.added = {"parameters": 0, "metrics": 0, "points": 0, "pictures": 0, "files": 0, "datasets": 0, "models": 0}
        self._params: set[str] | None = set() if new else None  # those that it has, None where it is not known yet
        self._last_step: dict[str, int] = {}
        self._image_steps = set() if new else set(self._logged_images())

    def describe(self, tags: Mapping[str, str], params: Mapping[str, str] | None = None) -> None:
        """Set tags, and log the parameters that the run lacks; MLflow refuses to change one."""
        from mlflow.entities import Param, RunTag

        missing = [Param(key, value) for key, value in self._missing(params).items()] if params else []
        wanted = [RunTag(key, value) for key, value in tags.items()]
        for start in range(0, max(len(missing), len(wanted)), BATCH_TEXTS):
            part = slice(start, start + BATCH_TEXTS)
            self.client.log_batch(self.run_id, params=missing[part], tags=wanted[part])
        self.added["parameters"] += len(missing)

    def points(self, rows: Iterable[tuple[int, int, Mapping[str, float]]]) -> None:
        """Append (time in ms, step, values) to curves, leaving out steps that a curve already has.

        Values that are not finite stay out of the charts; a tag names the first.
        """
        from mlflow.entities import Metric

        metrics = []
        for when, step, values in rows:
            for key, value in values.items():
                if step <= self._last(key):
                    continue
                self._last_step[key] = step
                if math.isfinite(value):
                    metrics.append(Metric(key, value, when, step))
                else:
                    self.describe({"not_finite": f"{key} at step {step}"})
        self._log(metrics)
        self.added["points"] += len(metrics)

    def figures(
        self, values: Mapping[str, float], model_id: str | None = None, measured: Measured | None = None
    ) -> int:
        """Log figures that belong to the whole run, where they are new or differ; the number of those.

        They have no step, so that MLflow draws a bar for each run.

        model_id: the model whose figures they are, too; it gets those that it lacks.
        measured: on which images.
        """
        from mlflow.entities import Metric

        missing = self.lacks(values) | self._model_lacks(model_id, values)
        metrics = []
        for key, value in missing.items():
            name, digest = measured.of(key).key if measured else (None, None)
            metrics.append(Metric(key, value, now(), 0, model_id, name, digest))
        self._log(metrics)
        self.added["metrics"] += len(metrics)
        return len(metrics)

    def _model_lacks(self, model_id: str | None, values: Mapping[str, float]) -> dict[str, float]:
        if model_id is None:
            return {}
        logged = sorted(self.client.get_logged_model(model_id).metrics or [], key=lambda one: one.timestamp)
        known = {metric.key: metric.value for metric in logged}
        return {key: value for key, value in values.items() if known.get(key) != value}

    def inputs(self, sets: Sequence[ImageData]) -> None:
        """Add the sets of images that the run does not have yet."""
        run = self.client.get_run(self.run_id)
        known = {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs} if run.inputs else set()
        missing = [one.entity() for one in sets if one.key not in known]
        if missing:
            _again(lambda: self.client.log_inputs(self.run_id, missing))
            self.added["datasets"] += len(missing)

    def lacks(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of these figures that the run does not have, or has with other values."""
        known = self.client.get_run(self.run_id).data.metrics
        return {key: value for key, value in values.items() if known.get(key) != value}

    def image(self, key: str, content: bytes, step: int) -> None:
        """Add a PNG picture to a series over the steps."""
        from PIL import Image

        if (key, step) not in self._image_steps:
            self._image_steps.add((key, step))
            self.client.log_image(self.run_id, Image.open(io.BytesIO(content)), key=key, step=step)
            self.added["pictures"] += 1

    def files(self, paths: Iterable[Path], folder: str, *, replace: bool) -> None:
        """Add files as artifacts; those with names that are there already only if `replace`."""
        known = set() if replace else {item.path for item in self.client.list_artifacts(self.run_id, folder)}
        for path in paths:
            if f"{folder}/{path.name}" not in known:
                self.client.log_artifact(self.run_id, str(path), folder)
                self.added["files"] += 1

    def has_tag(self, tag: str) -> bool:
        """Whether the run has this tag."""
        return tag in self.client.get_run(self.run_id).data.tags

    def reopen(self) -> None:
        """Set the status of a run that is continued."""
        self.client.update_run(self.run_id, status="RUNNING")
        if REASON in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, REASON)

    def finish_if_open(self) -> None:
        """End a run that another process left open, failed or killed; one that is finished keeps its time of end."""
        if self.client.get_run(self.run_id).info.status != "FINISHED":
            self.reopen()
            self.end("FINISHED", "")

    def end(self, status: str, reason: str) -> None:
        """Set the run's status, and the reason where there is one."""
        if reason:
            self.describe({REASON: redact(reason.split("\n", maxsplit=1)[0])})
        self.client.set_terminated(self.run_id, status)

    def _missing(self, params: Mapping[str, str]) -> dict[str, str]:
        """The parameters that the run does not have yet, which will be logged now."""
        if self._params is None:
            self._params = set(self.client.get_run(self.run_id).data.params)
        missing = {key: value for key, value in params.items() if key not in self._params}
        self._params |= set(missing)
        return missing

    def _log(self, metrics: "Sequence[Metric]") -> None:
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def _last(self, key: str) -> int:
        """Last step of a curve, -1 for a curve without points."""
        if key not in self._last_step:
            history = [] if self.new else self.client.get_metric_history(self.run_id, key)
            self._last_step[key] = max((point.step for point in history), default=-1)
        return self._last_step[key]

    def _logged_images(self) -> Iterable[tuple[str, int]]:
        for item in self.client.list_artifacts(self.run_id, "images"):
            key, _, step, *_ = Path(item.path).name.split("+")  # <key>+step+<step>+timestamp+...
            yield key.replace("~", "/"), int(step)  # MLflow writes ~ for the slashes of a key
