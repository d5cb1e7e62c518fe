"""Inputs that nobody thought of: each one is taken, or refused by an error that names it. Nothing else may happen.

pytest tests/test_fuzz.py                       a few of each kind, the same every time
VISAGE_FUZZ=2000 pytest -m "" tests/test_fuzz.py    `make test-fuzz`: so many of each kind, other ones every time
"""

import contextlib
import copy
import gzip
import io
import json
import math
import os
import signal
import sqlite3
import zipfile
from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from tests.conftest import ROOT
from tests.data.conftest import Copy, jpeg
from tests.factory import CARD, EVALUATION_COST, TRAINING_COST, write_run
from tests.tracking.conftest import loggers
from visage import params as parameters
from visage.config import RunConfig
from visage.data import celeba_files, idx
from visage.data.collection import Collection, list_zip, opened
from visage.data.decoding import BadImageError
from visage.data.preprocess import _decode
from visage.data.sources import folder
from visage.errors import UserError
from visage.files import read_typed, write_json
from visage.results import EvaluationCost, TrainingCost
from visage.tracking import Tracker
from visage.tracking.log import Store
from visage.tracking.sync import sync_all
from visage.training.checkpoint import Checkpoint
from visage.weights import load_weights

MANY = int(os.environ.get("VISAGE_FUZZ", "0"))
settings.register_profile(
    "fuzz",
    max_examples=MANY or 10,
    derandomize=not MANY,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fuzz")

WORDS = [
    "\ufeff",
    "\r\n",
    "\0",
    ",",
    ";",
    "\t",
    '"',
    "'",
    "-1",
    "0",
    "1",
    "2",
    "000001.jpg",
    " ",
    "\n",
    "é",
    "𝔘",
    "NaN",
    "1e400",
]
"""Pieces that matter to a reader of text."""
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 130),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["", " ", "~", "/", "vae-32", "demo", "cpu", "1e-3", "${runs}", "../..", "auto", "a" * 300]),
    st.lists(st.integers(-2, 70), max_size=3),
    st.dictionaries(st.sampled_from(["demo", "full", "x", ""]), st.integers(-2, 99), max_size=2),
)
"""What may stand in params.yaml."""


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """A file after up to four accidents: bits that flip, parts that go or come twice, an early end, other encodings."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found)))
        match draw(st.sampled_from(["flip", "cut", "twice", "insert", "end", "word", "encode"])):
            case "flip" if at < len(found):
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del found[at : at + draw(st.integers(1, 200))]
            case "twice":
                found[at:at] = found[at : at + draw(st.integers(1, 200))]
            case "insert":
                found[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "end":
                del found[at:]
            case "word":
                found[at:at] = draw(st.sampled_from(WORDS)).encode()
            case "encode":
                with contextlib.suppress(UnicodeDecodeError):
                    found = bytearray(
                        bytes(found).decode().encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])))
                    )
    return bytes(found)


def refused(error: UserError, *names: str) -> None:
    """A refusal is one line for each thing that is wrong, and names the file or key."""
    assert str(error).strip()
    assert all(len(line) < 2000 for line in str(error).splitlines())
    assert not names or any(name in str(error) for name in names), str(error)


# --- params.yaml


@cache
def shipped() -> dict:
    return YAML(typ="safe").load(ROOT / "params.yaml") | {"runs": ["vae-32", "dcgan-32"]}


def places(section, path=()):
    """The paths of all values, sections included."""
    for key, value in section.items() if isinstance(section, dict) else enumerate(section):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def configure(file, where):
    """What the stage does."""
    params = parameters.load(file)
    parameters.write_configs(params, parameters.resolve(params, ROOT / "src"), where, ROOT)


@given(data=st.data())
def test_params_with_other_values(data, tmp_path):
    raw = copy.deepcopy(shipped())
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(list(places(raw))))
        section = raw
        for key in path:
            section = section[key]
        if data.draw(st.booleans()):
            section[last] = data.draw(VALUES)
        elif isinstance(section, dict):
            section[data.draw(st.text(max_size=8))] = section.pop(last)
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(raw))
    try:
        configure(file, tmp_path / "configs")
    except UserError as error:
        refused(error)


@given(data=st.data())
def test_params_with_other_bytes(data, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes(data.draw(mutated((ROOT / "params.yaml").read_bytes())))
    try:
        configure(file, tmp_path / "configs")
    except UserError as error:
        refused(error)


# --- annotations


@pytest.fixture(scope="module")
def celeba(tmp_path_factory):
    """CelebA's files in two layouts."""
    copies = {layout: Copy(tmp_path_factory.mktemp(layout), layout) for layout in ("zip", "kaggle")}
    for each in copies.values():
        each.write()
    return {layout: each.root for layout, each in copies.items()}


