"""What a config says when it is not there."""

import pytest

from visage.config import RunConfig, RuntimeConfig
from visage.errors import UserError


@pytest.mark.parametrize("name", ["vae-32", "nope", "vae-32-1"])
def test_a_run_that_is_none_is_told_which_there_are(run_config, tmp_path, name):
    for recipe in ("vae", "glow"):
        run_config(recipe).save(tmp_path)
    RuntimeConfig("cpu", 1, deterministic=False, experiment="tests").save(tmp_path)
    with pytest.raises(UserError, match=rf"{name}\.json is missing: .*name one of: glow-32-0, vae-32-0$"):
        RunConfig.load(name, tmp_path)


def test_without_any_configs_the_stage_that_makes_them_is_named(tmp_path):
    for load in (lambda: RunConfig.load("vae-32-0", tmp_path), lambda: RuntimeConfig.load(tmp_path)):
        with pytest.raises(UserError, match=r"is missing: run `dvc repro configure` in the project's root"):
            load()
