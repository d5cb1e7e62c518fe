"""Several processes that train together train as one does, end together, and lose nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.models.test_conformance import LARGE, RECIPES, with_few
from tests.small_data import write_processed
from tests.small_runs import AUTOENCODER, CARD, LATENT_DIFFUSION, RUNTIME, faces
from visage.config import ReportConfig
from visage.errors import UserError
from visage.files import write_json
from visage.train_run import refuse_uneven_batches
from visage.training.feed import uneven
from visage.training.processes import refuse_devices

COUPLED = {
    "stylegan": {"path_every": 2, "r1_every": 2, "mixing": 0.9},
    "cyclegan": {"history": 5},
    "vq_vae": {"decay": 0.5, "restart_below": 0.9, "autoencoder_share": 0.5},
}
"""Settings under which three steps of eight images lead through everything that couples the images of a batch."""


@pytest.fixture(scope="module")
def two_ranks(run_config, images, tmp_path_factory):
    """The folder with all that `two_ranks.py` has trained; starting processes takes seconds, so there is one pair."""
    folder = tmp_path_factory.mktemp("ranks")
    np.save(folder / "images.npy", images[:64])
    for recipe in RECIPES:
        config = run_config(recipe, 32 if recipe in LARGE else 16)
        small = {name: 8 for name in config.settings if name in {"width", "judge_width"}}
        without_dropout = {name: 0.0 for name in config.settings if name.endswith("dropout")}
        with_few(config, **small, **without_dropout, **COUPLED.get(recipe, {})).save(folder)
    command = [sys.executable, "-m", "tests.training.two_ranks", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder / "output").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(scope="module")
def found(two_ranks):
    """What one process has found alone, and what each of two ranks has."""
    return [torch.load(two_ranks / f"{name}.pt") for name in ("alone", "rank_0", "rank_1")]


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_train_as_one_process_does(recipe, found):
    weights, row = found[0][recipe]
    for rank in found[1:]:
        shared_weights, shared_row = rank[recipe]["whole"]
        torch.testing.assert_close(shared_weights, weights, rtol=1e-9, atol=1e-9)
        for name, value in row.items():
            # means over the ranks are rounded to float32
            assert shared_row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
        assert set(shared_row) == set(row)


@pytest.mark.long
@pytest.mark.parametrize("recipe", RECIPES)
def test_ranks_hold_the_same_weights_and_resume_bit_for_bit(recipe, found):
    weights, row = found[1][recipe]["whole"]
    for again in (found[2][recipe]["whole"], *(rank[recipe]["resumed"] for rank in found[1:])):
        assert again[1] == row
        assert again[0].keys() == weights.keys()
        assert [name for name, weight in weights.items() if not torch.equal(again[0][name], weight)] == []


def outputs(root):
    folder = root / "runs" / LATENT_DIFFUSION.name / "train"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_signal_to_one_rank_ends_both_after_the_same_step_and_nothing_is_lost(two_ranks, found):
    for rank in found[1:]:
        assert rank["ends"] == ["KeyboardInterrupt()", "SystemExit(143)"]
    text = (two_ranks / "output").read_text()
    assert text.count("autoencoder-16-0: continuing at step 7") == 1
    assert text.count("latent_diffusion-16-0: continuing at step 5") == 1
    assert outputs(two_ranks / "run_cut") == outputs(two_ranks / "run_whole")
    assert not list(two_ranks.rglob("checkpoint.pt"))


def assert_same_training(one, other):
    """That two runs have the same curves up to rounding in float32, and the same description."""
    assert outputs(one).keys() == outputs(other).keys()
    for stage in ("", "first_stage/"):
        for file in ("history.csv", "validation.csv"):
            tables = [list(csv.DictReader(outputs(root)[stage + file].decode().splitlines())) for root in (one, other)]
            rows, others = ([{k: float(v) for k, v in row.items()} for row in table] for table in tables)
            assert len(rows) == len(others) > 0 or file == "validation.csv"
            for a, b in zip(rows, others, strict=True):
                assert a == pytest.approx(b, rel=3e-3), stage + file
        descriptions = [json.loads(outputs(root)[stage + "run.json"]) for root in (one, other)]
        assert descriptions[0] == descriptions[1]


@pytest.mark.long
def test_a_run_with_a_first_stage_is_that_of_one_process(two_ranks):
    assert_same_training(two_ranks / "run_alone", two_ranks / "run_whole")


# --- the stage


@pytest.mark.long
def test_the_stage_starts_its_ranks_and_shows_what_it_shows_without_them(tmp_path, two_ranks):
    train, valid = faces(64, 1), faces(20, 2)
    splits = {"train": train.images, "valid": valid.images}
    write_processed(tmp_path / "data" / "processed", splits, external={})
    write_json(tmp_path / "data" / "processed" / "train" / f"{LATENT_DIFFUSION.label}.json", CARD)
    for config in (replace(RUNTIME, devices=2), LATENT_DIFFUSION, ReportConfig((LATENT_DIFFUSION.name,))):
        config.save(tmp_path / "configs")
    command = [sys.executable, str(ROOT / "stages" / "train.py"), LATENT_DIFFUSION.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" 0/12 ") == 2  # a bar for either stage
    assert done.stdout == ""
    assert outputs(tmp_path) == outputs(two_ranks / "run_whole")


FAILING = """
import os, sys, time
from pathlib import Path
import torch
from visage.errors import UserError
from visage.maths.ranks import here
from visage.stage import run_stage
from visage.training import ranks
from visage.training.processes import together

