import contextlib
import datetime
import ipaddress
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import ROOT
from tests.tracking.conftest import wait_until
from visage.config import RuntimeConfig
from visage.errors import UserError
from visage.tracking import ui
from visage.tracking.log import Store
from visage.tracking.store import check_store, store_uri


def test_importing_the_package_imports_nothing_slow():
    code = (
        "import sys, visage.tracking;"
        "print([name for name in ('mlflow', 'pandas', 'sklearn', 'scipy', 'torch') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_default_store_lies_in_the_root_and_so_does_a_relative_one(monkeypatch, tmp_path):
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/there/x.db")
    assert store_uri(Path("/elsewhere")) == f"sqlite:///{tmp_path}/there/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert store_uri(tmp_path) == "http://host:5000"


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_usable_stores_pass(serving, tmp_path):
    check_store(f"sqlite:///{tmp_path}/mlflow.db")
    for status in (200, 401):
        with serving(status) as uri:
            check_store(uri)


def test_stores_that_plugins_know_are_left_to_mlflow():
    for uri in ("databricks", "databricks://profile", "azureml://region/workspace", "postgresql+psycopg://host/mlflow"):
        check_store(uri)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A PEM file with a key and a certificate for this machine that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = built.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(secret + built.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def test_a_server_s_certificate_is_checked_as_mlflow_checks_it(serving, certificate, monkeypatch):
    with serving(200, certificate) as uri:
        with pytest.raises(UserError, match=r"certificate of .* is not trusted .*MLFLOW_TRACKING_SERVER_CERT_PATH"):
            check_store(uri)
        for name, value in (
            ("MLFLOW_TRACKING_INSECURE_TLS", "true"),
            ("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate)),
            ("REQUESTS_CA_BUNDLE", str(certificate)),
        ):
            with monkeypatch.context() as patch:
                patch.setenv(name, value)
                check_store(uri)


def test_unusable_stores_are_refused_with_a_fix(serving, tmp_path):
    (tmp_path / "notes.db").write_text("these are notes, not tables")
    port = closed_port()
    for uri, words in (
        (
            f"http://anna:secret@127.0.0.1:{port}",
            f"http://127.0.0.1:{port} cannot be reached .* start the server, or unset",
        ),
        ("./mlruns", "./mlruns is no store"),
        ("mlruns", "mlruns is no store"),
        ("C:\\mlruns", "is no store"),
        (f"file://{tmp_path}", "no store .*sqlite:///mlflow.db"),
        (f"sqlite:///{tmp_path}/no/such/mlflow.db", "no/such, .* does not exist: create it"),
        (f"sqlite:///{tmp_path}/notes.db", "notes.db is not an SQLite file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            check_store(uri)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with serving(404) as uri, pytest.raises(UserError, match="answers 404 instead of being an MLflow server"):
        check_store(uri)


@pytest.fixture
def served(tmp_path, tracking):
    """A function: what `make ui` runs in an empty project -> how it ended, without a server that would not end."""
    (tmp_path / "configs").mkdir()
    RuntimeConfig("cpu", 1, deterministic=False, experiment="faces").save(tmp_path / "configs")
    code = (
        "import os; from visage.tracking import ui\n"
        "os.execv = lambda path, command: print(*command, '|', os.environ[ui.VARIABLE])\n"
        "ui.main()"
    )

    def run(**environment):
        variables = os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


@pytest.mark.long
def test_a_database_is_served_on_this_machine_and_its_address_is_in_no_command_line(served, tmp_path):
    """All users of a machine see command lines, and an address may hold a password."""
    command, _, store = served(PORT="5123").stdout.strip().rpartition(" | ")
    assert command.endswith("-m mlflow ui --host 127.0.0.1 --port 5123 --workers 1")
    assert store == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_port_that_is_taken_is_named_with_the_way_to_another(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = served(PORT=str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert re.fullmatch(r"error: port \d+ of 127\.0\.0\.1 cannot be used \(.*\): .*make ui PORT=5001\n", done.stderr)
    assert "PORT=x is no port" in served(PORT="x").stderr


def test_make_ui_names_the_page_of_a_server(monkeypatch, capsys):
    monkeypatch.setattr(ui.sync, "main", lambda: None)
    for uri, shown in (
        ("https://anna:secret@mlflow.example.org:8443", "MLflow is at https://***@mlflow.example.org:8443\n"),
        ("databricks", "MLflow is at databricks\n"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        ui.main()
        assert capsys.readouterr().out == shown


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "schema .*mlflow db upgrade"),
        pytest.param("mysql+nodriver://anna:planted@host/db", "nodriver", marks=pytest.mark.long),
        pytest.param(
            "mysql+pymysql://anna:planted@host/db", "No module named 'pymysql'.*install", marks=pytest.mark.long
        ),
    ],
)
def test_a_store_that_mlflow_cannot_use_is_one_line(served, tmp_path, uri, words):
    """A database of another version, drivers that are missing; and nothing in the file is changed."""
    path = tmp_path / "mlflow.db"
    Store(tmp_path, "faces")
    with contextlib.closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '0000'")
    before = path.read_bytes()
    done = served(**({"MLFLOW_TRACKING_URI": uri} if uri else {}))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(f"error: MLflow cannot use the store .*{words}", line)
    assert "planted" not in line
    assert path.read_bytes() == before


@pytest.mark.long
def test_a_kill_while_the_tables_are_made_leaves_a_store_that_can_be_made(tmp_path, tracking):
    (tmp_path / "made").mkdir()
    (tmp_path / "home").mkdir()
    code = (
        "import sys; from pathlib import Path; from visage.tracking.log import Store; Store(Path(sys.argv[1]), 'faces')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "home")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path / "made")},
    )
    wait_until(lambda: any(path.stat().st_size for path in (tmp_path / "made").glob("*/mlflow.db")))
    process.kill()
    process.wait()
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "mlflow.db")) as store:
        assert store.execute("SELECT * FROM sqlite_master").fetchall() == []


def test_an_experiment_that_was_deleted_in_the_page_is_used_again(tmp_path, tracking):
    store = Store(tmp_path, "faces")
    store.client.delete_experiment(store.experiment_id)
    again = Store(tmp_path, "faces")
    assert again.experiment_id == store.experiment_id
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


@pytest.mark.long
@pytest.mark.parametrize("kept", [True, False], ids=["copied", "moved"])
def test_a_project_in_another_place_keeps_its_files_there(tmp_path, tracking, kept):
    old, new = tmp_path / "old", tmp_path / "new place"
    old.mkdir()
    (tmp_path / "file.txt").write_text("content")

    first = Store(old, "faces")
    run_id = first.client.create_run(first.experiment_id).info.run_id
    first.client.log_artifact(run_id, str(tmp_path / "file.txt"), "before")
    if kept:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    before = sorted(old.rglob("*"))
    code = (  # a process of its own, as MLflow remembers where the files of a run were
        "import sys; from pathlib import Path; from visage.tracking.log import Store\n"
        "root, file, run_id = Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "store = Store(root, 'faces')\n"
        "store.client.log_artifact(run_id, file, 'after')\n"
        "store.client.log_artifact(store.client.create_run(store.experiment_id).info.run_id, file, 'other')\n"
        "print([item.path for item in store.client.list_artifacts(run_id)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(new), str(tmp_path / "file.txt"), run_id],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['after', 'before']\n"
    assert sorted(old.rglob("*")) == before
    assert sorted(path.parent.name for path in (new / "mlartifacts").rglob("file.txt")) == ["after", "before", "other"]
