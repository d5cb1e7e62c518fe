"""How a stage ends."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

STAGE = """
import errno, os, resource, sys
from visage.stage import run_stage

def numpy_array():
    import numpy
    numpy.zeros(2**50)

def tensor():
    import torch
    torch.zeros(2**50)

def on_a_gpu():  # as torch.OutOfMemoryError is
    raise type("OutOfMemoryError", (RuntimeError,), {})(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB.")

def missing():
    open("data/processed/train/vae-32.json")

def full_disk():
    with open("/dev/full", "w") as f:
        f.write("all that there is to say")

def full_disk_under_weights():  # as safetensors says it
    from safetensors import SafetensorError
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

def read_only():  # root may write everywhere, so that no folder would do
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/vae-32-0/train")

def open_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    files = [open("/dev/null") for _ in range(30)]

def something_else():
    raise RuntimeError("shapes differ")

run_stage(globals()[sys.argv[1]])
"""


@pytest.fixture
def ended(tmp_path):
    """A function: the body of a stage -> how its process ended."""
    (tmp_path / "train.py").write_text(STAGE)

    def run(body, **environment):
        variables = os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment
        command = [sys.executable, str(tmp_path / "train.py"), body]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("body", ["numpy_array", "tensor", "on_a_gpu"])
def test_a_stage_without_memory_names_the_parameter_to_lower(ended, body):
    done = ended(body)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: out of memory")
    assert "lower train.batch_size" in line
    assert "JOBS=1" in line
    if body == "on_a_gpu":
        assert "(Tried to allocate 2.00 GiB)" in line


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("full_disk", "No space left on device: free some space"),
        ("full_disk_under_weights", "free some space"),
        ("read_only", "Read-only file system: 'runs/vae-32-0/train': make it readable and writable"),
        ("open_files", "Too many open files: '/dev/null': allow more open files with `ulimit -n 1024`"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_the_way_out(ended, body, words):
    done = ended(body)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_other_errors_of_the_same_kinds_keep_their_traceback(ended):
    done = ended("something_else")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "shapes differ" in done.stderr


def test_a_file_that_no_stage_has_made_yet_is_one_line(ended):
    done = ended("missing")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: data/processed/train/vae-32.json is missing: `dvc repro`, in the project's root")


def test_the_traceback_can_be_asked_for(ended):
    assert "Traceback" in ended("numpy_array", VISAGE_TRACEBACK="1").stderr
