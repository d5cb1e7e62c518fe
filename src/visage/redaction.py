"""Keeps passwords out of what a process prints, logs and stores.

`MLFLOW_TRACKING_URI` may hold one, and errors of MLflow, SQLAlchemy and urllib repeat the whole address.
"""

import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO
from urllib.parse import unquote

HIDDEN = "***"
ADDRESS = re.compile(r"(?<=://)[^\s/?#'\"]+(?=@)")
"""Name and password in an address."""
PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^:/@]*:(.+)@", re.IGNORECASE)
"""The password of an address that is a whole text; it may have slashes and more, though it should not."""
NAMES = ("PASSWORD", "TOKEN", "SECRET", "CREDENTIALS")
"""What the names of variables say that hold a secret."""
LEAST = 4
"""Characters of a secret that is looked for by itself: a shorter one would be found in every second word."""


def redact(text: str) -> str:
    """The text without the name and password of any address in it, and without this process's own secrets."""
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return ADDRESS.sub(HIDDEN, text)


def redact_streams() -> None:
    """Redact from now on whatever Python writes to standard output and standard error, tracebacks included."""
    for stream in (sys.stdout, sys.stderr):
        if sys.platform == "win32" and isinstance(stream, io.TextIOWrapper):  # whose pipes lack most characters
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Redacting.of(sys.stdout), _Redacting.of(sys.stderr)


def _secrets() -> Iterator[str]:
    """The secrets in the environment, as they are written there and as a program prints them that has read them."""
    for name, value in os.environ.items():
        found = [value] if any(word in name.upper() for word in NAMES) else PASSWORD.findall(value)
        for secret in found:
            yield from (form for form in (secret, unquote(secret)) if len(form) >= LEAST)


class _Redacting:
    """A stream that is like another one in all but what is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @classmethod
    def of(cls, stream: Any) -> Any:
        """The stream, if it is redacted already or missing, else one that redacts."""
        return stream if stream is None or isinstance(stream, cls) else cls(stream)

    def write(self, text: str) -> int:
        """Write the text without its secrets; the length of what was given."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
