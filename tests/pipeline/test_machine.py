from visage.config import CONFIGS, RuntimeConfig
from visage.pipeline.machine import devices_each, environment, slots


def test_each_stage_gets_as_many_gpus_as_a_training_takes(tmp_path):
    gpus = ["0", "1", "2", "3", "4"]
    assert slots(tmp_path, 0, gpus) == 5  # before `configure` has run
    RuntimeConfig("auto", 1, False, "tests", devices=2).save(tmp_path / CONFIGS)
    assert slots(tmp_path, 0, gpus) == 2
    shown = [environment(slot, gpus, devices_each(tmp_path))["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert shown == ["0,1", "2,3", "0,1"]
    assert environment(0, ["0"], 2) == {"CUDA_VISIBLE_DEVICES": "0"}  # the training then says what it lacks
    assert environment(0, [], 2) == {}
