"""MLflow as a view of what git and DVC hold: one MLflow run for every run, size and seed, found by a tag.

Importing MLflow takes five seconds of pure Python. In a thread that would stall the training for most of them, so a
second process does it: `Tracker` hands events through a pipe to `python -m visage.tracking`, which opens the run and
logs them in order. A training pays microseconds for an event, and nothing that happens to MLflow can harm it: when
logging fails, one line says so, later events are dropped, and `python -m visage.sync` adds afterwards what is missing.
When the training is killed the pipe breaks, and the other process marks the run as killed.

An MLflow run is identified by the tag `visage.run_key` = `RunConfig.key(card)`: its config, code and data. Training
goes on in the latest run with that key unless it is finished; evaluation joins it. Only this file imports MLflow.
"""

import base64
import csv
import hashlib
import http.client
import io
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

from visage.config import EvaluateConfig, RunConfig
from visage.errors import UserError
from visage.files import read_json, sha256

Mode = Literal["train", "evaluate"]

RUN_KEY = "visage.run_key"
CONFIG_KEY = "visage.config_key"
"""As the run key, without the data: finds a run in a clone that does not have the data."""
LABEL = "visage.label"
"""`RunConfig.label`, by which runs are grouped that differ in their seed alone."""
REASON = "visage.reason"
"""Why a run failed or was killed."""

