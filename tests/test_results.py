import dataclasses
import json
import math

import numpy as np
import pytest

from visage import results
from visage.config import RunConfig, TrainConfig
from visage.errors import UserError
from visage.files import Strict, write_json
from visage.results import (
    VERSION,
    Enrichment,
    EvaluationCost,
    Face,
    Footprint,
    Gallery,
    ImageSet,
    JudgedFolder,
    LinearReference,
    Odds,
    Parameters,
    PerImage,
    Picture,
    Record,
    Reference,
    Results,
    StageCost,
    Training,
    TrainingCost,
    Tripwire,
    read,
    write,
)

TRAIN = TrainConfig(1.5, 2, "adam", 0.1, {"g": 0.5}, (0.9, 0.99), 0.0, "cosine", 0.0, 0.0, 0.0, 0.5, True, "fp32", 1, 1)
FIRST = RunConfig("vae-16-0", "vae", 16, "demo", 0, "vae", {"beta": 1.0, "channels": [8, 16]}, TRAIN, "c0de")
RUN = RunConfig("latent-16-0", "latent", 16, "demo", 0, "latent", {}, TRAIN, "c0de", FIRST)
RECORD = Record("recon_mse", "exact", 0.25, 16, (0.2, 0.3), "a note")
UNDEFINED = Record("auroc", "undefined", note="no score", images="blur", score="nll")
WIRE = Tripwire("round_trip", "ok", "comes back", 0.001, 0.002)
FACE = Face(7, "000007.jpg", 0.5, ["Bald", "Smiling"])
GALLERY = Gallery("recon_mse", "worst", "worst_recon_mse.png", 16, [FACE])
ODDS = Odds("Bald", 3, 20, 1.5, 2.25, (0.5, 9.0), True, "", 0.03, 2.0)
FOOTPRINT = Footprint(512, "cpu", "fp32", 2)
COST = TrainingCost(12.5, 800.0, FOOTPRINT, train_pflop=0.5)
RESULTS = Results(
    version=VERSION,
    run="vae-16-0",
    data_hash="da7a",
    model_hash="b0d1",
    default_score="nll",
    headline="grey",
    records=[RECORD, UNDEFINED],
    tripwires=[WIRE],
    galleries=[GALLERY],
    enrichment=[Enrichment("recon_mse", 16, 1, [ODDS], 0.04)],
    pictures=[Picture("samples.png", 8, 2, {"shown": 16, "score": "nll", "domains": ["a", "b"]})],
    abilities={"Samples": "", "Encodes": "has no encoder"},
)
REFERENCE = Reference(
    version=VERSION,
    size=16,
    data_hash="da7a",
    network_hash="",
    why_no_network="no labels",
    sets=[
        ImageSet("grey", "external", 10, "grey images"),
        ImageSet("blur", "derived", 6),
        ImageSet("rare", "subset", 3),
    ],
    records=[
        Record("auroc", "exact", 0.75, 26, images="grey", score="grey"),
        Record("auroc", "exact", 0.5, 26, images="blur", score="grey"),
        Record("probe_pixels", "estimate", 0.625, 16),
    ],
    compared=8,
    linear=[LinearReference("gaussian", 0, [Record("bits_per_dim", "exact", 3.5, 16)])],
)
TRAINING = Training(
    VERSION, "4e1", RUN, Parameters(30, {"g": 10, "d": 20}), 100, 1600, 80, "bits_per_dim of the validation images"
)
EXAMPLES = [
    RECORD,
    UNDEFINED,
    WIRE,
    Tripwire("mode_collapse", "undefined", "no samples"),
    FACE,
    GALLERY,
    ODDS,
    Odds("Hat", 0, 1, 0.1, 1.0, (0.1, 10.0), False, "too few images"),
    *RESULTS.enrichment,
    Enrichment("nll", 16, 1, []),
    *RESULTS.pictures,
    Picture("reconstructions.png", 8, 2),
    RESULTS,
    *REFERENCE.sets,
    *REFERENCE.linear,
    REFERENCE,
    TRAINING.parameters,
    TRAINING,
    FOOTPRINT,
    COST,
    dataclasses.replace(COST, first_stage=COST),
    EvaluationCost(2.5, 10.0, FOOTPRINT),
    EvaluationCost(2.5, 10.0, FOOTPRINT, 0.5, 1.25),
    JudgedFolder(VERSION, "their-gan", 32, "0f" * 32, 200, [RECORD, UNDEFINED]),
    StageCost(2.5, 300),
    StageCost(2.5, 300, 1200),
]


def name(example):
    return type(example).__name__


