"""What depends on no model: every figure equals what is computed directly from the arrays."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_data import (
    DARK,
    LABEL,
    NAMES,
    NO_NETWORK,
    SETTINGS,
    SPLITS,
    write_no_network,
    write_processed,
)
from tests.small_models import FACES, GREY, SIZE
from visage.attribute_network import load_attribute_network, make_attribute_networks
from visage.config import AttributeNetworkConfig, ReferenceConfig
from visage.data.arrays import load_card
from visage.errors import UserError
from visage.inference.batches import embedded
from visage.maths.streams import torch_generator
from visage.measures.denoising import LEVELS
from visage.measures.gaussian import FullGaussian
from visage.measures.image_statistics import PixelGaussian, baselines, code_lengths, log_variances
from visage.measures.intervals import auroc
from visage.measures.principal_components import CODES, LinearAutoencoder
from visage.measures.probes import Standardised, probe
from visage.measures.reconstruction import PER_IMAGE
from visage.measures.sample_quality import IN_FEATURES, frechet_distance, mirrored, nearest_training, thumbnails
from visage.measures.table import BASELINES, SETS
from visage.reference.build import build_reference
from visage.reference.derived_sets import derive
from visage.reference.images import choose_images
from visage.reference.load import load_reference
from visage.results import Reference, read

CPU = torch.device("cpu")
PCAS = [f"pca_{numbers}" for numbers in CODES]
CONFIG = ReferenceConfig((SIZE,), (LABEL, "other-16", "small-32"))


def build(data, config=CONFIG):
    return build_reference(config, SETTINGS, data, data / "reference", CPU)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A project's data with a network, hardly trained: what matters is that it is one function of images."""
    folder = tmp_path_factory.mktemp("data")
    write_processed(folder / "processed")
    config = AttributeNetworkConfig((SIZE,), kimg=0.1, batch_size=8, lr=0.01, seed=0)
    make_attribute_networks(config, folder / "processed", folder / "attribute_network", CPU)
    return folder


@pytest.fixture(scope="module")
def built(data):
    """The figures for `dvc metrics`, and what was written."""
    figures = build(data)
    return figures, load_reference(data / "reference", SIZE)


@pytest.fixture(scope="module")
def images(data):
    return choose_images(SIZE, SETTINGS, load_card(data / "processed"), data / "processed")


def test_the_sets_are_listed_in_the_order_of_the_page(built, data):
    _, found = built
    about = found.about
    assert [(s.name, s.kind, s.n, s.title) for s in about.sets] == [
        ("grey", "external", 10, "grey images"),
        ("dark", "external", 7, "dark images"),
        *((name, "derived", 6, "") for name in list(SETS)[:-1]),
        ("rare", "subset", 0, ""),
    ]
    assert about.headline == "grey"
    assert (about.size, about.data_hash) == (SIZE, load_card(data / "processed").data_hash[str(SIZE)])


def test_derived_sets_come_from_the_first_test_faces(built, images):
    _, found = built
    gaussian = PixelGaussian.fit(SPLITS["train"])
    std = np.sqrt(gaussian.variance)
    expected = derive(images.test[:6], train_mean=gaussian.mean - 0.5, train_std=std, seed=SETTINGS.seed)
    assert list(found.derived) == list(expected)
    assert all(np.array_equal(found.derived[name], expected[name]) for name in expected)


def test_trivial_scores_are_kept_for_every_image(built, images):
    _, found = built
    train = SPLITS["train"]
    fitted = PixelGaussian.fit(train), LinearAutoencoder.fit(train), FullGaussian.fit(train)
    sets = {"test": images.test, **images.external, **found.derived}
    assert found.per_image.scores.keys() == sets.keys()
    for name, some in sets.items():
        expected = baselines(some, *fitted)
        assert list(found.per_image.scores[name]) == list(BASELINES)
        assert all(np.array_equal(found.per_image.scores[name][score], expected[score]) for score in expected), name
        assert np.array_equal(found.code_lengths[name], code_lengths(some))
    assert np.array_equal(found.code_lengths["valid"], code_lengths(images.valid))
    assert np.array_equal(found.per_image.rows["test"], images.rows)
    assert np.array_equal(GREY[found.per_image.rows["grey"]], images.external["grey"])
    assert np.array_equal(DARK[found.per_image.rows["dark"]], images.external["dark"])
    assert np.array_equal(found.per_image.values["log_variance"], log_variances(images.test))
    assert np.array_equal(found.per_image.values["png_bytes"], found.per_image.scores["test"]["png_large"])


