import contextlib
import http.server
import threading

import pytest


@contextlib.contextmanager
def answering(status: int):
    """A server on this machine that gives one answer to everything; its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(scope="session")
def serving():
    """A function: HTTP status -> a context with the address of a server that gives this answer."""
    return answering
