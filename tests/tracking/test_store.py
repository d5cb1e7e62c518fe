import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from visage.errors import UserError
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


def test_make_ui_serves_a_database_and_names_a_server():
    for uri, words in (
        ("", "mlflow ui --backend-store-uri sqlite:///mlflow.db "),
        ("postgresql://host/mlflow", "mlflow ui --backend-store-uri postgresql://host/mlflow "),
        ("https://anna:secret@mlflow.example.org:8443", "\nMLflow is at https://mlflow.example.org:8443\n"),
        ("databricks", "\nMLflow is at databricks\n"),
    ):
        command = ["make", "--silent", "ui", "UV=echo"]  # echo shows what uv would run
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert words in done.stdout
        assert ("mlflow ui" in done.stdout) == ("mlflow ui" in words)
        assert "secret" not in done.stdout