def test_every_trivial_score_is_recorded_against_every_set(built):
    _, found = built
    scores = found.per_image.scores
    board = {(r.images, r.score): r for r in found.about.records if r.metric == "auroc"}
    assert board.keys() == {(s.name, score) for s in found.about.sets for score in BASELINES}
    for (name, score), record in board.items():
        if name == "rare":
            assert record.note == "the faces are not labelled with Wearing_Hat"
            continue
        # a derived set against the six faces that it is derived from
        test = scores["test"][score][: len(scores["test"][score]) if name in ("grey", "dark") else 6]
        assert record.value == auroc(test, scores[name][score]), (name, score)
        assert record.n == len(test) + len(scores[name][score])
        assert record.ci95[0] <= record.value <= record.ci95[1]
    assert board["grey", "grey"].value == 1.0
    assert board["dark", "dark"].value > 0.9
    for score in ("grey", "dark", "zeros"):  # which way a face looks is all the same to them, in every resample
        assert board["hflip", score].value == 0.5
        assert board["hflip", score].ci95 == pytest.approx((0.5, 0.5), abs=1e-12)


def test_controls_and_floors_are_those_of_the_measures(built, data, images):
    _, found = built
    small, faces = thumbnails(SPLITS["train"]), thumbnails(SPLITS["test"])
    standardised = Standardised.fit(small[images.probe_rows])
    pixels = probe(
        standardised(small[images.probe_rows]), images.train.attributes[images.probe_rows],
        standardised(faces[images.rows]), images.attributes, NAMES,
    )  # fmt: skip
    record = found.about.find("probe_pixels")
    assert record.value == pytest.approx(pixels.macro, abs=1e-12)
    assert record.note.startswith("16 x 16 pixels in place of codes; logistic regression on 30 training faces")
    network = load_attribute_network(data / "attribute_network", SIZE, CPU)
    test, unseen = (
        embedded(network.network.features, some, 32, CPU).astype(float) for some in (SPLITS["test"], images.valid)
    )
    floor = found.about.find("fd_attr128_floor")
    assert floor.value == pytest.approx(frechet_distance(test, unseen), rel=1e-6)
    assert floor.n == len(SPLITS["valid"])
    assert found.about.network_hash == network.weights_hash
    assert found.about.why_no_network == ""
    usual, _ = nearest_training(test[images.rows], network.train_features)
    assert found.features["usual"] == pytest.approx(usual, rel=1e-6)
    assert found.features["test"] == pytest.approx(test, abs=1e-6)
    assert np.array_equal(found.thumbnails["test"], faces)
    assert np.array_equal(found.train_thumbnails, small)
    usual, _ = nearest_training(faces[images.rows], small, mirrored(faces[images.rows]))
    assert np.array_equal(found.thumbnails["usual"], usual)


def test_one_gaussian_is_judged_as_a_model_is(built, data, images):
    _, found = built
    gaussian = FullGaussian.fit(SPLITS["train"])
    assert (found.about.linear[0].name, found.about.linear[0].numbers) == ("gaussian", 0)
    figures = {record.metric: record for record in found.about.linear[0].records}
    assert figures.keys() == {"bits_per_dim", "auroc", "fd_pix64", *IN_FEATURES, *LEVELS}
    bits = gaussian.bits_per_dim(images.test)
    assert figures["bits_per_dim"].value == bits.mean()
    assert (figures["bits_per_dim"].kind, figures["bits_per_dim"].n) == ("exact", 16)
    assert np.array_equal(found.per_image.scores["test"]["gaussian"], bits)
    assert np.array_equal(found.per_image.values["gaussian_bits_per_dim"], bits)
    generator = torch_generator(SETTINGS.seed, "noise to remove 0")
    noise = torch.stack([torch.randn(3, SIZE, SIZE, generator=generator) for _ in range(16)])
    middles = images.test + 0.5 + 127.5 * noise.permute(0, 2, 3, 1).numpy()
    clean = (gaussian.denoise(middles.astype(np.float32), 127.5) - 0.5).clip(0, 255)
    errors = np.square((clean - images.test) / 255).mean((1, 2, 3))
    assert found.per_image.values["gaussian_denoise_mse_1"] == pytest.approx(errors, rel=1e-4)
    assert figures["denoise_mse_1"].value == pytest.approx(errors.mean(), rel=1e-4)
    assert [figures[metric].value for metric in LEVELS] == sorted(figures[metric].value for metric in LEVELS)
    same = found.about.find("auroc", "grey", "gaussian")
    assert replace(figures["auroc"], score="gaussian") == same
    assert figures["auroc"].score == "nll"
    assert found.about.compared == 8 == figures["fd_attr128"].n == found.about.find("fd_attr128_floor").n
    picture = Image.open(data / "reference" / str(SIZE) / "gaussian_samples.png")
    assert picture.size == (8 * 98 - 2, 96)


