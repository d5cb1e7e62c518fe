"""Where the MLflow store is, and whether it can be used. Nothing here imports MLflow."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from visage.errors import UserError
from visage.redaction import redact

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it cannot do it also raises, and that becomes one line
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that died is given up after seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Defaults for MLflow, set before it is imported."""
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""The stores that are databases, by the beginning of their URIs."""


def tracking_is_off() -> bool:
    """Whether VISAGE_TRACKING=off asks for no MLflow at all."""
    return os.environ.get("VISAGE_TRACKING") == "off"


def store_uri(root: Path) -> str:
    """The URI of the store: MLFLOW_TRACKING_URI, or else the SQLite file mlflow.db in the project's root.

    A relative SQLite path is taken from the root. It is not taken from the working directory, because DVC deletes its
    temporary copies of a project, and the store would go with them.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = uri.removeprefix("sqlite:///")
    return f"sqlite:///{root.resolve() / path}" if path != uri else uri


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store, None for any other."""
    path = uri.removeprefix("sqlite:///")
    return Path(path.partition("?")[0]) if path != uri else None


def check_store(uri: str) -> None:
    """Check within seconds, without importing MLflow, that a store can be used.

    Raises:
        UserError: nothing answers there, the file cannot be written, or it is a folder, in which MLflow tracks no more.
            Stores of other kinds (databricks, azureml://..., what its plugins bring) are MLflow's business.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri)
    elif file := sqlite_file(uri):
        _check_sqlite(file)
    elif (scheme in ("", "file", "sqlite") or len(scheme) == 1) and uri != "databricks":  # one letter is a drive
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} is no store that MLflow can track in (folders such as ./mlruns no "
            "longer are): name a server (http://...) or a file (sqlite:///mlflow.db), or unset it"
        )


def _check_server(uri: str) -> None:
    import requests  # what MLflow talks through, so that proxies and certificates count alike

    parts = urlsplit(uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    fix = "start the server, or unset MLFLOW_TRACKING_URI to use mlflow.db"
    try:
        status = requests.get(f"{shown}/health", timeout=5, verify=_verified()).status_code
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"the certificate of the MLflow server {shown} is not trusted ({_innermost(error)}): name its file in "
            "MLFLOW_TRACKING_SERVER_CERT_PATH, or set MLFLOW_TRACKING_INSECURE_TLS=true to trust any"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"the MLflow server {shown} cannot be reached ({_innermost(error)}): {fix}") from error
    if status >= 400 and status not in (401, 403):  # a server that wants credentials, which MLflow knows how to give
        raise UserError(f"{shown} answers {status} instead of being an MLflow server: {fix}")


def _verified() -> bool | str:
    """How MLflow checks a server's certificate: not at all, against a file, or as requests does by itself."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def _innermost(error: Exception) -> str:
    """The message of the innermost of an exception that wraps others, in one line and without addresses in memory."""
    text = " ".join(str(error).split()).rpartition("Caused by ")[2]
    return re.sub(r"<[^<>]*> ?[:,]? ?|'", "", text)[:200].rstrip(")") or type(error).__name__


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
