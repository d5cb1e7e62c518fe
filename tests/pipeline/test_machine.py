import pytest

from visage.config import CONFIGS, RuntimeConfig
from visage.errors import UserError
from visage.machine import cores
from visage.pipeline.machine import slots


def configured(root, device="auto", threads=0, devices=1):
    RuntimeConfig(device, threads, False, "tests", devices).save(root / CONFIGS)
    return root


def test_as_many_stages_run_as_there_are_gpus_for(tmp_path):
    assert slots(tmp_path, 0, 5) == 5  # before `configure` has run
    assert slots(configured(tmp_path), 0, 5) == 5
    assert slots(configured(tmp_path, devices=2), 0, 5) == 2
    assert slots(configured(tmp_path, devices=2), 0, 1) == 1  # the training then says what it lacks
    assert slots(configured(tmp_path), 3, 5) == 3


def test_without_gpus_as_many_as_the_cores_have_threads_for(tmp_path):
    assert slots(tmp_path, 0, 0) == slots(configured(tmp_path), 0, 0) == cores()
    assert slots(configured(tmp_path, device="cpu"), 0, 8) == cores()
    assert slots(configured(tmp_path, threads=cores()), 0, 0) == 1
    assert slots(configured(tmp_path), 10 * cores(), 0) == 10 * cores()  # of one thread each: slow, but no fight
    with pytest.raises(UserError, match=r"runtime.threads 2 .* lower runtime.threads"):
        slots(configured(tmp_path, threads=2), cores(), 0)
