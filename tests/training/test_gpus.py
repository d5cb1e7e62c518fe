"""Who takes which GPU. The locks are of the system's files, so the names of GPUs stand for GPUs."""

import subprocess
import sys
import time

import pytest

from visage.training.gpus import take_free

SCRIPT = """
import sys
from pathlib import Path
from visage.training.gpus import take_free
folder, count, *uuids = sys.argv[1:]
print(*take_free(uuids, int(count), Path(folder)), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def take(tmp_path):
    """A function that starts a process which takes one of some GPUs and keeps it until it is told to end."""
    started = []

    def start(*uuids, count=1):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "locks"), str(count), *uuids]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_stages_that_start_together_take_different_gpus(take):
    processes = [take("GPU-a", "GPU-b", "GPU-c") for _ in range(3)]
    assert sorted(process.stdout.readline() for process in processes) == ["0\n", "1\n", "2\n"]


def test_a_gpu_is_known_by_its_own_name_and_not_by_its_place(take):
    """As where CUDA_VISIBLE_DEVICES shows each process some of the GPUs."""
    assert take("GPU-a").stdout.readline() == "0\n"
    assert take("GPU-a", "GPU-b").stdout.readline() == "1\n"


@pytest.mark.parametrize("end", ["kill", "return"])
def test_a_stage_waits_for_a_gpu_and_has_it_when_another_ends(take, end):
    first = take("GPU-a")
    assert first.stdout.readline() == "0\n"
    second = take("GPU-a")
    assert "waiting for 1 of 1 GPUs" in second.stderr.readline()
    assert second.poll() is None
    if end == "kill":
        first.kill()
    else:
        first.communicate("\n")
    started = time.monotonic()
    assert second.stdout.readline() == "0\n"
    assert time.monotonic() - started < 10


def test_two_that_want_several_do_not_wait_for_each_other_with_some_in_hand(take):
    one = take("GPU-a")
    assert one.stdout.readline() == "0\n"
    both = [take("GPU-a", "GPU-b", count=2) for _ in range(2)]
    for process in both:
        assert "waiting for 2 of 2 GPUs" in process.stderr.readline()
    other = take("GPU-a", "GPU-b")
    assert other.stdout.readline() == "1\n"  # none of those that wait holds it for long
    for process in (one, other):
        process.kill()
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate(timeout=60)[0] for process in both]
    assert ended == ["0 1\n", "0 1\n"]


def test_a_process_that_asks_again_has_the_same_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("visage.training.gpus._held", {})
    assert take_free(["GPU-x", "GPU-y"], 1, tmp_path) == take_free(["GPU-x", "GPU-y"], 1, tmp_path) == [0]
