"""`python -m visage.tracking.ui`: complete the MLflow store, then serve its page, or name the one that a server has."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from visage.errors import UserError
from visage.redaction import redact
from visage.tracking import sync
from visage.tracking.store import DATABASES, store_uri

HOST = "127.0.0.1"
VARIABLE = "MLFLOW_BACKEND_STORE_URI"
"""Where MLflow reads the address of the store, which may hold a password that all users would see in a command line."""


def main() -> None:
    """Serve the page of a database until Ctrl-C; a server shows its own."""
    uri = store_uri(Path.cwd())
    served = urlsplit(uri).scheme.split("+")[0] in DATABASES
    port = os.environ.get("PORT") or "5000"
    if served:  # whether it can be is known at once, before the store is looked at
        try:
            check_port(port)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    sync.main()
    if not served:
        print(f"MLflow is at {redact(uri)}")
        return
    os.environ |= {VARIABLE: uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stdout.flush()
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", port, "--workers", "1"]
    if sys.platform == "win32":  # which would start another process and end this one, which the console waits for
        sys.exit(subprocess.call(command))
    os.execv(sys.executable, command)


def check_port(port: str) -> None:
    """Refuse a port on which this process cannot listen.

    Raises:
        UserError: it is none, or another process has it.
    """
    fix = "choose another one: make ui PORT=5001"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"PORT={port} is no port: {fix}")
    with socket.socket() as trial:
        if sys.platform != "win32":  # there it would let both have the port
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, int(port)))
        except OSError as error:
            raise UserError(f"port {port} of {HOST} cannot be used ({error.strerror}): {fix}") from error


if __name__ == "__main__":
    main()