@given(data=st.data(), name=st.sampled_from(["list_attr_celeba", "list_eval_partition", "identity_CelebA"]))
def test_annotations(data, name, celeba):
    layout = data.draw(st.sampled_from(list(celeba)))
    files = list(celeba[layout].rglob(f"{name}.*"))
    if not files:
        return
    good = files[0].read_bytes()
    files[0].write_bytes(data.draw(mutated(good)))
    try:
        found = celeba_files.read(celeba[layout])
        assert isinstance(found, Collection)
        assert set(np.unique(found.attributes)) <= {0, 1}
        assert set(np.unique(found.split)) <= {0, 1, 2}
        assert len(found.members) == 24
    except UserError as error:
        refused(error, files[0].name, "img_align_celeba")
    finally:
        files[0].write_bytes(good)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for i in range(60):
        (root / f"{i}.jpg").write_bytes(b"")
    return root


@given(data=st.data())
def test_attributes_of_a_folder(data, pictures):
    rows = ["file,smiling,hat", *(f"{i}.jpg,{i % 2},{-1 if i % 3 else 1}" for i in range(60))]
    (pictures / "labels.csv").write_bytes(data.draw(mutated("\n".join(rows).encode())))
    try:
        found = folder.read(folder.Settings("labels.csv", 0.2, 0.2), pictures)
        assert set(np.unique(found.attributes)) <= {0, 1}
    except UserError as error:
        refused(error, "labels.csv")


# --- images and archives


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def pictures_of_all_kinds() -> list[bytes]:
    plain = Image.open(io.BytesIO(jpeg(1, (40, 30))))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    frames = [plain, plain.rotate(90)]
    return [
        jpeg(1, (40, 30)),
        encoded(plain.convert("CMYK"), "JPEG"),
        encoded(plain.convert("L"), "JPEG"),
        encoded(plain, "JPEG", exif=exif, progressive=True),
        encoded(plain, "PNG"),
        encoded(plain.convert("RGBA"), "PNG"),
        encoded(plain.convert("P"), "PNG", transparency=3),
        encoded(deep, "PNG"),
        encoded(plain, "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    ]


@given(data=st.data())
@pytest.mark.filterwarnings("ignore")  # of Pillow, about metadata
def test_images(data):
    content = data.draw(st.sampled_from(pictures_of_all_kinds()).flatmap(mutated))
    try:
        image = _decode(lambda _: content, "x")
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
    except BadImageError as error:
        assert "0x" not in str(error)  # noqa: PT017 - a refusal is one of two right answers


@cache
def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for i in range(6):
            packed.writestr(f"img_align_celeba/{i:06}.jpg", jpeg(i, (20, 20)))
    return buffer.getvalue()


@given(content=st.deferred(lambda: mutated(archive())))
def test_archives(content, tmp_path):
    path = tmp_path / "faces.zip"
    path.write_bytes(content)
    try:
        members = list_zip(path, [".jpg"])
    except UserError as error:
        refused(error, "faces.zip")
        return
    with opened(path) as read:
        for member in members.values():
            with contextlib.suppress(BadImageError):
                assert _decode(read, member.name).shape[2] == 3


@given(data=st.data(), packed=st.booleans())
def test_idx_files(data, packed, tmp_path):
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8)
    content = bytes([0, 0, 8, 3]) + np.array([3, 28, 28], ">u4").tobytes() + images.tobytes()
    path = tmp_path / idx.IMAGES
    path.write_bytes(data.draw(mutated(gzip.compress(content) if packed else content)))
    try:
        assert idx.read(path).shape[1:] == (28, 28)
    except UserError as error:
        refused(error, idx.IMAGES)


# --- what the pipeline wrote itself


@given(data=st.data())
def test_configs_and_records(data, tmp_path, run_config):
    config = run_config("latent_diffusion")
    kind, value = data.draw(
        st.sampled_from([(RunConfig, config), (TrainingCost, TRAINING_COST), (EvaluationCost, EVALUATION_COST)])
    )
    path = tmp_path / "record.json"
    write_json(path, asdict(value))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(mutated(path.read_bytes())))
    else:
        raw = json.loads(path.read_text())
        *inner, last = data.draw(st.sampled_from(list(places(raw))))
        section = raw
        for key in inner:
            section = section[key]
        section[last] = data.draw(VALUES)
        path.write_text(json.dumps(raw))
    try:
        assert isinstance(read_typed(path, kind, "delete it"), kind)
    except UserError as error:
        refused(error, "record.json")