def test_every_kind_of_result_has_an_example():
    kinds = {
        kind
        for kind in vars(results).values()
        if isinstance(kind, type) and issubclass(kind, Strict) and kind != Strict
    }
    assert {type(example) for example in EXAMPLES} == {kind for kind in kinds if kind.__module__ == results.__name__}


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_what_is_written_is_read(example, tmp_path):
    write(tmp_path / "one.json", example)
    assert read(tmp_path / "one.json", type(example)) == example
    write(tmp_path / "two.json", read(tmp_path / "one.json", type(example)))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_fields_that_are_none_are_left_out_at_every_depth(tmp_path):
    write(tmp_path / "r.json", RESULTS)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["records"][1] == {
        "metric": "auroc", "kind": "undefined", "n": 0, "note": "no score", "images": "blur", "score": "nll"
    }  # fmt: skip
    write(tmp_path / "t.json", TRAINING)
    written = json.loads((tmp_path / "t.json").read_text())
    assert "first_stage" in written["config"]
    assert "first_stage" not in written["config"]["first_stage"]


def spoilt(path, example, change):
    """A file whose content was changed after it had been written."""
    write(path, example)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_unknown_key_is_refused(example, tmp_path):
    spoilt(tmp_path / "r.json", example, lambda content: content.update(colour="red"))
    with pytest.raises(UserError, match=r"r\.json: colour: .*: delete it and run `dvc repro` again$"):
        read(tmp_path / "r.json", type(example))


@pytest.mark.parametrize("example", [RESULTS, REFERENCE, TRAINING], ids=name)
def test_another_version_is_refused(example, tmp_path):
    for version in (VERSION - 1, VERSION + 1):
        spoilt(tmp_path / "r.json", example, lambda content, version=version: content.update(version=version))
        with pytest.raises(UserError, match=r"r\.json: version: must be 3: delete it and run `dvc repro` again$"):
            read(tmp_path / "r.json", type(example))


def test_a_missing_key_is_named_with_its_place(tmp_path):
    spoilt(tmp_path / "r.json", RESULTS, lambda content: content["galleries"][0]["faces"][0].pop("image_id"))
    with pytest.raises(UserError, match=r"r\.json: galleries\.0\.faces\.0\.image_id: .* delete it"):
        read(tmp_path / "r.json", Results)


@pytest.mark.parametrize("content", ["", "{", '{"metric": "ps', "[]", "\x00\x01"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=r"r\.json: .*: delete it and run `dvc repro` again$"):
        read(tmp_path / "r.json", Record)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"r\.json is missing: delete it and run `dvc repro` again$"):
        read(tmp_path / "r.json", Record)


@pytest.mark.parametrize(
    ("key", "value"), [("n", "16"), ("n", 1.5), ("value", "0.25"), ("kind", "certain"), ("ci95", [0.1])]
)
def test_a_value_of_another_type_is_refused(tmp_path, key, value):
    spoilt(tmp_path / "r.json", RECORD, lambda content: content.update({key: value}))
    with pytest.raises(UserError, match=rf"r\.json: {key}"):
        read(tmp_path / "r.json", Record)


@pytest.mark.parametrize("change", [{"value": math.nan}, {"value": math.inf}, {"ci95": (0.0, math.nan)}])
def test_what_json_has_no_number_for_is_neither_written_nor_read(tmp_path, change):
    with pytest.raises(ValueError, match=r"record recon_mse: value .* must be finite"):
        dataclasses.replace(RECORD, **change)
    spoilt(tmp_path / "r.json", RECORD, lambda content: content.update(change))
    with pytest.raises(UserError, match=r"r\.json: .*must be a finite number: delete it"):
        read(tmp_path / "r.json", Record)
    spoilt(tmp_path / "w.json", WIRE, lambda content: content.update(value=math.nan))
    with pytest.raises(UserError, match=r"w\.json: value: must be a finite number: delete it"):
        read(tmp_path / "w.json", Tripwire)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "wire.json", dataclasses.replace(WIRE, value=math.nan))
    assert not (tmp_path / "wire.json").exists()


@pytest.mark.parametrize(
    ("value", "kind", "note"), [(None, "exact", "why"), (1.0, "undefined", "why"), (None, "undefined", "")]
)
def test_a_record_that_says_nothing_is_refused(value, kind, note, tmp_path):
    with pytest.raises(ValueError, match="record psnr"):
        Record("psnr", kind, value, note=note)
    write_json(tmp_path / "r.json", {"metric": "psnr", "kind": kind, "value": value, "note": note})
    with pytest.raises(UserError, match=r"r\.json: record psnr"):
        read(tmp_path / "r.json", Record)


# --- finding figures --------------------------------------------------------------------------------------------------


