import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from visage.evaluation.records import load_records, model_hash
from visage.evaluation.suite import SUITE

from tests.small_models import (
    DIMS,
    NO_NETWORK,
    SIZE,
    Brighter,
    Identity,
    LinearVAE,
    Normalised,
    OnlySamples,
    Undecided,
    Uniform,
)
from visage.errors import UserError
from visage.evaluation.evaluate import evaluate

CPU = torch.device("cpu")
PLACES = ("worst", "median", "best")
EXTRA = ["masked_mse", "cycle_mse_a", "cycle_mse_b"]
RECONSTRUCTION = ["recon_mse", "psnr", "ssim"]
LIKELIHOOD = ["bits_per_dim", "bits_per_dim_iw", "iw_gain", "elbo", "distortion", "rate"]
BOARD = ["ood_auroc", "ood_aupr", "ood_fpr95"]
SUITE_NAMES = [*SUITE, "rare"]
SAMPLES = ["fd_attr128", "fd_attr128_floor", "kd_attr128", "precision", "recall", "density", "coverage", "memorization"]
PIXELS = ["fd_pix64", "memorization_pixels"]
INCEPTION = ["fid", "kid", "inception_score"]
OBEDIENCE = ["attribute_auroc", "translation_success_a", "translation_success_b"]
CODES = ["probe_auroc", "probe_pixels", "path_smoothness"]
DISENTANGLED = ["mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"]
BASELINES = ["grey", "dark", "zeros", "png_large", "png_small", "pixel_gaussian", "pca_error"]
EVERY = [
    *RECONSTRUCTION, *LIKELIHOOD, *EXTRA, "inverse_error", *BOARD, *(f"suite/{name}" for name in SUITE_NAMES),
    *(f"ood_baseline/{name}" for name in BASELINES), *SAMPLES, *PIXELS, *INCEPTION, *OBEDIENCE, *CODES, *DISENTANGLED,
]  # fmt: skip
"""What stands in every evaluation, as a figure or as the reason why there is none."""


@pytest.fixture
def measured(run, settings, data, tmp_path):
    def call(model, name="out", **changes):
        out = tmp_path / name
        return evaluate(model, run, dataclasses.replace(settings, **changes), data, out, CPU, progress=False), out

    return call


def by_name(result):
    return {record.name: record for record in result.records}


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_a_model_that_can_do_everything(measured, images, grey_images):
    result, out = measured(LinearVAE())
    records = by_name(result)
    own = ["nll", "recon", "length", "darkness", "typicality", "complexity", "dose", "mahalanobis", "gradient"]
    assert sorted(records) == sorted(EVERY + [f"ood/{name}" for name in own])
    assert next(name for name in records if name.startswith("ood/")) == "ood/nll"  # the one that speaks for the model
    missing = {record.name for record in result.records if record.value is None}
    without = {*EXTRA, "inverse_error", "suite/rare"}
    assert missing == {*without, *SAMPLES, *INCEPTION, *OBEDIENCE, "path_smoothness", *DISENTANGLED}
    assert {records[name].n for name in RECONSTRUCTION + LIKELIHOOD if "iw" not in name} == {16}
    assert records["ood_auroc"].n == 16 + len(grey_images)
    assert records["ood_auroc"].value == records["ood/nll"].value
    assert records["ood_auroc"].note.startswith("score: nll")
    assert records["bits_per_dim"].kind == "upper_bound"
    assert records["elbo"].kind == "lower_bound"
    assert records["elbo"].value == pytest.approx(-records["distortion"].value - records["rate"].value)
    assert records["bits_per_dim"].value == pytest.approx(-records["elbo"].value / DIMS / np.log(2))
    assert all(record.ci95[0] <= record.value <= record.ci95[1] for record in result.records if record.ci95)
    assert {record.data_hash for record in result.records} == {"abc123"}
    assert records["suite/hflip"].n == 16 + 6
    assert {records[name].note for name in SAMPLES} == {NO_NETWORK}
    assert load_records(out / "records.json") == result.records

    assert result.metrics["ood_baseline"]["grey"] == 1.0
    assert result.metrics["recon_mse"] == pytest.approx(records["recon_mse"].value, rel=1e-5)
    assert {"seconds", "images_per_second", "sample_seconds_per_64", "sample_gflop"} <= set(result.cost)


