import contextlib
import http.server
import ssl
import threading
import time
from pathlib import Path

import psutil
import pytest

PATIENCE = 120
"""Seconds to wait for what another process does."""


def wait_until(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def loggers(root):
    """The processes that log for the project in `root`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "visage.tracking.process" in process.cmdline() and process.cwd() == str(root):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def tracking():
    """MLflow is on, and measures the machine often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VISAGE_TRACKING")
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
        yield patch


@contextlib.contextmanager
def answering(status: int, certificate: Path | None = None):
    """A server on this machine that gives one answer to everything; its address.

    certificate: a PEM file with a certificate and its key, for a server that speaks TLS.
    """

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(scope="session")
def serving():
    """A function: HTTP status -> a context with the address of a server that gives this answer."""
    return answering