def main():
    with together(2, torch.device("cpu")):
        (Path(sys.argv[1]) / f"rank_{here().index}").write_text(str(os.getpid()))
        ranks.highest(0)
        if not here().first:
            raise UserError("its disk is full")
        ranks.highest(0)
        time.sleep(60)

run_stage(main)
"""


def test_a_rank_that_fails_takes_the_first_with_it(tmp_path):
    command = [sys.executable, "-c", FAILING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    words = "error: rank 1 of 2 ended with status 1: its disk is full\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)
    assert_ends(int((tmp_path / "rank_1").read_text()))


@pytest.mark.long
def test_a_first_rank_that_is_killed_takes_the_others_with_it(two_ranks):
    assert "error" not in (two_ranks / "output").read_text()
    assert_ends(int((two_ranks / "process_1").read_text()))


def assert_ends(process):
    for _ in range(100):
        if not is_running(process):
            return
        time.sleep(0.1)
    pytest.fail("rank 1 goes on")


def is_running(pid):
    """Whether a process has neither ended nor is a zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


# --- what is refused


def test_more_ranks_than_devices_are_refused():
    with pytest.raises(UserError, match=r"runtime.devices is 2, but PyTorch finds 1 of type mps here: set it to 1"):
        refuse_devices(2, torch.device("mps"))
    refuse_devices(1, torch.device("mps"))
    refuse_devices(64, torch.device("cpu"))


def test_batches_that_ranks_cannot_share_are_named_for_all_runs():
    groups = torch.tensor([0, 1, 2])
    assert uneven(12, groups, 2) == uneven(16, None, 8) == uneven(7, None, 1) == ""
    assert "12: for runtime.devices 4 it must be a multiple of 8" in uneven(12, None, 4)
    assert "multiple of 12" in uneven(16, groups, 4)
    odd = replace(LATENT_DIFFUSION, train=replace(LATENT_DIFFUSION.train, batch_size=18))
    refuse_uneven_batches([odd, AUTOENCODER], faces(64, 1), 1)
    with pytest.raises(UserError) as error:
        refuse_uneven_batches([odd, AUTOENCODER], faces(64, 1), 2)
    assert str(error.value) == (
        "params.yaml: latent_diffusion-16: train.batch_size is 18: for runtime.devices 2 it must be a multiple of 4"
    )
