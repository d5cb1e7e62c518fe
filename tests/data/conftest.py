import functools
import io
import threading
import time
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visage.data.celeba_format import ATTRIBUTES


@functools.cache
def jpeg(seed: int, size=(178, 218), mode="RGB", **save) -> bytes:
    """A smooth picture, another one for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-2, 2, (3, 3))]
    image = Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, **({"format": "JPEG", "quality": 90} | save))
    return buffer.getvalue()


@dataclass
class Copy:
    """A small CelebA: 24 images with gaps in their numbers, half of them train, a quarter valid, a quarter test."""

    root: Path
    layout: str = "zip"

    def __post_init__(self):
        self.names = [f"{3 * i + 1:06d}.jpg" for i in range(24)]
        self.images = {name: jpeg(i) for i, name in enumerate(self.names)}
        self.split = {name: (0, 0, 1, 2)[i % 4] for i, name in enumerate(self.names)}
        self.identity = {name: 100 + i for i, name in enumerate(self.names)}
        rng = np.random.default_rng(0)
        self.attributes = {name: rng.integers(0, 2, 40).tolist() for name in self.names}
        self.columns = list(ATTRIBUTES)

    def write(self) -> Path:
        """Write the files where people have them; give the folder to name as root."""
        self.root.mkdir(parents=True, exist_ok=True)
        writers = {"zip": self._zip, "folder": self._folder, "kaggle": self._kaggle, "torchvision": self._torchvision}
        writers[self.layout]()
        return self.root

    def _zip(self):
        self.write_zip({f"img_align_celeba/{name}": data for name, data in self.images.items()})
        self.write_text(self.root)

    def _folder(self):
        self._loose(self.root / "img_align_celeba")
        self.write_text(self.root)

    def _kaggle(self):
        self._loose(self.root / "img_align_celeba" / "img_align_celeba")
        values = {name: [2 * bit - 1 for bit in bits] for name, bits in self.attributes.items()}
        self._csv("list_attr_celeba.csv", ["image_id", *self.columns], values)
        self._csv("list_eval_partition.csv", ["image_id", "partition"], {n: [s] for n, s in self.split.items()})

    def _torchvision(self):
        self._loose(self.root / "celeba" / "img_align_celeba")
        self.write_text(self.root / "celeba")

    def write_zip(self, members: dict[str, bytes]):
        self.root.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(self.root / "img_align_celeba.zip", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    def write_text(self, folder: Path, count: int = 202_599):
        lines = [str(count), " ".join(self.columns) + " "]
        lines += [f"{n} " + " ".join(f"{2 * b - 1:2d}" for b in bits) for n, bits in self.attributes.items()]
        self._lines(folder / "list_attr_celeba.txt", lines)
        self._lines(folder / "list_eval_partition.txt", [f"{n} {s}" for n, s in self.split.items()])
        self._lines(folder / "identity_CelebA.txt", [f"{n} {i}" for n, i in self.identity.items()])

    def _lines(self, path: Path, lines: list[str]):
        path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())

    def _csv(self, name: str, header: list[str], rows: dict[str, list[int]]):
        lines = [",".join(header), *(",".join(map(str, [n, *values])) for n, values in rows.items())]
        (self.root / name).write_text("\n".join(lines) + "\n")

    def _loose(self, folder: Path):
        folder.mkdir(parents=True)
        for name, data in self.images.items():
            (folder / name).write_bytes(data)


@pytest.fixture
def copy(tmp_path) -> Copy:
    return Copy(tmp_path / "copy")


@pytest.fixture
def make_jpeg():
    return jpeg


class Handler(BaseHTTPRequestHandler):
    """The first part of the path says how to fail."""

    def do_GET(self):
        way, name = self.path.strip("/").split("/", 1)
        self.server.asked.append((self.path, self.headers.get("Range")))
        getattr(self, way)(self.server.files.get(name))

    def log_message(self, *args):
        pass

    def start(self, headers, status=200):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()

    def good(self, body):
        if body is None:
            self.send_error(404)
        elif (start := self._start()) >= len(body):
            self.start({"Content-Range": f"bytes */{len(body)}"}, 416)
        else:
            self._headers_from(start, body)
            self.wfile.write(body[start:])

    def without_ranges(self, body):
        self.start({"Content-Length": len(body)})
        self.wfile.write(body)

    def cut(self, body):
        """Break off after 40,000 bytes, but continue where asked to."""
        start = self._start()
        self._headers_from(start, body)
        self.wfile.write(body[start : start + 40_000])

    def stuck(self, body):
        """Never send anything after byte 40,000."""
        start = self._start()
        self._headers_from(start, body)
        self.wfile.write(body[start:40_000])

    def slow(self, body):
        """Stand still, once."""
        self._headers_from(self._start(), body)
        if len(self.server.asked) == 1:
            self.wfile.write(body[:20_000])
            self.wfile.flush()
            time.sleep(0.6)
        else:
            self.wfile.write(body[self._start() :])

    def busy(self, body):
        """Have no time, twice."""
        if len(self.server.asked) <= 2:
            self.send_error(503)
        else:
            self.good(body)

    def quota(self, body):
        page = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
        self.start({"Content-Length": len(page), "Content-Type": "text/html"})
        self.wfile.write(page)

    def other(self, body):
        self.good(body[::-1])

    def _start(self):
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def _headers_from(self, start, body):
        headers = {"Content-Length": len(body) - start}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.start(headers, 206 if start else 200)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked, server.files = [], {"file.bin": bytes(range(256)) * 400}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