@cache
def checkpoint_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"training": {"model": torch.arange(300.0), "step": 3}, "log": {"rows": [1, 2]}}, buffer)
    return buffer.getvalue()


@given(content=st.deferred(lambda: mutated(checkpoint_bytes())))
def test_checkpoints(content, tmp_path):
    """What is read is what was written, even where the damage is in a number."""
    with Checkpoint(tmp_path / "run") as checkpoint:
        checkpoint.path.write_bytes(content)
        try:
            state = checkpoint.load(torch.device("cpu"))
        except UserError as error:
            refused(error, "checkpoint.pt")
            return
    assert torch.equal(state["training"]["model"], torch.arange(300.0))
    assert state["training"]["step"] == 3
    assert state["log"] == {"rows": [1, 2]}


@given(data=st.data())
def test_weights(data, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(30.0), "b": torch.zeros(2, 2)}, path)
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    try:
        assert all(isinstance(weight, torch.Tensor) for weight in load_weights(path).values())
    except UserError as error:
        refused(error, "model.safetensors")


# --- MLflow stores

STORE_SECONDS = 120
"""After which an MLflow store counts as one that hangs."""
OTHERS = "another"
"""An experiment of somebody else in the same store."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory, run_config):
    """A project with a finished run, and the bytes of an MLflow store that has it beside somebody else's run."""
    project = tmp_path_factory.mktemp("project")
    path, config = project / "mlflow.db", run_config("vae")
    write_run(project, config)
    assert sync_all(project, project)[config.name].startswith("rebuilt")
    other = Store(project, OTHERS)
    run = other.client.create_run(other.experiment_id).info.run_id
    for i in range(30):
        other.client.log_metric(run, "loss", 1 / (i + 1), step=i)
    other.client.log_param(run, "lr", 0.5)
    other.client.set_tag(run, "owner", "somebody else")
    return project, config, path.read_bytes(), run


CELLS = st.sampled_from(
    ["NULL", "''", "'x'", "-1", "1e999", "x'ff00fe'", "hex(zeroblob(100000))", "'deleted'", "'../..'", "'s3://a/b'",
     "'file:///no/such/mlartifacts'", "'file:///proc/none'", "'FAILED'", "'[1, {'"]
)  # fmt: skip
"""What may stand in a column, in the words of SQL."""


def damaged_tables(draw, path):
    """Have rows, columns or tables that MLflow never made, or none where it had made some."""
    with contextlib.closing(sqlite3.connect(path)) as store, contextlib.suppress(sqlite3.Error), store:
        names = ("alembic_version", "experiments", "runs", "tags", "params", "metrics", "latest_metrics", "inputs")
        table = draw(st.sampled_from(names))
        column = draw(st.sampled_from([row[1] for row in store.execute(f"PRAGMA table_info({table})")]))
        match draw(st.sampled_from(["set", "set", "set", "set one", "delete", "drop", "rename"])):
            case "set":
                store.execute(f"UPDATE {table} SET {column} = {draw(CELLS)}")
            case "set one":
                store.execute(f"UPDATE {table} SET {column} = {draw(CELLS)} WHERE rowid = 1")
            case "delete":
                store.execute(f"DELETE FROM {table}")
            case "drop":
                store.execute(f"DROP TABLE {table}")
            case "rename":
                store.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")