def test_the_linear_autoencoder_is_judged_as_a_model_is_by_the_size_of_its_code(built, data, images):
    _, found = built
    pca = LinearAutoencoder.fit(SPLITS["train"])
    assert [(one.name, one.numbers) for one in found.about.linear[1:]] == [(f"pca_{k}", k) for k in CODES]
    for one in found.about.linear[1:]:
        figures = {record.metric: record for record in one.records}
        assert figures.keys() == {*PER_IMAGE, "code_numbers", "auroc"}
        errors = pca.errors(images.test, one.numbers, PER_IMAGE)
        for name, values in errors.items():
            assert (figures[name].value, figures[name].kind, figures[name].n) == (values.mean(), "exact", 16)
            assert figures[name].ci95[0] < values.mean() < figures[name].ci95[1]
        assert np.array_equal(found.per_image.values[one.key("recon_mse")], errors["recon_mse"])
        others = pca.errors(images.external["grey"], one.numbers, PER_IMAGE)["recon_mse"]
        assert figures["auroc"].value == auroc(errors["recon_mse"], others)
        assert (figures["auroc"].images, figures["auroc"].score) == ("grey", "recon")
        assert figures["code_numbers"].value == one.numbers
        picture = Image.open(data / "reference" / str(SIZE) / f"{one.name}_reconstructions.png")
        assert picture.size == (8 * 98 - 2, 2 * 98 - 2)


def test_the_floor_has_as_many_faces_as_there_are_samples(tmp_path, data):
    """However many samples are asked for, no more of them are compared than there are unseen faces."""
    for name in ("processed", "attribute_network"):
        (tmp_path / name).symlink_to(data / name)
    settings = replace(SETTINGS, quality_samples=500, slow_samples=7)
    build_reference(ReferenceConfig((SIZE,), (LABEL,)), settings, tmp_path, tmp_path / "slow", CPU)
    about = load_reference(tmp_path / "slow", SIZE).about
    assert about.compared == about.find("fd_attr128_floor").n == 7
    settings = replace(settings, slow_samples=600)
    build_reference(ReferenceConfig((SIZE,), (LABEL,)), settings, tmp_path, tmp_path / "all", CPU)
    assert load_reference(tmp_path / "all", SIZE).about.compared == len(SPLITS["valid"])


def test_metrics_are_plain_figures_and_the_headline_board(built):
    figures, found = built
    assert figures.keys() == {str(SIZE)}
    assert figures[str(SIZE)].keys() == {"probe_pixels", "fd_attr128_floor", "ood_baselines", "gaussian", *PCAS}
    assert figures[str(SIZE)]["ood_baselines"] == {
        score: float(f"{found.about.find('auroc', 'grey', score).value:.6g}") for score in BASELINES
    }