def board():
    """The results of a model with two scores, two external sets and a derived one."""
    values = {
        ("grey", "nll"): 0.875, ("grey", "kl"): 0.25, ("cats", "nll"): 0.75, ("cats", "kl"): 0.5, ("blur", "nll"): 0.125
    }  # fmt: skip
    records = [
        Record("recon_mse", "exact", 0.012345678, 16),
        Record("ssim", "undefined", note="no encoder"),
        Record("aupr", "exact", 0.625, 26, images="grey", score="nll"),
        *(Record("auroc", "exact", v, 26, images=images, score=score) for (images, score), v in values.items()),
        Record("auroc", "undefined", note="not measured", images="blur", score="kl"),
    ]
    wires = [WIRE, Tripwire("mode_collapse", "tripped", "same", 0.5, 0.2), Tripwire("non_finite", "undefined", "none")]
    return dataclasses.replace(RESULTS, records=records, tripwires=wires)


def test_metrics_are_the_defined_figures_with_six_digits_in_groups():
    assert board().metrics() == {
        "recon_mse": 0.0123457,
        "ood_aupr": 0.625,
        "ood_auroc": 0.875,
        "ood": {"nll": 0.875, "kl": 0.25},
        "sets": {"cats": 0.75, "blur": 0.125},
        "tripwires": {"round_trip": 0, "mode_collapse": 1},
    }


def test_metrics_of_a_model_without_scores():
    without = [RECORD, Record("auroc", "undefined", note="scores nothing", images="grey")]
    found = dataclasses.replace(RESULTS, default_score="", records=without, tripwires=[])
    assert found.metrics() == {"recon_mse": 0.25, "tripwires": {}}


def test_a_figure_is_found_by_what_it_is_about():
    found = board()
    assert found.find("recon_mse").value == 0.012345678
    assert found.find("auroc").value == 0.875
    assert found.find("auroc", score="kl").value == 0.25
    assert found.find("auroc", images="cats").value == 0.75
    assert found.find("auroc", "cats", "kl").value == 0.5
    assert found.find("auroc", "blur", "kl").note == "not measured"
    assert found.find("auroc", "dogs") is None
    assert found.find("beauty") is None
    assert found.find("recon_mse", "cats", "kl") == found.find("recon_mse")


def test_figures_of_the_reference_are_found_by_set_and_score():
    assert REFERENCE.headline == "grey"
    assert REFERENCE.find("auroc", "blur", "grey").value == 0.5
    assert REFERENCE.find("probe_pixels").value == 0.625
    assert REFERENCE.find("auroc") is None


# --- per-image values -------------------------------------------------------------------------------------------------


@pytest.fixture
def per_image():
    rng = np.random.default_rng(0)
    scores = {
        "test": {"nll": rng.normal(size=6), "kl": np.array([1.0, math.inf, math.nan])},
        "grey": {"nll": rng.normal(size=4)},
    }
    rows = {"test": rng.permutation(6), "grey": rng.permutation(4)}
    return PerImage(rows, np.arange(6) // 2, scores, {"recon_mse": rng.normal(size=6)})


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
        assert a[key].dtype == b[key].dtype


def test_per_image_values_are_read_as_they_were_written(per_image, tmp_path):
    per_image.save(tmp_path / "scores.npz")
    found = PerImage.load(tmp_path / "scores.npz")
    same(found.rows, per_image.rows)
    same(found.values, per_image.values)
    assert list(found.scores) == ["test", "grey"]
    for images, scores in per_image.scores.items():
        same(found.scores[images], scores)
    found.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "scores.npz").read_bytes()


def test_per_image_values_that_cannot_be_read_are_refused(per_image, tmp_path):
    path = tmp_path / "scores.npz"
    with pytest.raises(UserError, match=r"scores\.npz is missing: run `dvc repro` again"):
        PerImage.load(path)
    per_image.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 255
    for content in (b"", b"nothing", whole[:-100], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"scores\.npz cannot be read \(.*\): delete it and run `dvc repro` again"):
            PerImage.load(path)
    np.savez(path, **{"rows.test": np.array([{}], object)})  # would have to be unpickled
    with pytest.raises(UserError, match=r"scores\.npz cannot be read"):
        PerImage.load(path)
    np.savez(path, **{"rows.test": np.zeros(3)})
    with pytest.raises(UserError, match=r"scores\.npz does not say who is on the faces: delete it"):
        PerImage.load(path)
    np.savez(path, **{"weights.test": np.zeros(3), "identity": np.zeros(3)})
    with pytest.raises(UserError, match=r"scores\.npz holds an unknown array weights\.test: delete it"):
        PerImage.load(path)