def damaged_store(draw, good: bytes, path) -> None:
    """Write a store that is damaged in one of the ways that people and disks have."""
    path.write_bytes(good)
    match draw(st.sampled_from(["tables", "tables", "tables", "bits", "bits", "bytes", "end", "folder", "read-only"])):
        case "tables":
            damaged_tables(draw, path)
        case "bits":
            flipped = bytearray(good)
            for at in draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=300)):
                flipped[at] ^= 1 << draw(st.integers(0, 7))
            path.write_bytes(flipped)
        case "bytes":
            path.write_bytes(draw(mutated(good)))
        case "end":
            os.truncate(path, draw(st.integers(0, len(good))))
        case "folder":
            path.unlink()
            (path / "0").mkdir(parents=True)  # as MLflow's folders of files were
        case "read-only":
            path.chmod(0o444)


def rows_of(path, run: str) -> list[object]:
    """What a store holds of a run, table by table; None in the place of what cannot be read."""
    found: list[object] = []
    for table in ("params", "tags", "metrics", "latest_metrics"):
        try:
            with contextlib.closing(sqlite3.connect(path)) as store:
                store.text_factory = bytes
                query = f"SELECT * FROM {table} NOT INDEXED WHERE run_uuid = ?"
                found.append(sorted(map(repr, store.execute(query, (run,)).fetchall())))
        except sqlite3.Error:
            found.append(None)
    return found


@contextlib.contextmanager
def harmless(path, run: str):
    """What happens in this block ends in time, and leaves alone what the store holds of a run."""

    def hang(*_):
        raise TimeoutError(path)

    before, handler = rows_of(path, run), signal.signal(signal.SIGALRM, hang)
    signal.alarm(STORE_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    after = rows_of(path, run)
    assert [b for b in before if b is not None] == [a for a, b in zip(after, before, strict=True) if b is not None]


@settings(max_examples=MANY or 4)
@given(data=st.data())
def test_syncing_with_mlflow_stores(data, stored, tmp_path_factory, capfd):
    project, config, good, run = stored
    home = tmp_path_factory.mktemp("home")
    damaged_store(data.draw, good, home / "mlflow.db")
    with harmless(home / "mlflow.db", run):
        try:
            assert list(sync_all(project, home)) == [config.name]
        except UserError as error:
            refused(error, str(home / "mlflow.db"))
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.long
@settings(max_examples=MANY // 10 or 1)
@given(data=st.data())
def test_logging_to_mlflow_stores(data, stored, tmp_path_factory, capfd):
    """The store of a training; what checks it before the training begins may refuse it."""
    project, config, good, run = stored
    home = tmp_path_factory.mktemp("home")
    damaged_store(data.draw, good, home / "mlflow.db")
    steps = 0
    with harmless(home / "mlflow.db", run), pytest.MonkeyPatch.context() as patch:
        patch.delenv("VISAGE_TRACKING")
        try:
            with Tracker.open(config, CARD, root=home, experiment="faces", mode="train", again=True) as tracker:
                for steps in range(1, 4):
                    tracker.metrics(100 + steps, {"train/autoencoder/loss": 1 / steps})
                tracker.finish_training(project / "runs" / config.name / "train", TRAINING_COST)
            assert steps == 3
        except UserError as error:
            refused(error, str(home / "mlflow.db"))
    for process in loggers(home):
        process.kill()
    said = capfd.readouterr().err
    assert said.count("\n") <= 1
    assert said == "" or said.startswith("warning: MLflow logs no more of this run (")


def test_the_shipped_files_are_taken(tmp_path, celeba):
    """What the others begin with is good: they would find nothing otherwise."""
    configure(ROOT / "params.yaml", tmp_path / "configs")
    assert math.prod(celeba_files.read(celeba["zip"]).attributes.shape) == 24 * 40