def test_the_same_arrays_give_the_same_bytes_and_others_another_card(built, data, tmp_path):
    first = {p.relative_to(data): p.read_bytes() for p in (data / "reference").rglob("*.*")}
    build_reference(CONFIG, SETTINGS, data, tmp_path / "again", CPU)
    for path, content in first.items():
        assert (tmp_path / "again" / path.relative_to("reference")).read_bytes() == content, path
    cards = {path.name for path in (data / "reference").glob("*.json")}
    assert cards == {f"{LABEL}.json", "other-16.json"}  # nothing of a size that is not computed
    card = json.loads((data / "reference" / f"{LABEL}.json").read_text())
    assert card["reference"].keys() == {path.name for path in (data / "reference" / str(SIZE)).iterdir()}
    assert card["arrays"].keys() == {"train", "valid", "test", "ood/grey", "ood/dark"}
    assert card["network"] == load_attribute_network(data / "attribute_network", SIZE, CPU).weights_hash

    other = tmp_path / "data"
    write_processed(other / "processed", splits=SPLITS | {"test": FACES[::-1]})
    write_no_network(other / "attribute_network")
    build(other)
    changed = json.loads((other / "reference" / f"{LABEL}.json").read_text())
    different = {name for name, value in card["reference"].items() if changed["reference"].get(name) != value}
    assert different == {
        "results.json", "scores.npz", "derived.npz", "code_lengths.npz", "thumbnails.npz", "features.npz",
        *(f"{name}_reconstructions.png" for name in PCAS),
    }  # fmt: skip
    assert changed["network"] == ""
    assert changed["data_hash"] != card["data_hash"]


def test_without_a_network_there_are_no_features_and_no_floor(tmp_path):
    write_processed(tmp_path / "processed")
    write_no_network(tmp_path / "attribute_network")
    figures = build(tmp_path)
    found = load_reference(tmp_path / "reference", SIZE)
    assert found.features == {}
    assert not (tmp_path / "reference" / str(SIZE) / "features.npz").exists()
    assert (found.about.network_hash, found.about.why_no_network) == ("", NO_NETWORK)
    assert found.about.find("fd_attr128_floor").note == NO_NETWORK
    assert "fd_attr128_floor" not in figures[str(SIZE)]


def test_faces_without_labels_have_no_probe_and_no_rare_ones(tmp_path):
    write_processed(tmp_path / "processed", names=[])
    write_no_network(tmp_path / "attribute_network")
    build(tmp_path)
    found = load_reference(tmp_path / "reference", SIZE).about
    assert found.find("probe_pixels").note == "no attribute that 5 of the measured faces have, and as many lack"
    assert found.find("auroc", "rare", "grey").note == "the faces are not labelled with Wearing_Hat"
    assert found.find("auroc", "grey", "grey").value == 1.0


def test_rare_faces_are_told_from_the_others(tmp_path):
    labels = {split: np.zeros((len(images), 2)) for split, images in SPLITS.items()}
    labels["test"][FACES.mean((1, 2, 3)) < np.median(FACES.mean((1, 2, 3))), 1] = 1  # the dark half has glasses
    write_processed(tmp_path / "processed", names=["Wearing_Hat", "Eyeglasses"], attributes=labels)
    write_no_network(tmp_path / "attribute_network")
    build(tmp_path)
    found = load_reference(tmp_path / "reference", SIZE)
    record = found.about.find("auroc", "rare", "dark")
    rare = labels["test"][found.per_image.rows["test"], 1] == 1
    assert record.value == 1.0
    assert record.n == 16
    assert found.about.sets[-1].n == rare.sum()
    dark = found.per_image.scores["test"]["zeros"]
    assert found.about.find("auroc", "rare", "zeros").value == auroc(dark[~rare], dark[rare])


def test_a_failure_leaves_the_old_reference(tmp_path):
    write_processed(tmp_path / "processed")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "old").touch()
    with pytest.raises(UserError, match=r"about\.json is missing: run `dvc repro attribute_network`"):
        build(tmp_path)
    assert [path.name for path in (tmp_path / "reference").iterdir()] == ["old"]
    assert {path.name for path in tmp_path.iterdir()} == {"processed", "reference"}


@pytest.mark.parametrize("name", ["scores.npz", "derived.npz", "features.npz", "train_thumbnails.npy", "results.json"])
def test_a_reference_that_cannot_be_read_is_a_users_error(built, data, tmp_path, name):
    home = tmp_path / "reference" / str(SIZE)
    shutil.copytree(data / "reference" / str(SIZE), home)
    content = (home / name).read_bytes()
    for damaged in (content[:-50], b""):
        (home / name).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{SIZE}.*: .*run `dvc repro"):
            load_reference(tmp_path / "reference", SIZE)
    (home / name).unlink()
    with pytest.raises(UserError, match=rf"{SIZE}.*: .*run `dvc repro"):
        load_reference(tmp_path / "reference", SIZE)


def test_the_written_file_is_that_of_the_schema(built, data):
    _, found = built
    assert read(data / "reference" / str(SIZE) / "results.json", Reference) == found.about