def test_gradients_are_scored_where_enough_of_them_can_be_afforded(measured):
    result, out = measured(LinearVAE(), network_calls=9 * 8 // 4)
    assert by_name(result)["ood/gradient"].n == 8 + 8
    assert (np.load(out / "scores.npz")["test/gradient"] > 0).all()
    assert "ood/gradient" not in by_name(measured(LinearVAE(), network_calls=9 * 8 // 4 - 1)[0])


def test_its_files(measured, images, grey_images):
    result, out = measured(LinearVAE())
    pictures = json.loads((out / "pictures.json").read_text())
    shapes = {name: (about["columns"], about["rows"]) for name, about in pictures.items()}
    assert shapes == {
        "samples.png": (8, 2),
        "reconstructions.png": (8, 2),
        "interpolation.png": (9, 6),
        "inference.png": (8, 2),
        "ood_lowest.png": (8, 2),
        **{
            f"{place}_{key}.png": (6, rows) for place in PLACES for key, rows in (("recon_mse", 2), ("bits_per_dim", 2))
        },
    }
    written = ["records", "pictures", "failures", "abilities", "tripwires", "enrichment", "suite"]
    assert files(out) == {*pictures, "scores.npz", *(f"{name}.json" for name in written)}
    tile = 96 + 2
    for name, (columns, rows) in shapes.items():
        assert Image.open(out / name).size == (columns * tile - 2, rows * tile - 2)
        assert pictures[name]["caption"].endswith(".")

    scores = np.load(out / "scores.npz")
    rows = scores["test_index"]
    assert len(set(rows.tolist())) == 16
    assert sorted(scores["ood_index"].tolist()) == list(range(len(grey_images)))
    assert scores["test/nll"].mean() == pytest.approx(by_name(result)["bits_per_dim"].value)
    assert scores["ood/recon"].shape == (len(grey_images),)
    assert scores["ood_baseline/grey"].tolist() == [0.0] * len(grey_images)

    galleries = json.loads((out / "failures.json").read_text())
    assert [(g["measure"], g["place"]) for g in galleries] == [
        (measure, place) for measure in ("recon_mse", "bits_per_dim") for place in PLACES
    ]
    failures = galleries[0]
    worst = np.argsort(-scores["test/recon"])[:6]
    assert failures["title"] == "reconstruction error"
    assert [face["row"] for face in failures["faces"]] == rows[worst].tolist()
    assert [face["value"] for face in failures["faces"]] == scores["test/recon"][worst].tolist()
    assert [face["image_id"] for face in failures["faces"]] == [f"{row:06}.jpg" for row in rows[worst]]


def test_the_gallery_names_the_attributes_that_are_set(measured, processed):
    _, out = measured(LinearVAE())
    labels = np.load(processed / "labels" / "test.npz")
    for face in json.loads((out / "failures.json").read_text())[0]["faces"]:
        assert face["attributes"] == labels["names"][labels["attributes"][face["row"]] == 1].tolist()


def test_pictures_show_what_they_say(measured, images, grey_images):
    _, out = measured(LinearVAE(), gallery=3)
    scores = np.load(out / "scores.npz")

    def tile(name, row, column):
        return np.asarray(Image.open(out / name))[row * 98 : row * 98 + 96 : 6, column * 98 : column * 98 + 96 : 6]

    rows = scores["test_index"]
    assert np.array_equal(tile("reconstructions.png", 0, 3), images[rows[3]])
    assert np.array_equal(tile("worst_recon_mse.png", 0, 0), images[rows[scores["test/recon"].argmax()]])
    assert np.array_equal(tile("inference.png", 0, 0), images[rows[scores["test/nll"].argmin()]])
    assert np.array_equal(tile("inference.png", 1, 7), images[rows[scores["test/nll"].argmax()]])
    assert np.array_equal(tile("ood_lowest.png", 0, 0), grey_images[scores["ood_index"][scores["ood/nll"].argmin()]])


def test_the_same_again_gives_the_same_bytes(measured):
    _, first = measured(LinearVAE(), "first")
    _, second = measured(LinearVAE(), "second")
    for name in files(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_model_that_only_samples(measured):
    result, out = measured(OnlySamples())
    records = by_name(result)
    assert sorted(records) == sorted(EVERY)
    without = {record.name: record.note for record in result.records if record.value is None}
    two_kinds = ["cycle_mse_a", "cycle_mse_b", "translation_success_a", "translation_success_b"]
    assert without == {
        **dict.fromkeys(RECONSTRUCTION, "has no encoder"),
        **dict.fromkeys(LIKELIHOOD, "defines no density"),
        "masked_mse": "is not trained to fill in hidden parts",
        **dict.fromkeys(two_kinds, "learns one kind of image, not the way between two"),
        "inverse_error": "no exactly invertible map",
        **dict.fromkeys([*BOARD, *(f"suite/{name}" for name in SUITE_NAMES)], "scores nothing"),
        **dict.fromkeys(SAMPLES, NO_NETWORK),
        **dict.fromkeys(INCEPTION, "no Inception weights: name their file in evaluate.inception, or `download`"),
        "attribute_auroc": "learns from images alone and knows no attributes",
        "probe_auroc": "has no encoder",
        "path_smoothness": NO_NETWORK,
        **dict.fromkeys(DISENTANGLED, "the factors behind the faces are known for drawn faces only"),
    }
    assert "failures.json" not in files(out)
    assert json.loads((out / "enrichment.json").read_text()) == []
    abilities = json.loads((out / "abilities.json").read_text())
    assert abilities["Samples"] == ""
    assert abilities["Encodes"] == "has no encoder"
    assert abilities["Translates"] == "learns one kind of image, not the way between two"
    assert set(result.metrics) == {"ood_baseline", "fd_pix64", "memorization_pixels", "probe_pixels", "tripwires"}


def test_a_density_alone(measured):
    result, out = measured(Uniform())
    records = by_name(result)
    assert records["bits_per_dim"].kind == "exact"
    assert records["bits_per_dim"].value == pytest.approx(8, abs=1e-12)
    assert "dequantisation" in records["bits_per_dim"].note
    assert records["elbo"].note == "the model has no variational bound"
    assert records["ood_auroc"].value == 0.5
    assert "inverted" not in records["ood_auroc"].note
    assert json.loads((out / "failures.json").read_text())[0]["title"] == "bits per dimension"
    assert records["bits_per_dim_iw"].value == pytest.approx(8, abs=1e-12)
    assert records["iw_gain"].value == pytest.approx(0, abs=1e-12)
    assert "samples.png" not in files(out)
    assert "sample_seconds_per_64" not in result.cost


def test_a_perfect_autoencoder_has_no_finite_psnr(measured):
    records = by_name(measured(Identity())[0])
    assert records["recon_mse"].value == 0
    assert records["psnr"].kind == "undefined"
    assert records["psnr"].note.startswith("not finite for 16 of 16 images")
    assert records["ood_auroc"].note == "score: recon"


def test_a_known_error(measured):
    result, _ = measured(Brighter(2))
    assert result.metrics["recon_mse"] == pytest.approx((2 / 255) ** 2, rel=1e-4)
    assert result.metrics["psnr"] == pytest.approx(20 * np.log10(127.5), abs=1e-3)


def test_a_broken_likelihood_is_reported_not_raised(measured):
    result, out = measured(Undecided())
    records = by_name(result)
    assert records["bits_per_dim"].kind == "undefined"
    assert "not finite" in records["bits_per_dim"].note
    assert "NaN" in records["ood_auroc"].note
    assert len(json.loads((out / "failures.json").read_text())[0]["faces"]) == 6
    verdicts = {wire["name"]: wire["verdict"] for wire in json.loads((out / "tripwires.json").read_text())}
    assert verdicts["non_finite"] == "tripped"
    assert result.metrics["tripwires"]["non_finite"] == 1


def test_all_images_where_none_are_counted(measured, images):
    result, _ = measured(LinearVAE(), images=0)
    assert by_name(result)["recon_mse"].n == len(images)


def test_missing_data_is_a_users_error(measured, processed, run):
    (processed / "evaluate" / f"{run.label}.json").unlink()
    with pytest.raises(UserError, match=r"small-16\.json is missing: run `dvc repro preprocess`"):
        measured(LinearVAE())
    (processed / str(SIZE) / "ood.npy").unlink()
    with pytest.raises(UserError, match="missing"):
        measured(LinearVAE())


def test_the_model_is_measured_in_eval_mode(measured):
    expected, given = Normalised().eval(), Normalised().train()
    result, _ = measured(given)
    assert not given.training
    assert torch.equal(given.norm.running_mean, expected.norm.running_mean)
    assert by_name(result)["ood_auroc"].note.startswith("score: norm")
    assert by_name(result)["ood_auroc"].model_hash == model_hash(expected)