GATHER_SECONDS = 2.0
"""Events are logged together that arrive within this time."""
SYSTEM_SECONDS = {"demo": 5, "full": 10}
"""Between two measurements of the machine, by scale."""
BATCH = 1000
"""Metrics that MLflow takes in one call."""
BATCH_TEXTS = 100
"""Parameters or tags that MLflow takes in one call."""
LONGEST_PARAM = 6000
LONGEST_DIGEST = 36

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that died is given up after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Defaults for MLflow, set before it is imported."""


# ---------------------------------------------------------------------------------------------------------------------
# The store: where it is, and whether it can be used


def tracking_is_off() -> bool:
    """Whether VISAGE_TRACKING=off asks for no MLflow at all."""
    return os.environ.get("VISAGE_TRACKING") == "off"


def store_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else a SQLite file in the project's root. A relative SQLite path is taken from the root.

    Not from the working directory: DVC's temporary copies of a project are deleted, and the store would go with them.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = uri.removeprefix("sqlite:///")
    return f"sqlite:///{root.resolve() / path}" if path != uri else uri


def check_store(uri: str) -> None:
    """See, without importing MLflow and within seconds, whether a store can be used.

    Raises:
        UserError: nothing answers there, the folder cannot be written, or MLflow does not know such a store.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in ("http", "https"):
        _check_server(uri)
    elif uri.startswith("sqlite:///"):
        _check_sqlite(Path(uri.removeprefix("sqlite:///")))
    elif scheme not in ("postgresql", "mysql", "mssql"):
        raise UserError(
            f"MLFLOW_TRACKING_URI={uri} is no store that MLflow can track in (folders such as ./mlruns no longer are): "
            "name a server (http://...) or a file (sqlite:///mlflow.db), or unset it"
        )


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")  # without a password
    mend = "start the server, or unset MLFLOW_TRACKING_URI to use mlflow.db"
    try:
        with urllib.request.urlopen(f"{shown}/health", timeout=5):
            pass
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):  # a server that wants credentials, which MLflow knows how to give
            raise UserError(f"{shown} answers {error.code} instead of being an MLflow server: {mend}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"the MLflow server {shown} cannot be reached ({reason}): {mend}") from error


def _check_sqlite(path: Path) -> None:
    if not path.parent.is_dir():
        raise UserError(
            f"{path.parent}, the folder of the MLflow store {path.name}, does not exist: "
            "create it, or unset MLFLOW_TRACKING_URI"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"the MLflow store {path} cannot be written: allow it, or set MLFLOW_TRACKING_URI to another")
    if path.is_dir() or (path.exists() and not _looks_like_sqlite(path)):
        raise UserError(f"{path} is not an SQLite file: move it away, or set MLFLOW_TRACKING_URI to another")


def _looks_like_sqlite(path: Path) -> bool:
    with path.open("rb") as f:
        return f.read(16) in (b"", b"SQLite format 3\0")


# ---------------------------------------------------------------------------------------------------------------------
# What identifies and describes a run


@dataclass(frozen=True, slots=True)
class Subject:
    """What MLflow is told about a run, whoever opens it.

    key, config_key: see `RUN_KEY` and `CONFIG_KEY`; equal where the data is not known.
    params: every setting, flat; tags: facts about it.
    dataset: name and digest of the training images, None where they are not known.
    """

    name: str
    scale: str
    key: str
    config_key: str
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
        return cls(
            name=config.name,
            scale=config.scale,
            key=config.key(dict(card)),
            config_key=config.key({}),
            params={key: _text(value)[:LONGEST_PARAM] for key, value in flat(nested).items()},
            tags=tags,
            dataset=dataset,
        )


def flat(nested: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """One level of keys, joined: {"a": {"b": 1, "": 2}} gives {"a.b": 1, "a": 2}."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            result |= {f"{key}{separator}{k}".removesuffix(separator): v for k, v in flat(value, separator).items()}
        else:
            result[key] = value
    return result


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ---------------------------------------------------------------------------------------------------------------------
# The training's side: events into a pipe


class Tracker:
    """Hands what happens to the process that logs it. No method waits for MLflow, or fails because of it, but `close`.

    As a context manager it closes the run as finished, as failed with the reason when an error passes, and as killed
    after Ctrl-C or SystemExit (what SIGTERM becomes).
    """

    def __init__(self, command: Sequence[str] | None) -> None:
        """Start the process that logs.

        command: None tracks nothing.
        """
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._alive = command is not None
        if command is None:
            return
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        source = str(Path(__file__).parents[1])
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._messages,
            stderr=self._messages,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the training; the end of the pipe ends this process
        )
        self._writer = threading.Thread(target=self._write, args=(self._process,), daemon=True)
        self._writer.start()

    @classmethod
    def open(
        cls,
        config: RunConfig,
        card: Mapping[str, Any],
        *,
        root: Path,
        experiment: str,
        mode: Mode,
        evaluate: EvaluateConfig | None = None,
    ) -> Self:
        """Check the store, and begin to open the run without waiting for it. VISAGE_TRACKING=off tracks nothing.

        card: `data/processed/train/<label>.json`.
        root: the project's root (DVC_ROOT), which holds the default store.
        mode: training resumes or starts a run; evaluation joins it, or starts one where there is none, or where the one
            there is was measured with other settings.
        evaluate: the settings of an evaluation, parameters of the run.

        Raises:
            UserError: the store cannot be used, see `check_store`.
        """
        if tracking_is_off():
            return cls(None)
        check_store(store_uri(root))
        tracker = cls([sys.executable, "-m", "visage.tracking"])
        subject = asdict(Subject.of(config, card, evaluate))
        opening = {
            "root": str(root.resolve()),
            "experiment": experiment,
            "mode": mode,
            "time": now(),
            "subject": subject,
        }
        tracker._put(opening)
        return tracker

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves. Steps that a curve has already, from before a kill, are left out."""
        self._put({"do": "metrics", "time": now(), "step": step, "values": dict(values)})

    def image(self, key: str, path: Path, step: int) -> None:
        """Add a PNG file to a series that MLflow shows with a slider over the steps."""
        if self._alive:
            content = base64.b64encode(path.read_bytes()).decode()
            self._put({"do": "image", "key": key, "step": step, "content": content})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put({"do": "tags", "tags": dict(tags)})

    def finish_training(self, folder: Path, cost: Mapping[str, Any]) -> None:
        """Log what training wrote: `runs/<name>/train`, and the content of `metrics/cost/train/<name>.json`."""
        self._put({"do": "training", "folder": str(folder.resolve()), "cost": dict(cost)})

    def finish_evaluation(self, folder: Path, metrics: Mapping[str, Any], cost: Mapping[str, Any]) -> None:
        """Log what evaluation wrote: `runs/<name>/evaluate`, and what `metrics/` and `metrics/cost/evaluate` hold.

        The training's files beside the folder are logged too where MLflow lacks them (trained elsewhere, or cached).
        """
        event = {"do": "evaluation", "folder": str(folder.resolve()), "metrics": dict(metrics), "cost": dict(cost)}
        self._put(event)

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"], reason: str = "") -> None:
        """Wait until everything is logged, and end the run."""
        if self._process is None:
            return
        self._put({"do": "end", "status": status, "reason": reason})
        self._events.put(None)
        self._writer.join()
        if self._process.wait() != 0 and self._alive:
            self._give_up()
        self._messages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close("FINISHED")
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self.close("KILLED", f"{type(error).__name__} {error}".strip())
        else:
            self.close("FAILED", str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")

    def _put(self, event: dict[str, Any]) -> None:
        if self._alive:
            self._events.put(event)

    def _write(self, process: subprocess.Popen[bytes]) -> None:
        """The body of a thread: a full pipe must not hold up the training while the other process imports MLflow."""
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                while (event := self._events.get()) is not None:
                    pipe.write(json.dumps(event, default=float).encode() + b"\n")
                    pipe.flush()
        except OSError:  # the process is gone
            process.wait()
            self._give_up()

    def _give_up(self) -> None:
        self._alive = False
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").split("\n")
        why = next((line for line in reversed(lines) if line.strip()), "its process was killed")
        print(
            f"warning: MLflow logs no more of this run ({why}); the work goes on, and `python -m visage.sync` adds "
            "later what is missing",
            file=sys.stderr,
        )


def now() -> int:
    """Milliseconds, as MLflow counts time."""
    return time.time_ns() // 1_000_000


# ---------------------------------------------------------------------------------------------------------------------
# MLflow's side


class Store:
    """The MLflow experiment, created with its database where there is none."""

    def __init__(self, root: Path, experiment: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self.uri = store_uri(root)
        lock = root / ".scratch" / "mlflow.lock"
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock):  # two processes that create the tables of one database destroy it
            self.client = MlflowClient(self.uri)
            found = self.client.get_experiment_by_name(experiment)
            self.experiment_id = found.experiment_id if found else self._create(experiment, root)

    def _create(self, experiment: str, root: Path) -> str:
        server = self.uri.startswith("http")  # which keeps artifacts where it likes
        location = None if server else (root.resolve() / "mlartifacts").as_uri()
        experiment_id: str = self.client.create_experiment(experiment, artifact_location=location)
        return experiment_id

    def resume(self, subject: Subject, began: int) -> "RunLog":
        """For training: the latest run with this key unless it is finished, else a new one.

        began: when, in milliseconds.
        """
        runs = self._runs(RUN_KEY, subject.key)
        if runs and runs[0].info.status != "FINISHED":
            return self._continue(runs[0], subject)
        return self._start(subject, began)

    def join(self, subject: Subject, began: int) -> "RunLog":
        """For evaluation: the latest run with this key, unless it was measured with other settings; else a new one."""
        runs = self._runs(RUN_KEY, subject.key) or self._runs(RUN_KEY, subject.config_key)
        same = runs and all(subject.params.get(key, value) == value for key, value in runs[0].data.params.items())
        return self._continue(runs[0], subject) if same else self._start(subject, began)

    def find(self, subject: Subject, results: Mapping[str, float]) -> "RunLog | None":
        """For a clone without the data: the latest run with this config and these results."""
        for run in self._runs(CONFIG_KEY, subject.config_key):
            if run.data.metrics.items() >= results.items():
                return RunLog(self.client, run.info.run_id, new=False)
        return None

    def _runs(self, tag: str, value: str) -> "list[Run]":
        return list(
            self.client.search_runs(
                [self.experiment_id],
                f"tags.`{tag}` = '{value}'",
                order_by=["attributes.start_time DESC"],
                max_results=50,
            )
        )

    def _start(self, subject: Subject, began: int) -> "RunLog":
        from mlflow.entities import Dataset, DatasetInput, InputTag

        experiment = os.environ.get("DVC_EXP_NAME")
        name = f"{subject.name} [{experiment}]" if experiment else subject.name
        run = self.client.create_run(self.experiment_id, run_name=name, start_time=began)
        log = RunLog(self.client, run.info.run_id, new=True)
        log.describe(subject)
        if subject.dataset is not None:
            title, digest = subject.dataset
            source = json.dumps({"uri": f"data/processed/train/{subject.tags[LABEL]}.json"})
            dataset = Dataset(title, digest[:LONGEST_DIGEST], source_type="local", source=source)
            inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
            self.client.log_inputs(run.info.run_id, inputs)
        return log

    def _continue(self, run: "Run", subject: Subject) -> "RunLog":
        log = RunLog(self.client, run.info.run_id, new=False)
        log.describe(subject)
        return log


class RunLog:
    """One MLflow run. Whatever it is told twice, it logs once.

    added: how many metrics, points of curves, pictures and files it has logged.
    """

    def __init__(self, client: "MlflowClient", run_id: str, *, new: bool) -> None:
        self.client, self.run_id, self.new = client, run_id, new
        self.added = {"parameters": 0, "metrics": 0, "points": 0, "pictures": 0, "files": 0}
        self._last_step: dict[str, int] = {}
        self._image_steps = set() if new else set(self._logged_images())

    def describe(self, subject: Subject) -> None:
        """Log parameters and tags that the run lacks."""
        keys = {RUN_KEY: subject.key, CONFIG_KEY: subject.config_key}
        self.params(subject.params)
        self.tags(subject.tags | keys)

    def params(self, params: Mapping[str, str]) -> None:
        """Log the parameters that the run lacks; MLflow refuses to change one."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        missing = [Param(key, value) for key, value in params.items() if key not in known]
        for start in range(0, len(missing), BATCH_TEXTS):
            self.client.log_batch(self.run_id, params=missing[start : start + BATCH_TEXTS])
        self.added["parameters"] += len(missing)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

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
                    self.tags({"not_finite": f"{key} at step {step}"})
        self._log(metrics)
        self.added["points"] += len(metrics)

    def results(self, step: int, values: Mapping[str, float]) -> int:
        """Log figures that belong to the whole run, where they are new or differ; the number of those."""
        from mlflow.entities import Metric

        metrics = [Metric(key, value, now(), step) for key, value in self.lacks(values).items()]
        self._log(metrics)
        self.added["metrics"] += len(metrics)
        return len(metrics)

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
            self.tags({REASON: reason.split("\n", maxsplit=1)[0]})
        self.client.set_terminated(self.run_id, status)

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
            yield key, int(step)


def record_training(log: RunLog, folder: Path, cost: Mapping[str, Any]) -> None:
    """Log the files of `runs/<name>/train` as far as the run lacks them."""
    about = read_json(folder / "run.json")
    log.params({key: _text(value) for key, value in flat({"parameters": about["parameters"]}).items()})
    for split, file in (("train", "history.csv"), ("valid", "validation.csv")):
        with (folder / file).open(encoding="utf-8", newline="") as f:
            log.points((now(), int(row["step"]), _curves(split, row)) for row in csv.DictReader(f))
    for path in sorted((folder / "samples").glob("[0-9]*.png")):
        log.image("samples", path.read_bytes(), int(path.stem))
    log.files([folder / "run.json", folder / "history.csv", folder / "validation.csv"], "train", replace=log.new)
    log.tags(
        {
            "weights_sha256": sha256(folder / "model.safetensors"),
            "selected_step": str(about["selected_step"]),
            "selected_by": about["selected_by"],
        }
    )
    _record_cost(log, "train", about["steps"], cost)


def record_evaluation(
    log: RunLog, folder: Path, step: int, metrics: Mapping[str, Any], cost: Mapping[str, Any], *, replace: bool
) -> None:
    """Log what evaluation found.

    folder: `runs/<name>/evaluate`, whose pictures and JSON files are logged; it need not exist.
    step: where the figures stand on the axis of the curves, the length of the training.
    replace: log files again that are there already; done anyway where a figure is new.
    """
    changed = log.results(step, evaluation_results(metrics))
    files = sorted([*folder.glob("*.png"), *folder.glob("*.json")])
    log.files(files, "evaluate", replace=replace or changed > 0)
    _record_cost(log, "evaluate", step, cost)


def evaluation_results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `metrics/<name>.json` under MLflow's names: {"ood": {"elbo": 0.9}} -> {"eval/ood/elbo": 0.9}."""
    return {f"eval/{key}": float(value) for key, value in flat(metrics, "/").items()}


def _record_cost(log: RunLog, mode: Mode, step: int, cost: Mapping[str, Any]) -> None:
    numbers = {key: float(value) for key, value in cost.items() if isinstance(value, int | float)}
    log.results(step, {f"cost/{mode}/{key}": value for key, value in numbers.items()})
    log.tags({f"{mode}.{key}": str(value) for key, value in cost.items() if key not in numbers})


def _curves(split: str, row: Mapping[str, str]) -> dict[str, float]:
    return {f"{split}/{key}": float(value) for key, value in row.items() if key != "step" and value}


def origin(mode: str) -> dict[str, str]:
    """Where a run comes from, as tags: the git commit, marked where code or parameters were edited; DVC's stage."""
    tags = {}
    commit = _git("rev-parse", "HEAD")
    if commit:
        edited = _git("status", "--porcelain", "--", "src", "stages", "params.yaml")
        tags = {f"{mode}.git_commit": f"{commit} (edited)" if edited else commit}
    for name, variable in (("dvc_stage", "DVC_STAGE"), ("dvc_experiment", "DVC_EXP_NAME")):
        if variable in os.environ:
            tags[f"{mode}.{name}"] = os.environ[variable]
    return tags


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return ""


# ---------------------------------------------------------------------------------------------------------------------
# The process that logs


def _read(pipe: IO[str], events: "queue.SimpleQueue[dict[str, Any]]", ended: threading.Event) -> None:
    """The body of a thread: read events until the other side has none left, or dies."""
    for line in pipe:
        events.put(json.loads(line))
    ended.set()
    events.put({"do": "end", "status": "KILLED", "reason": "the process died"})


def _gather(events: "queue.SimpleQueue[dict[str, Any]]", ended: threading.Event) -> list[dict[str, Any]]:
    """Wait for an event, then a little for more."""
    gathered = [events.get()]
    ended.wait(GATHER_SECONDS)
    while not events.empty():
        gathered.append(events.get())
    return gathered


def _record(log: RunLog, event: Mapping[str, Any]) -> None:
    match event["do"]:
        case "image":
            log.image(event["key"], base64.b64decode(event["content"]), event["step"])
        case "tags":
            log.tags(event["tags"])
        case "training":
            record_training(log, Path(event["folder"]), event["cost"])
        case "evaluation":
            folder = Path(event["folder"])
            trained = folder.parent / "train"
            record_training(log, trained, {})
            step = read_json(trained / "run.json")["steps"]
            record_evaluation(log, folder, step, event["metrics"], event["cost"], replace=True)


def _say_why(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error as one short line, the last that this process says; `Tracker` shows it."""
    print(textwrap.shorten(f"{kind.__name__}: {error}", 200, placeholder=" ..."), file=sys.stderr, flush=True)
    os._exit(1)  # without waiting for threads that still read or measure


def main() -> None:
    """Log the events that arrive on stdin, one JSON object per line; the first says which run."""
    sys.excepthook = _say_why
    opening = json.loads(sys.stdin.readline())
    events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_read, args=(sys.stdin, events, ended), daemon=True).start()

    subject, mode = Subject(**opening["subject"]), opening["mode"]
    store = Store(Path(opening["root"]), opening["experiment"])
    open_run = store.resume if mode == "train" else store.join
    log = open_run(subject, opening["time"])
    log.tags(origin(mode))
    if not log.new:
        log.reopen()

    from mlflow import set_tracking_uri
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    set_tracking_uri(store.uri)  # where the monitor writes
    seconds = SYSTEM_SECONDS[subject.scale]
    monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        log.run_id, sampling_interval=seconds, resume_logging=not log.new
    )
    monitor.start()  # type: ignore[no-untyped-call]
    while True:
        gathered = _gather(events, ended)
        log.points((e["time"], e["step"], e["values"]) for e in gathered if e["do"] == "metrics")
        for event in gathered:
            if event["do"] == "end":
                monitor.finish()  # type: ignore[no-untyped-call]
                log.end(event["status"], event["reason"])
                return
            _record(log, event)


if __name__ == "__main__":
    main()
