"""What the network of a diffusion model adds to a Wiener filter, on the page."""

from dataclasses import replace

import numpy as np
import pytest

from tests.report import fake_runs
from visage.measures.comparison import ImageValues
from visage.measures.denoising import LEVELS
from visage.report.denoising import over_reference, ratios
from visage.report.linear import Opponent, better, comparisons
from visage.report.load import load_run
from visage.report.models import Model
from visage.report.plotting import looks
from visage.results import LinearReference, PerImage, Record, write

N = 60
FILTER = np.random.default_rng(0).uniform(1, 2, N)


@pytest.fixture
def model(tmp_path):
    """A run that leaves .9 of the filter's error at every level, of the first half of the faces."""
    config, folder = fake_runs.configure(tmp_path, "vae-16-0"), tmp_path / "runs/vae-16-0/evaluate"
    errors = {metric: 0.9 * sigma * FILTER[: N // 2] for metric, sigma in LEVELS.items()}
    records = [Record(metric, "estimate", float(values.mean()), N // 2) for metric, values in errors.items()]
    about = fake_runs.results(config, fake_runs.per_image(config))
    write(folder / "results.json", replace(about, records=records))
    PerImage({"test": np.arange(N // 2)}, np.full(N // 2, -1), {}, errors).save(folder / "scores.npz")
    return Model((load_run("vae-16-0", tmp_path),))


def reference(tmp_path, data="d" * 64):
    errors = {metric: sigma * FILTER for metric, sigma in LEVELS.items()}
    records = [Record(metric, "estimate", float(values.mean()), N) for metric, values in errors.items()]
    values = {metric: ImageValues(np.arange(N), some, np.full(N, -1)) for metric, some in errors.items()}
    return Opponent(LinearReference("gaussian", 0, records), 16, data, values, tmp_path)


def test_ratios_are_of_the_faces_that_both_have(model, tmp_path):
    found = ratios(model, reference(tmp_path))
    assert [ratio.sigma for ratio in found] == list(LEVELS.values())
    for ratio in found:
        assert ratio.value == pytest.approx(0.9)
        assert ratio.low < 0.9 < ratio.high < 1


def test_a_filter_of_other_images_is_no_reference(model, tmp_path):
    assert ratios(model, reference(tmp_path, "other")) == []
    assert over_reference("denoising", [model], looks([model]), reference(tmp_path, "other")) == []


def test_the_chart_shows_the_models_and_the_filter(model, tmp_path):
    [chart] = over_reference("denoising-16", [model], looks([model]), reference(tmp_path))
    assert "the filter alone" in chart.svg
    assert "Wiener filter" in chart.svg


def test_every_level_is_compared_with_the_filter(model, tmp_path):
    found = comparisons([model], [reference(tmp_path)])
    assert {one.measure.key: one.ahead for one in found} == {metric: ["vae-16"] for metric in LEVELS}


@pytest.mark.parametrize(("value", "verdict"), [(20.0, None), (23.5, None), (15.0, True), (25.0, False)])
def test_distances_that_their_intervals_do_not_tell_apart_are_neither_better_nor_worse(tmp_path, value, verdict):
    """Half widths of 3 and 2.5 make 3.9."""
    config, folder = fake_runs.configure(tmp_path, "vae-16-0"), tmp_path / "runs/vae-16-0/evaluate"
    distance = Record("fd_attr128", "estimate", value, 400, (value - 3, value + 3))
    about = fake_runs.results(config, fake_runs.per_image(config))
    write(folder / "results.json", replace(about, records=[distance]))
    PerImage({}, np.empty(0, int), {}, {}).save(folder / "scores.npz")
    gaussian = LinearReference("gaussian", 0, [Record("fd_attr128", "estimate", 20.0, 400, (17.5, 22.5))])
    run, opponent = Model((load_run("vae-16-0", tmp_path),)), Opponent(gaussian, 16, "d" * 64, {}, tmp_path)
    assert better(run, "fd_attr128", opponent) is verdict
    [one] = comparisons([run], [opponent])
    assert (one.ahead, one.behind, one.unsure) == tuple(["vae-16"] * (verdict is side) for side in (True, False, None))
