"""Passwords occur in nothing that a process prints."""

import io
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from visage.redaction import redact, redact_streams


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://anna:planted@host:5000/x", "http://***@host:5000/x"),
        ("mariadb+pymysql://anna:planted@host/db?a=b", "mariadb+pymysql://***@host/db?a=b"),
        ("(https://planted@host) and ftp://a:planted@b", "(https://***@host) and ftp://***@b"),
        ("http://host/a@b, mail to anna@host", "http://host/a@b, mail to anna@host"),
        ("sqlite:////home/anna/mlflow.db", "sqlite:////home/anna/mlflow.db"),
    ],
)
def test_addresses_lose_their_names_and_passwords(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("uri", "forms"),
    [
        ("http://anna:pl%40nted!@host", ["pl%40nted!", "pl@nted!"]),  # as it is written, and as it is read
        ("mysql://anna:pl@nted!@host/db", ["pl@nted!"]),
        ("http://anna:pl/nted#1@host", ["pl/nted#1"]),
    ],
)
def test_a_password_is_found_by_itself(uri, forms, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for secret in forms:
        assert redact(f"denied: {secret!r}, {secret}.") == "denied: '***', ***."
    assert "nted" not in redact(f"cannot reach {uri}")


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"])
def test_so_are_other_secrets(name, monkeypatch):
    monkeypatch.setenv(name, "planted-secret")
    assert redact("the header was Bearer planted-secret") == "the header was Bearer ***"


def test_what_is_too_short_to_be_a_secret_hides_nothing(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")
    assert redact("a training") == "a training"


def test_streams_are_redacted_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted")
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    redact_streams()
    redact_streams()
    print("it is planted", 1)
    sys.stdout.writelines(["planted\n"])
    assert out.getvalue() == "it is *** 1\n***\n"


@pytest.mark.parametrize("error", ["UserError", "ValueError"])
def test_a_stage_that_fails_prints_none(error):
    """Neither in its one line, nor in a traceback of what was not expected, nor in the log of a library."""
    code = (
        "import logging, os, sys\n"
        "from visage.errors import UserError\n"
        "from visage.stage import run_stage\n"
        "def main():\n"
        "    logging.basicConfig()\n"
        "    logging.error('connecting to %s', os.environ['MLFLOW_TRACKING_URI'])\n"
        "    print(os.environ['MLFLOW_TRACKING_URI'])\n"
        f"    raise {error}(os.environ['MLFLOW_TRACKING_URI'])\n"
        "run_stage(main)\n"
    )
    secret = {"MLFLOW_TRACKING_URI": "postgresql://anna:planted@host/db", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | secret, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "planted" not in done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("postgresql://***@host/db") == 3
