"""Whole evaluations of models whose figures can be worked out by hand."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_data import DARK, EXTERNAL, NO_NETWORK, SETTINGS, SPLITS, write_data
from tests.small_models import (
    DIMS,
    FACES,
    SIZE,
    Brighter,
    Identity,
    LinearVAE,
    Normalised,
    OnlySamples,
    Undecided,
    Uniform,
)
from visage.data.arrays import load_card, load_faces
from visage.errors import UserError
from visage.evaluation.evaluate import evaluate
from visage.evaluation.model import EvaluatedModel
from visage.evaluation.per_image import code_numbers
from visage.measures.denoising import LEVELS
from visage.measures.intervals import auroc
from visage.measures.ood import average_precision, fpr_at_95_tpr
from visage.measures.reconstruction import PER_IMAGE
from visage.measures.table import MEASURES, SCORES, SETS
from visage.models.base import CAPABILITIES
from visage.reference.load import load_reference
from visage.results import PerImage, Results, read
from visage.weights import weights_hash

CPU = torch.device("cpu")
PLACES = ("worst", "median", "best")
DERIVED = [name for name in SETS if name != "rare"]
ONLY_SOME = ["masked_mse", "cycle_mse_a", "cycle_mse_b", *LEVELS]
RECONSTRUCTION = list(PER_IMAGE)
LIKELIHOOD = ["bits_per_dim", "bits_per_dim_iw", "iw_gain", "elbo", "distortion", "rate"]
IN_FEATURES = ["fd_attr128", "kd_attr128", "precision", "recall", "density", "coverage", "memorization"]
INCEPTION = ["fid", "kid", "inception_score"]
CONDITIONING = ["attribute_auroc", "translation_success_a", "translation_success_b"]
DISENTANGLED = ["mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"]
OWN_SCORES = ["length", "darkness"]
MODEL_SCORES = ["nll", "recon", *OWN_SCORES, "typicality", "complexity", "dose", "mahalanobis", "gradient"]


@pytest.fixture(scope="module")
def able(measured):
    """The evaluation of a model that can do almost everything; tests look at it and change nothing."""
    return measured(LinearVAE())


@pytest.fixture(scope="module")
def only_samples(measured):
    return measured(OnlySamples())


def undefined(found):
    return {record.metric for record in found.results.records if record.value is None and not record.images}


def board(found):
    return {(r.images, r.score): r for r in found.results.records if r.metric == "auroc"}


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_every_row_of_the_table_is_recorded(able, only_samples, prepared):
    """As a figure or as the reason why there is none, once for each metric, set and score."""
    rows = {measure.key for measure in MEASURES if measure.group != "cost"}
    reference = {record.metric for record in load_reference(prepared() / "reference", SIZE).about.records}
    for found in (able, only_samples):
        recorded = [(r.metric, r.images, r.score) for r in found.results.records]
        assert len(set(recorded)) == len(recorded)
        assert {metric for metric, _, _ in recorded} | reference == rows
        assert {metric for metric, _, _ in recorded} & reference == {"auroc"}


def test_a_model_that_can_do_everything(able, prepared):
    assert undefined(able) == {*ONLY_SOME, "inverse_error", *IN_FEATURES, *INCEPTION, *CONDITIONING, "path_smoothness",
                               *DISENTANGLED}  # fmt: skip
    assert {able.find(name).n for name in RECONSTRUCTION + LIKELIHOOD if "iw" not in name} == {16}
    assert able.find("bits_per_dim").kind == "upper_bound"
    assert able.find("elbo").kind == "lower_bound"
    elbo = able.find("elbo").value
    assert elbo == pytest.approx(-able.find("distortion").value - able.find("rate").value)
    assert able.find("bits_per_dim").value == pytest.approx(-elbo / DIMS / np.log(2))
    assert all(r.ci95[0] <= r.value <= r.ci95[1] for r in able.results.records if r.ci95)
    assert {able.find(name).note for name in IN_FEATURES} == {NO_NETWORK}
    assert able.results.data_hash == load_card(prepared() / "processed").data_hash[str(SIZE)]
    assert able.results.model_hash == weights_hash(LinearVAE())
    assert read(able.out / "results.json", Results) == able.results
    assert able.results.metrics()["recon_mse"] == pytest.approx(able.find("recon_mse").value, rel=1e-5)
    assert able.cost.samples_per_second > 0
    assert able.cost.sample_gflop == 2 * 4 * DIMS / 1e9
    assert able.cost.footprint.device == "cpu"


def test_abilities_are_all_named_with_the_reason_where_one_is_missing(able, only_samples):
    for found in (able, only_samples):
        assert list(found.results.abilities) == [capability.__name__ for capability in CAPABILITIES]
    assert {name for name, why in able.results.abilities.items() if not why} == {
        "Samples", "Reconstructs", "Encodes", "Decodes", "HasBound", "ScoresOod"
    }  # fmt: skip
    assert able.results.abilities["HasLogProb"] == "bounded, not computed"
    assert only_samples.results.abilities["Samples"] == ""
    assert only_samples.results.abilities["Encodes"] == "has no encoder"
    assert only_samples.results.abilities["Translates"] == "learns one kind of image, not the way between two"


# --- other sets of images ---------------------------------------------------------------------------------------------


def test_each_score_is_recorded_against_each_set(able):
    """Equal to what is computed from the per-image values that are stored."""
    scores, found = able.per_image.scores, board(able)
    assert (able.results.headline, able.results.default_score) == ("grey", "nll")
    assert set(MODEL_SCORES) - set(OWN_SCORES) <= SCORES.keys()
    assert list(scores["test"]) == MODEL_SCORES
    assert set(found) == {(name, score) for name in (*EXTERNAL, *SETS) for score in MODEL_SCORES}
    for (name, score), record in found.items():
        if name == "rare":
            assert record.note == "the faces are not labelled with Wearing_Hat"
        elif name in DERIVED and score == "gradient":
            assert record.kind == "undefined"
            assert record.note == "this score was not measured on this set"
        else:
            # a derived set against the six faces that it is derived from
            test = scores["test"][score][: 6 if name in DERIVED else 16]
            assert record.value == auroc(test, scores[name][score]), (name, score)
            assert record.n == len(test) + len(scores[name][score])
    assert {name: found[name, "nll"].n for name in ("grey", "dark", "hflip")} == {"grey": 26, "dark": 23, "hflip": 12}


def test_an_auroc_is_exact_only_where_its_score_draws_no_random_numbers(able):
    kinds = {score: found.kind for (name, score), found in board(able).items() if name == "grey"}
    random = {"nll", "typicality", "complexity", "dose", "gradient"}  # the bound draws a code and dequantises
    assert kinds == {score: "estimate" if score in random else "exact" for score in MODEL_SCORES}
    assert {r.kind for r in able.results.records if r.metric in ("aupr", "fpr95")} == {"estimate"}


def test_scores_of_derived_sets_have_an_interval_for_the_default_score_alone(able):
    for (name, score), record in board(able).items():
        if record.value is not None:
            assert (record.ci95 is not None) == (name in EXTERNAL or score == "nll"), (name, score)


def test_other_summaries_are_those_of_the_default_score_on_the_headline(able):
    scores = able.per_image.scores
    for metric, summary in (("aupr", average_precision), ("fpr95", fpr_at_95_tpr)):
        (record,) = [r for r in able.results.records if r.metric == metric]
        assert (record.images, record.score) == ("grey", "nll")
        assert record.value == summary(scores["test"]["nll"], scores["grey"]["nll"])
    metrics = able.results.metrics()
    assert metrics["ood_auroc"] == pytest.approx(board(able)["grey", "nll"].value, rel=1e-5)
    assert metrics["ood"].keys() == set(MODEL_SCORES)
    assert metrics["sets"].keys() == {"dark", *DERIVED}


def test_typicality_and_complexity_follow_from_the_likelihood(able, prepared):
    scores = able.per_image.scores
    lengths = load_reference(prepared() / "reference", SIZE).code_lengths
    usual = scores["valid"]["nll"].mean()
    for name in ("test", *EXTERNAL, *DERIVED):
        assert scores[name]["typicality"] == pytest.approx(np.abs(scores[name]["nll"] - usual), abs=1e-12)
        assert scores[name]["complexity"] == pytest.approx(scores[name]["nll"] - lengths[name], abs=1e-12)


def test_rare_faces_are_scored_against_the_others(run, tmp_path):
    light = {split: images.mean((1, 2, 3)) for split, images in SPLITS.items()}
    labels = {split: np.stack([x > np.median(x), x < 0], axis=1) for split, x in light.items()}  # hats are light
    write_data(tmp_path, names=["Wearing_Hat", "Eyeglasses"], attributes=labels)
    (tmp_path / "out").mkdir()
    found = evaluate(LinearVAE(), run, SETTINGS, tmp_path, tmp_path / "out", CPU, progress=False).results
    record = found.find("auroc", "rare", "darkness")
    assert (record.value, record.n) == (0.0, 16)
    assert record.note.startswith("Wearing_Hat or Eyeglasses against neither; inverted")
    assert found.find("auroc", "rare", "gradient").n == 32 * 4 // 9  # as many as can be afforded


def test_gradients_are_scored_where_enough_of_them_can_be_afforded(measured):
    found = measured(LinearVAE(), network_calls=9 * 8 // 4)
    assert board(found)["grey", "gradient"].n == 8 + 8
    assert (found.per_image.scores["test"]["gradient"] > 0).all()
    assert not any(score == "gradient" for _, score in board(measured(LinearVAE(), network_calls=9 * 8 // 4 - 1)))


def test_a_tightened_bound_is_comparable_with_the_bound_although_fewer_images_are_behind_it(measured):
    """The first faces are not the average ones; what weighting gains on them is taken from the mean of all."""
    found = measured(LinearVAE(), least_images=3, network_calls=4, importance_draws=8)
    bits, gain = (found.per_image.values[name] for name in ("bits_per_dim", "iw_gain"))
    assert (len(bits), len(gain)) == (8, 3)
    assert found.find("iw_gain").value == pytest.approx(gain.mean())
    assert found.find("bits_per_dim_iw").value == pytest.approx(bits.mean() - gain.mean())
    assert abs(bits[:3].mean() - bits.mean()) > 1e-3


def test_one_draw_tightens_nothing(measured):
    """Nor may there be more images with weights than with the bound itself."""
    found = measured(LinearVAE(), importance_draws=1, draws=4, network_calls=8, least_images=2)
    assert found.find("bits_per_dim_iw").note == "no draws that could be weighted: the likelihood stays as it is"
    few = measured(LinearVAE(), importance_draws=2, draws=8, network_calls=8, least_images=2)
    assert len(few.per_image.values["iw_gain"]) == len(few.per_image.values["bits_per_dim"]) == 4


def test_pictures_of_one_person_are_resampled_together(run, tmp_path):
    """Of four people, with six pictures each that differ little, not much can be said."""
    faces = FACES[:4].repeat(6, axis=0) + (np.arange(24) % 6).astype(np.uint8)[:, None, None, None]
    widths = []
    for name, identity in (("known", np.arange(24) // 6), ("unknown", np.full(24, -1))):
        write_data(tmp_path / name, splits=SPLITS | {"test": faces}, identity={"test": identity})
        out = tmp_path / name / "out"
        out.mkdir()
        found = evaluate(LinearVAE(), run, SETTINGS, tmp_path / name, out, CPU, progress=False).results
        low, high = found.find("recon_mse").ci95
        widths.append(high - low)
        assert set(PerImage.load(out / "scores.npz").identity.tolist()) <= set(identity.tolist())
    assert widths[0] > 1.4 * widths[1]


# --- files ------------------------------------------------------------------------------------------------------------


def test_its_files(able, grey_images):
    pictures = able.pictures
    shapes = {name: (picture.columns, picture.rows) for name, picture in pictures.items()}
    assert shapes == {
        "samples.png": (8, 2),
        "reconstructions.png": (8, 2),
        "interpolation.png": (9, 6),
        "typicality.png": (8, 2),
        "ood_lowest.png": (8, 2),
        **{f"{place}_{measure}.png": (6, 2) for place in PLACES for measure in ("recon_mse", "bits_per_dim")},
    }
    assert files(able.out) == {*pictures, "scores.npz", "results.json"}
    tile = 96 + 2
    for name, (columns, rows) in shapes.items():
        assert Image.open(able.out / name).size == (columns * tile - 2, rows * tile - 2)
    assert {name: picture.facts for name, picture in pictures.items() if picture.facts} == {
        "samples.png": {"shown": 10},
        "interpolation.png": {"steps": 8, "ends": "faces"},
        "typicality.png": {"score": "nll"},
        "ood_lowest.png": {"shown": 10, "score": "nll", "images": "grey"},
    }


def test_its_per_image_values(able):
    found = able.per_image
    rows = found.rows["test"]
    assert found.rows.keys() == {"test", *EXTERNAL}
    assert len(set(rows.tolist())) == 16
    for name, images in EXTERNAL.items():
        assert sorted(found.rows[name].tolist()) == list(range(len(images)))
    assert found.scores.keys() == {"test", "valid", *EXTERNAL, *DERIVED}
    assert found.values.keys() == {*RECONSTRUCTION, "bits_per_dim", "iw_gain"}
    assert np.array_equal(found.identity, np.full(16, -1))
    for name in found.values:
        assert found.values[name].mean() == pytest.approx(able.find(name).value)
    assert able.find("bits_per_dim_iw").value == pytest.approx(
        found.values["bits_per_dim"].mean() - found.values["iw_gain"].mean()
    )
    assert np.array_equal(found.scores["test"]["nll"], found.values["bits_per_dim"])
    assert found.scores["dark"]["recon"].shape == (len(DARK),)


def test_galleries_show_the_ends_and_the_middle_of_a_ranking(able, prepared):
    faces = load_faces("test", SIZE, prepared() / "processed")
    galleries = able.results.galleries
    assert [(g.measure, g.place) for g in galleries] == [
        (measure, place) for measure in ("recon_mse", "bits_per_dim") for place in PLACES
    ]
    values, rows = able.per_image.values["recon_mse"], able.per_image.rows["test"]
    worst = np.argsort(-values)[:6]
    assert (galleries[0].picture, galleries[0].n) == ("worst_recon_mse.png", 16)
    assert [face.row for face in galleries[0].faces] == rows[worst].tolist()
    assert [face.value for face in galleries[0].faces] == values[worst].tolist()
    assert [face.image_id for face in galleries[0].faces] == [f"{row:06}.jpg" for row in rows[worst]]
    for gallery in galleries:
        for face in gallery.faces:
            has = faces.attributes[face.row] == 1
            assert face.attributes == np.array(faces.names)[has].tolist()


def test_the_attributes_of_the_worst_faces_are_compared(able):
    assert [(e.measure, e.n, e.worst) for e in able.results.enrichment] == [
        ("recon_mse", 16, 1),
        ("bits_per_dim", 16, 1),
    ]
    worst = able.results.galleries[0].faces[0]
    assert {odds.attribute for odds in able.results.enrichment[0].rows if odds.worst_with} == set(worst.attributes)


def test_pictures_show_what_they_say(measured, images, grey_images):
    found = measured(LinearVAE(), gallery=3)
    rows, scores = found.per_image.rows, found.per_image.scores

    def tile(name, row, column):
        return np.asarray(Image.open(found.out / name))[
            row * 98 : row * 98 + 96 : 6, column * 98 : column * 98 + 96 : 6
        ]

    test = rows["test"]
    assert np.array_equal(tile("reconstructions.png", 0, 3), images[test[3]])
    assert np.array_equal(tile("worst_recon_mse.png", 0, 0), images[test[scores["test"]["recon"].argmax()]])
    assert np.array_equal(tile("typicality.png", 0, 0), images[test[scores["test"]["nll"].argmin()]])
    assert np.array_equal(tile("typicality.png", 1, 7), images[test[scores["test"]["nll"].argmax()]])
    assert np.array_equal(tile("ood_lowest.png", 0, 0), grey_images[rows["grey"][scores["grey"]["nll"].argmin()]])


def test_the_same_again_gives_the_same_bytes(able, measured):
    again = measured(LinearVAE())
    assert files(able.out) == files(again.out)
    for name in files(able.out):
        assert (able.out / name).read_bytes() == (again.out / name).read_bytes(), name


# --- models that can do less ------------------------------------------------------------------------------------------


def test_a_model_that_only_samples(only_samples):
    without = {r.metric: r.note for r in only_samples.results.records if r.value is None and not r.images}
    two_kinds = ["cycle_mse_a", "cycle_mse_b", "translation_success_a", "translation_success_b"]
    assert without == {
        **dict.fromkeys((*RECONSTRUCTION, "code_numbers"), "has no encoder"),
        **dict.fromkeys(LIKELIHOOD, "defines no density"),
        "masked_mse": "is not trained to fill in hidden parts",
        **dict.fromkeys(LEVELS, "is not trained to remove noise"),
        **dict.fromkeys(two_kinds, "learns one kind of image, not the way between two"),
        "inverse_error": "no exactly invertible map",
        **dict.fromkeys(IN_FEATURES, NO_NETWORK),
        **dict.fromkeys(INCEPTION, "no Inception weights: name their file in evaluate.inception, or `download`"),
        "attribute_auroc": "learns from images alone and knows no attributes",
        "probe_auroc": "has no encoder",
        "path_smoothness": NO_NETWORK,
        **dict.fromkeys(DISENTANGLED, "the factors behind the faces are known for drawn faces only"),
    }
    others = {(r.metric, r.images): (r.score, r.note) for r in only_samples.results.records if r.images}
    expected = [*(("auroc", name) for name in (*EXTERNAL, *SETS)), ("aupr", "grey"), ("fpr95", "grey")]
    assert others == dict.fromkeys(expected, ("", "scores nothing"))
    results = only_samples.results
    assert (results.default_score, results.galleries, results.enrichment) == ("", [], [])
    assert results.metrics().keys() == {"fd_pix64", "memorization_pixels", "tripwires"}


def test_a_density_alone(measured):
    found = measured(Uniform())
    assert found.find("bits_per_dim").kind == "exact"
    assert found.find("bits_per_dim").value == pytest.approx(8, abs=1e-12)
    assert "dequantisation" in found.find("bits_per_dim").note
    assert found.find("elbo").note == "the model has no variational bound"
    assert found.find("auroc").value == 0.5
    assert "inverted" not in found.find("auroc").note
    assert found.results.galleries[0].measure == "bits_per_dim"
    assert found.find("bits_per_dim_iw").value == pytest.approx(8, abs=1e-12)
    assert found.find("iw_gain").value == pytest.approx(0, abs=1e-12)
    assert "samples.png" not in files(found.out)
    assert found.cost.samples_per_second is None


def test_a_perfect_autoencoder_has_no_finite_psnr(measured):
    found = measured(Identity())
    assert found.find("recon_mse").value == 0
    assert found.find("psnr").kind == "undefined"
    assert found.find("psnr").note.startswith("not finite for 16 of 16 images")
    assert found.results.default_score == "recon"


class Quantised(Identity):
    """Reconstructs from five of eight entries of a codebook, between networks that make 768 numbers."""

    codebook_size = 8

    def encode(self, x):
        return x.flatten(1)

    def codes(self, x):
        return torch.zeros(len(x), 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("model", "numbers"), [(LinearVAE(), LinearVAE.codes), (Quantised(), 5), (Identity(), None), (OnlySamples(), None)]
)
def test_a_code_has_as_many_numbers_as_a_reconstruction_is_made_from(model, numbers):
    with torch.no_grad():
        assert code_numbers(EvaluatedModel(model.eval(), SETTINGS, CPU, 16), FACES[:1]) == numbers


def test_the_numbers_of_a_code_are_recorded(measured):
    assert measured(LinearVAE()).find("code_numbers").value == LinearVAE.codes
    assert measured(OnlySamples()).find("code_numbers").kind == "undefined"


def test_images_too_small_for_a_window_have_no_similarity(run, tmp_path):
    small = {split: images[:, ::2, ::2] for split, images in SPLITS.items()}
    external = {name: images[:, ::2, ::2] for name, images in EXTERNAL.items()}
    write_data(tmp_path, splits=small, external=external, size=8)
    run = replace(run, size=8)
    found = evaluate(Brighter(2), run, SETTINGS, tmp_path, tmp_path, CPU, progress=False).results
    assert found.find("ssim").note == "it needs images of 11 x 11 pixels at least"
    assert found.find("recon_mse").value == pytest.approx((2 / 255) ** 2, rel=1e-4)


def test_test_faces_that_are_training_faces_leave_copies_undefined(run, tmp_path):
    write_data(tmp_path, splits=SPLITS | {"train": FACES})
    found = evaluate(OnlySamples(), run, SETTINGS, tmp_path, tmp_path, CPU, progress=False).results
    assert found.find("memorization_pixels").note == "half of the test faces or more are training faces as well"
    assert found.find("fd_pix64").value is not None


def test_a_known_error(measured):
    found = measured(Brighter(2)).results.metrics()
    assert found["recon_mse"] == pytest.approx((2 / 255) ** 2, rel=1e-4)
    assert found["psnr"] == pytest.approx(20 * np.log10(127.5), abs=1e-3)


def test_a_broken_likelihood_is_reported_not_raised(measured):
    found = measured(Undecided())
    assert found.find("bits_per_dim").kind == "undefined"
    assert "not finite" in found.find("bits_per_dim").note
    assert "NaN" in found.find("auroc").note
    assert found.find("aupr").note == "a score is NaN"
    assert len(found.results.galleries[0].faces) == 6
    assert {wire.name: wire.verdict for wire in found.results.tripwires}["non_finite"] == "tripped"
    assert found.results.metrics()["tripwires"]["non_finite"] == 1


def test_all_images_where_none_are_counted(measured, images):
    assert measured(Identity(), images=0).find("recon_mse").n == len(images)


def test_missing_data_is_a_users_error(prepared, run, tmp_path):
    def measure():
        return evaluate(Identity(), run, SETTINGS, tmp_path, tmp_path, CPU, progress=False)

    with pytest.raises(UserError, match=r"results\.json is missing: run `dvc repro reference`"):
        measure()
    shutil.copytree(prepared() / "reference", tmp_path / "reference")
    with pytest.raises(UserError, match=r"card\.json is missing: run `dvc repro -f preprocess`"):
        measure()
    shutil.copytree(prepared() / "processed", tmp_path / "processed")
    with pytest.raises(UserError, match=r"about\.json is missing: run `dvc repro attribute_network`"):
        measure()
    (tmp_path / "processed" / str(SIZE) / "ood" / "dark.npy").unlink()
    with pytest.raises(UserError, match=r"dark\.npy is missing"):
        measure()


def test_the_model_is_measured_in_eval_mode(measured):
    expected, given = Normalised().eval(), Normalised().train()
    found = measured(given).results
    assert not given.training
    assert torch.equal(given.norm.running_mean, expected.norm.running_mean)
    assert found.default_score == "norm"
    assert found.model_hash == weights_hash(expected)
