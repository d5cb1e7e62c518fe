"""Publishing: against a hub that runs here, into a folder, and where there is none."""

import base64
import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from giving_project import VAE, visage

from visage.errors import UserError
from visage.using.publish import publish, publish_to_folder

pytest_plugins = ["tests.using.giving_project"]
TOKEN = "hf_abcdefghijklmnop"


class Hub(ThreadingHTTPServer):
    """What uploads ask of a hub: repositories by name, each with its files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories, self.files, self.allowed = {}, {}, True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        repo = "/".join(self.path.split("?")[0].split("/")[3:5])
        if "/tree/" in self.path:
            files = self.server.files.get(repo, {})
            self.answer([{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in files])
        elif repo not in self.server.repositories:
            self.answer({"error": "not found"}, 404)
        else:
            names = [{"rfilename": name} for name in self.server.files.get(repo, {})]
            self.answer({"id": repo, "private": self.server.repositories[repo], "siblings": names, "sha": "0" * 40})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if self.headers["Authorization"] != f"Bearer {TOKEN}" or not self.server.allowed:
            self.answer({"error": f"not with {TOKEN}"}, 403)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
            self.answer({"url": f"{self.server.url}/{repo}", "id": repo})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.answer({"files": modes})
        else:
            repo = "/".join(path.split("/")[3:5])
            files = self.server.files.setdefault(repo, {})
            for line in body.splitlines():
                step = json.loads(line)
                if step["key"] == "file":
                    files[step["value"]["path"]] = base64.b64decode(step["value"]["content"])
                if step["key"] == "deletedFile":
                    del files[step["value"]["path"]]
            self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/1", "commitOid": "0" * 40, "hookOutput": ""})


@pytest.fixture
def hub():
    with Hub() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def account(hub, monkeypatch):
    """Logged in at this hub, in this process."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    return hub


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_command_uploads_a_folder_file_by_file(hub, exported, tmp_path):
    done = visage(
        *("publish", exported, "me/faces", "--private"),
        cwd=tmp_path,
        **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/me/faces\n"), done.stderr
    assert hub.repositories == {"me/faces": True}
    assert hub.files["me/faces"] == contents(exported)


def test_files_of_an_earlier_export_go_and_others_stay(account, exported):
    account.files["me/faces"] = {"decode.onnx": b"old", "config.json": b"theirs", "sub/results.json": b"theirs"}
    publish(str(exported), "me/faces")
    assert account.files["me/faces"] == contents(exported) | {"config.json": b"theirs", "sub/results.json": b"theirs"}


def test_a_run_is_exported_first(account, giving, exported):
    publish(str(giving / "runs" / VAE.name), "me/faces")
    assert account.files["me/faces"] == contents(exported)


def test_a_public_repository_does_not_take_what_is_to_be_private(account, exported):
    account.repositories["me/faces"] = False
    with pytest.raises(UserError, match="me/faces is there and public"):
        publish(str(exported), "me/faces", private=True)
    assert account.files == {}


def test_refusals_name_the_repository_and_not_the_token(account, exported):
    account.allowed = False
    with pytest.raises(UserError, match=r"the hub refuses me/faces .*: it may be another's") as error:
        publish(str(exported), "me/faces")
    assert TOKEN not in str(error.value)


def test_without_a_network_a_line_says_so(exported, monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        with pytest.raises(UserError, match=r"me/faces was not uploaded .*: check the network"):
            publish(str(exported), "me/faces")


def test_without_a_token_nothing_is_exported(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no token for the hub: log in with `hf auth login`"):
        publish("no-such-run-16", "me/faces")


@pytest.mark.parametrize("name", ["faces", "../faces", "me/../faces", "me/fa ces", "/tmp/faces", "me/faces/more"])
def test_names_that_are_no_repository_are_refused(exported, tmp_path, name):
    for tried in (lambda: publish(str(exported), name), lambda: publish_to_folder(str(exported), name, tmp_path)):
        with pytest.raises(UserError, match="is no name of a repository: write OWNER/NAME"):
            tried()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_shows_what_would_be_uploaded(exported, tmp_path):
    assert publish_to_folder(str(exported), "me/faces", tmp_path) == tmp_path / "me" / "faces"
    assert contents(tmp_path / "me" / "faces") == contents(exported)
    (tmp_path / "me" / "other").mkdir()
    (tmp_path / "me" / "other" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        publish_to_folder(str(exported), "me/other", tmp_path)
