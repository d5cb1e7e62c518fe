"""The page of runs that were really trained and measured, one of which came out broken."""

import re
from dataclasses import replace

import pytest
import torch
from html_page import Page, heatmap

from tests.small_data import SETTINGS, write_data
from tests.small_runs import AUTOENCODER, CARD, LATENT_DIFFUSION, WHERE, faces
from visage.evaluate_run import evaluate_run
from visage.evaluation.ood import SLOW_LIKELIHOOD
from visage.measures.table import SETS
from visage.report.page import build_report
from visage.report.wording import share
from visage.results import Results, read
from visage.train_run import train_run
from visage.weights import load_weights, save_weights

pytestmark = pytest.mark.long  # the page of made-up results is tested in test_report_page.py
BROKEN = replace(AUTOENCODER, name="broken-16-0", recipe="broken")
DDPM = replace(
    LATENT_DIFFUSION,
    name="ddpm-16-0",
    recipe="ddpm",
    model="ddpm",
    settings=LATENT_DIFFUSION.settings
    | {"schedule": "cosine", "filter_axes": 0, "variance": "large", "sampler": "ddim", "bound_terms": 4, "patch": 2},
    first_stage=None,
)
DERIVED = [name for name in SETS if name != "rare"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project with two runs and their report; one of them has a weight that is NaN."""
    root = tmp_path_factory.mktemp("real")
    write_data(root / "data")
    for config in (DDPM, BROKEN):
        config.save(root / "configs")
        train_run(config, CARD, *WHERE, faces(32, 1), faces(8, 2), root)
    file = root / "runs" / BROKEN.name / "train" / "model.safetensors"
    weights = load_weights(file)
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_weights(file, weights)
    for config in (DDPM, BROKEN):
        evaluate_run(config, CARD, SETTINGS, *WHERE, root)
    build_report([DDPM.name, BROKEN.name], root, root / "report")
    return root


@pytest.fixture(scope="module")
def source(root):
    return (root / "report/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def measured(root):
    """What the evaluation of the sound run found."""
    return read(root / "runs" / DDPM.name / "evaluate" / "results.json", Results)


def test_a_model_with_a_nan_weight_trips_its_wire_and_has_reasons_for_its_dashes(source):
    page, text = Page(source), re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", source))
    broken = page.rows["broken-16"]
    for metric in ("recon_mse", "psnr", "bits_per_dim", "elbo", "auroc"):
        assert broken[metric]["data-value"] == ""
        assert re.search("not finite|NaN", broken[metric]["title"]), broken[metric]["title"]
    assert broken["parameters"]["data-value"] != ""
    assert re.search(r"tripwires? tripped: .*broken-16 \([^)]*non-finite values", text)
    part = source[source.index('id="run-broken-16"') :]
    assert re.search(r'tripwire tripped"><summary>✗ non-finite values</summary><p>tripped: not finite, of', part)
    assert "The value is not finite for any face, so no face can be called the worst." in part


def test_a_broken_model_costs_the_others_nothing(root, source, measured):
    rows = Page(source).rows
    assert list(rows) == ["ddpm-16", "broken-16", "One Gaussian, 16 × 16 pixels"]
    for key, cell in rows["ddpm-16"].items():
        if (record := measured.find(key)) is not None:
            assert cell["data-value"] == ("" if record.value is None else str(record.value))
    assert rows["ddpm-16"]["bits_per_dim"]["data-value"]
    shown = {path.stem for path in (root / "report/images/ddpm-16-0").glob("*.webp")}
    assert shown - {"first"} == {picture.file.removesuffix(".png") for picture in measured.pictures}


def test_a_board_has_the_score_that_was_measured_or_says_that_it_was_not(source, measured):
    """A likelihood of many network calls is not asked of derived sets; the model's other scores stay in their rows."""
    found = {(r.images, r.score): r for r in measured.records if r.metric == "auroc"}
    order = [images for images, score in found if score == "nll"]  # the columns of the page
    assert {found[images, "nll"].note for images in DERIVED} == {SLOW_LIKELIHOOD}
    for place, row in (('id="ood-16"', "ddpm-16"), ('id="run-ddpm-16"', "nll")):
        for images, (_, _, text) in zip(order, heatmap(source, place)[row], strict=True):
            value = found[images, "nll"].value
            assert text == ("–" if value is None else share(value)), (images, place)
    part = source[source.index('id="run-ddpm-16"') :]
    assert part.count(f'title="{SLOW_LIKELIHOOD}"') >= len(DERIVED)
    others = {score for images, score in found if images in DERIVED and found[images, score].value is not None}
    assert others  # those are measured there
    for score in others:
        cells = dict(zip(order, heatmap(source, 'id="run-ddpm-16"')[score], strict=True))
        assert all(cells[images][2] == share(found[images, score].value) for images in DERIVED)
