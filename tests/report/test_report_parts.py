import re
import warnings
from dataclasses import replace

import fake_runs
import numpy as np
import pytest
from PIL import Image

from visage.errors import UserError
from visage.measures.comparison import ImageValues
from visage.measures.table import BY_KEY, MEASURES
from visage.pictures import grid, save
from visage.report import captions, images, wording
from visage.report.chapters import CHAPTERS
from visage.report.charts import Point, dots
from visage.report.curves import POINTS, thin
from visage.report.figures import Figure, Key, Pooled, figure_of
from visage.report.linear import Opponent, beaten
from visage.report.load import load_reference, load_run
from visage.report.models import Model, models_of
from visage.report.ood import find, sets_of
from visage.report.plotting import Look, looks
from visage.report.standouts import standouts
from visage.report.table import cell, hint, spread, verdicts
from visage.results import (
    Enrichment,
    Gallery,
    ImageSet,
    LinearReference,
    PerImage,
    Picture,
    Record,
    TrainingCost,
    read,
    write,
)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_grids_are_cut_back_into_their_images(tmp_path, size):
    tiles = np.random.default_rng(0).integers(0, 256, (10, size, size, 3), dtype=np.uint8)
    save(grid(tiles, 5), tmp_path / "grid.png")
    assert np.array_equal(images.cut(tmp_path / "grid.png", size).reshape(10, size, size, 3), tiles)


@pytest.fixture
def copier(tmp_path):
    return images.Copier(tmp_path / "report")


def shown(copier, image):
    """The pixels of a copy, whose size is as said."""
    with Image.open(copier.folder / image.file) as picture:
        assert picture.size == (image.width, image.height)
        return np.asarray(picture.convert("RGBA"))


def test_a_grid_is_copied_close_together_without_loss(copier, tmp_path):
    tiles = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    save(grid(tiles, 3), tmp_path / "samples.png")
    copy = copier.copy(tmp_path / "samples.png", 16, "vae-16-0/samples")
    assert copy.file == "images/vae-16-0/samples.webp"
    pixels = shown(copier, copy)
    assert pixels.shape == (2 * 17 - 1, 3 * 17 - 1, 4)
    for i, tile in enumerate(tiles):
        top, left = i // 3 * 17, i % 3 * 17
        assert np.array_equal(pixels[top : top + 16, left : left + 16, :3], tile)
    assert not pixels[16, :, 3].any()
    first = copier.first_row(tmp_path / "samples.png", 16, "vae-16-0/samples/0000010")
    assert np.array_equal(shown(copier, first), pixels[:16])


def test_other_pictures_are_copied_whole(copier, tmp_path):
    save(grid(np.full((1, 50, 50, 3), 7, np.uint8), 1), tmp_path / "other.png")
    assert images.cut(tmp_path / "other.png", 32) is None
    assert (shown(copier, copier.copy(tmp_path / "other.png", 32, "other"))[..., :3] == 7).all()
    assert copier.first_row(tmp_path / "other.png", 32, "other").width == 100
    assert copier.strip(tmp_path / "other.png", 32, 1, "other") is None


def test_a_strip_has_each_face_over_its_reconstruction(copier, tmp_path):
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    save(grid(fake_runs.pairs(shades[:10], shades[10:], 5), 5), tmp_path / "worst.png")
    strip = copier.strip(tmp_path / "worst.png", 16, 10, "worst")
    assert (strip.size, strip.high, strip.image.width) == (16, 33, 10 * 16)
    pixels = shown(copier, strip.image)
    for i, place in enumerate(strip.places):
        # CSS: p % puts the point at p % of the picture over the point at p % of the box
        left = round((strip.image.width - strip.size) * place / 100)
        assert left == 16 * i
        face = pixels[:, left : left + 16, 0]
        assert (face[:16] == i).all()
        assert (face[17:] == 10 + i).all()
    assert copier.strip(tmp_path / "worst.png", 16, 21, "worst") is None
    assert copier.strip(tmp_path / "worst.png", 16, 1, "worst").places == [0]


def test_a_picture_too_long_for_webp_is_copied_as_png(copier, tmp_path):
    tiles = np.arange(1000, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    save(grid(tiles, 1), tmp_path / "samples.png")
    copy = copier.copy(tmp_path / "samples.png", 16, "samples")
    assert copy.file == "images/samples.png"
    assert shown(copier, copy)[999 * 17, 0, 0] == 999 % 256


def test_moments_are_evenly_spaced_from_the_first_to_the_last(tmp_path):
    snapshots = [(float(i), tmp_path / f"{i:07d}.png") for i in range(25)]
    assert [kimg for kimg, _ in images.evenly(snapshots)] == [0, 4, 8, 12, 16, 20, 24]
    assert images.evenly(snapshots[:3]) == snapshots[:3]
    assert images.evenly([]) == []


def test_thin_keeps_the_mean_and_short_curves():
    y = np.random.default_rng(0).normal(size=900)
    thinned = thin(np.arange(900.0), y)[1]
    assert len(thinned) == POINTS
    assert thinned.mean() == pytest.approx(y.mean())
    assert np.array_equal(thin(np.arange(5.0), y[:5])[1], y[:5])


def test_a_recipe_has_one_colour_and_a_size_one_dash(tmp_path):
    fake_runs.project(tmp_path, [])
    names = ["vae-16-0", "vae-16-1", "dcgan-16-0", "vae-32-0", "dcgan-32-0"]
    for name in names:
        fake_runs.configure(tmp_path, name)
    shown = models_of([load_run(name, tmp_path) for name in names])
    assert [(model.label, len(model.runs)) for model in shown][:2] == [("vae-16", 2), ("dcgan-16", 1)]
    look = looks(shown)
    assert look["vae-16"].color == look["vae-32"].color != look["dcgan-16"].color == look["dcgan-32"].color
    assert look["vae-16"].dash == look["dcgan-16"].dash != look["vae-32"].dash == look["dcgan-32"].dash


def figure(value, ci95=None, n=400, kind="exact", note=""):
    return Figure(value, "undefined" if value is None else kind, n, ci95, note)


def test_seeds_are_pooled():
    two = Pooled([figure(1.0, (0.9, 1.1)), figure(4.0, (3.9, 4.1))])
    assert (two.value, two.spread) == (2.5, (1.0, 4.0))
    one = Pooled([figure(1.0, (0.9, 1.1))])
    assert (one.value, one.spread) == (1.0, (0.9, 1.1))
    half = Pooled([figure(None, note="diverged"), figure(3.0, (2.0, 4.0), kind="estimate")])
    assert (half.value, half.kind, half.spread, half.reason) == (3.0, "estimate", (2.0, 4.0), "")
    assert (spread(half, str), spread(two, str), spread(one, str)) == (
        "1 of 2 seeds 2.0–4.0",
        "seeds 1.0–4.0",
        "0.9–1.1",
    )
    assert "a seed has no value: diverged" in hint(half, str)
    none = Pooled([figure(None, note="diverged")])
    assert (none.value, none.kind, none.reason) == (None, "undefined", "diverged")


@pytest.mark.parametrize(("n", "indicative"), [(999, True), (1000, False)])
def test_fewer_than_a_thousand_images_are_indicative(n, indicative):
    assert Pooled([figure(1.0, n=n)]).indicative is indicative


@pytest.mark.parametrize(
    ("intervals", "inverted"), [([(0.1, 0.49)], True), ([(0.1, 0.5)], False), ([(0.1, 0.4), (0.3, 0.6)], False)]
)
def test_inverted_needs_the_whole_interval_of_every_seed(intervals, inverted):
    assert Pooled([figure(0.3, interval) for interval in intervals]).inverted is inverted


@pytest.mark.parametrize(
    ("intervals", "n", "verdict", "said"),
    [
        ([(0.1, 0.49)], 2000, "inverted", "gives cats a higher likelihood bound than held-out faces"),
        ([(0.51, 0.9)], 2000, "separated", "gives cats a lower likelihood bound than held-out faces"),
        ([(0.45, 0.59)], 2000, "alike", "gives cats about the same likelihood bound as held-out faces"),
        ([(0.35, 0.7)], 32, "open", "leaves open whether cats have a higher or a lower likelihood bound"),
        ([(0.1, 0.4), (0.6, 0.9)], 2000, "open", "leaves open whether cats have a higher or a lower"),
    ],
)
def test_what_is_said_of_a_likelihood_follows_from_the_width_of_its_intervals(tmp_path, intervals, n, verdict, said):
    runs = []
    for seed, (low, high) in enumerate(intervals):
        config = fake_runs.configure(tmp_path, f"vae-16-{seed}")
        found = fake_runs.results(config, fake_runs.per_image(config))
        area = Record("auroc", "estimate", (low + high) / 2, n, (low, high), images=fake_runs.HEADLINE, score="nll")
        others = [record for record in found.records if record.metric != "auroc"]
        write(tmp_path / f"runs/{config.name}/evaluate/results.json", replace(found, records=[*others, area]))
        runs.append(load_run(config.name, tmp_path))
    (finding,) = find(Model(tuple(runs)), "cats", None)
    assert cell(Model(tuple(runs)), BY_KEY["auroc"]).text.startswith("≈ ")  # as exact ones may be beside it
    assert finding.verdict == verdict
    assert finding.text.startswith(said)
    assert f"n = {n})" in finding.text
    (finding,) = find(Model(tuple(runs)), "cats", load_reference(16, fake_runs.reference(tmp_path, 16)))
    assert ("; colour alone tells them apart with an AUROC of .970)" in finding.text) == (verdict == "separated")


@pytest.mark.parametrize(("n", "said"), [(0, "not finite for any face"), (8, "Only 8 faces have a finite value")])
def test_where_no_face_is_the_worst_the_reason_is_said(tmp_path, n, said):
    config = fake_runs.configure(tmp_path, "vae-16-0")
    found = replace(
        fake_runs.results(config, fake_runs.per_image(config)), enrichment=[Enrichment("recon_mse", n, 0, [])]
    )
    write(tmp_path / "runs/vae-16-0/evaluate/results.json", found)
    (standout,) = standouts(Model((load_run("vae-16-0", tmp_path),)), {})
    assert said in standout.reason
    assert not standout.sentences


def test_an_auroc_is_never_drawn_on_a_logarithmic_scale():
    low, high = (
        Point(label, Look("black", "-", "o"), Pooled([figure(value)])) for label, value in (("a", 0.01), ("b", 0.99))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such a scale would not reach from 0 to 1
        assert "10" not in re.findall(r">([\d.]+)</text>", dots("x", "OOD AUROC", "", [low, high])[0].svg)


@pytest.fixture
def rivals(tmp_path):
    """Two models, 400 images; the second one's values are written by the test."""

    def build(values, others, rows=None, hashes=("d", "d"), kinds=("exact", "exact")):
        names = ("vae-16-0", "beta_vae-16-0")
        for i, (name, array) in enumerate(zip(names, (values, others), strict=True)):
            config, folder = fake_runs.configure(tmp_path, name), tmp_path / "runs" / name / "evaluate"
            index = np.arange(len(array)) if rows is None or i == 0 else rows
            PerImage({"test": index}, np.full(len(index), -1), {}, {"recon_mse": array}).save(folder / "scores.npz")
            records = [fake_runs.record("recon_mse", float(np.mean(array)), kinds[i])]
            about = fake_runs.results(config, fake_runs.per_image(config))
            write(folder / "results.json", replace(about, records=records, data_hash=hashes[i]))
        return models_of([load_run(name, tmp_path) for name in names])

    return build


NOISE = np.random.default_rng(0).normal(0, 1, (2, 400))


@pytest.mark.parametrize(("shift", "flag"), [(0.05, "tied with the best"), (0.2, "")])
def test_ties_are_those_whose_interval_has_zero(rivals, shift, flag):
    shown = rivals(100 * NOISE[0], 100 * NOISE[0] + shift + NOISE[1] - NOISE[1].mean())
    found = verdicts(shown, BY_KEY["recon_mse"])
    assert (found["vae-16"].flag, found["beta_vae-16"].flag) == ("best", flag)


def test_models_are_ranked_on_the_images_that_all_have(rivals):
    """Theirs is better on each of the hard images, the only ones that it was measured on: its mean is the higher."""
    values = np.arange(400.0)
    shown = rivals(values, values[300:] - 1, rows=np.arange(300, 400))
    found = verdicts(shown, BY_KEY["recon_mse"])
    assert (found["beta_vae-16"].flag, found["vae-16"].flag) == ("best", "")
    assert "100 common images" in found["beta_vae-16"].text
    assert "worse than the best, beta_vae-16: differs by 1.00" in found["vae-16"].text


@pytest.mark.parametrize(
    ("shift", "data", "flag"),
    [(-0.2, "d", ""), (0.0, "d", "not better than one Gaussian"), (0.2, "d", "not better than one Gaussian"),
     (0.2, "other", "")],
)  # fmt: skip
def test_a_model_is_compared_with_the_gaussian_on_the_images_that_both_were_measured_on(tmp_path, shift, data, flag):
    """The model was measured on the hard images alone: its mean is above the Gaussian's, whatever it is worth."""
    hard, noise = np.linspace(3, 6, 400), 0.1 * (NOISE[0][300:] - NOISE[0][300:].mean())
    config, folder = fake_runs.configure(tmp_path, "vae-16-0"), tmp_path / "runs/vae-16-0/evaluate"
    bits, rows = hard[300:] + shift + noise, np.arange(300, 400)
    PerImage({"test": rows}, np.full(100, -1), {}, {"bits_per_dim": bits}).save(folder / "scores.npz")
    records = [Record("bits_per_dim", "upper_bound", float(bits.mean()), 100)]
    about = fake_runs.results(config, fake_runs.per_image(config))
    write(folder / "results.json", replace(about, records=records, data_hash=data))
    gaussian = LinearReference("gaussian", 0, [Record("bits_per_dim", "exact", float(hard.mean()), 400)])
    values = {"bits_per_dim": ImageValues(np.arange(400), hard, np.full(400, -1))}
    assert bits.mean() > hard.mean()
    opponent = Opponent(gaussian, 16, "d", values, tmp_path)
    assert beaten(Model((load_run("vae-16-0", tmp_path),)), "bits_per_dim", [opponent]) == flag


@pytest.mark.parametrize("more", [{"hashes": ("d", "other")}, {"rows": np.arange(400, 800)}])
def test_models_of_other_images_are_not_ranked(rivals, more):
    assert verdicts(rivals(NOISE[0], NOISE[0] + 1, **more), BY_KEY["recon_mse"]) == {}


def test_a_model_of_which_a_seed_failed_is_not_ranked(rivals):
    mine, theirs = rivals(NOISE[0], NOISE[0] - 1)
    unfinished = replace(
        theirs.first,
        results=replace(theirs.first.results, records=[]),
        per_image=PerImage({}, np.zeros(0, np.int64), {}, {}),
    )
    theirs = Model((theirs.first, unfinished))
    assert theirs.pooled("recon_mse").value == pytest.approx(NOISE[0].mean() - 1)
    assert verdicts([mine, theirs], BY_KEY["recon_mse"]) == {}


def test_kinds_have_their_own_best(rivals):
    shown = rivals(NOISE[0], NOISE[0] + 1, kinds=("exact", "estimate"))
    assert verdicts(shown, BY_KEY["recon_mse"]) == {}


FACTS = {
    "samples": {"shown": 64},
    "interpolation": {"steps": 8, "ends": "prior"},
    "translations": {"domains": ["No_Beard", "Beard"]},
    "variants": {"names": ["ddim", "ddpm"]},
    "wanted_attributes": {"attributes": ["Wearing_Hat", "Smiling"]},
    "guidance": {"scales": ["0.5", "1"]},
    "memorization": {"shown": 16, "samples": 500},
    "duplicates": {"shown": 16},
    "ood_lowest": {"shown": 12, "score": "nll", "images": "svhn"},
    "typicality": {"score": "recon"},
    "reconstructions": {},
    "inpainting": {},
}
SAID = {
    "samples": "The first 64 faces",
    "interpolation": "in 8 equal steps between two codes drawn from the prior",
    "translations": "No Beard, Beard",
    "variants": "ddim, ddpm",
    "wanted_attributes": "Wearing Hat, Smiling",
    "guidance": "0.5, 1",
    "memorization": "The 16 of 500 samples",
    "duplicates": "The 16 samples",
    "ood_lowest": "The 12 images of house numbers to which the model gives the lowest scores (nll)",
    "typicality": "(recon)",
}


@pytest.mark.parametrize("stem", captions.PICTURES)
def test_every_picture_has_its_chapter_and_a_caption_with_its_facts(stem):
    text = captions.caption(Picture(f"{stem}.png", 8, 2, FACTS[stem]), {"svhn": "house numbers"})
    assert SAID.get(stem, "") in text
    assert re.fullmatch(r"[A-Z][^{}_]*\.", text)
    assert captions.PICTURES[stem].chapter in CHAPTERS


def test_a_new_kind_of_picture_needs_no_caption():
    assert captions.words_of("slow_walk.png").title == "Slow walk"
    assert captions.words_of("slow_walk.png").chapter in CHAPTERS
    assert captions.caption(Picture("slow_walk.png", 8, 2, {"shown": 3}), {}) == ""


def test_a_caption_without_its_facts_names_the_picture():
    with pytest.raises(UserError, match=r"no fact 'shown' about samples\.png"):
        captions.caption(Picture("samples.png", 8, 2), {})


@pytest.mark.parametrize(
    ("measure", "place", "words"),
    [
        ("recon_mse", "worst", "The 0 of 400 test faces that rank highest by reconstruction error"),
        ("bits_per_dim", "median", "around the median of bits per dimension"),
        ("discriminator", "best", "rank lowest by the model's own score (discriminator)"),
    ],
)
def test_a_gallery_says_which_faces_it_has(measure, place, words):
    gallery = Gallery(measure, place, "faces.png", 400, [])
    assert words in captions.gallery_words(gallery)[1]


def test_sets_are_described_by_their_titles_or_by_the_table():
    reference = [
        ImageSet("cats", "external", 9, "my cats"),
        ImageSet("blur", "derived", 9),
        ImageSet("new", "subset", 9),
    ]
    about = fake_runs.schema.Reference(3, 16, "d", "", "none", reference, 8, [], [])
    cats, blur, new = sets_of(about, [])
    assert (cats.title, cats.isolates[:10]) == ("my cats", "everything")
    assert (blur.title, blur.isolates) == ("blurred faces", "low complexity, the face kept")
    assert (new.title, new.isolates) == ("new", "")


def test_training_costs_count_the_first_stage(tmp_path):
    fake_runs.project(tmp_path, ["dcgan-16-0"])
    path = tmp_path / "metrics/cost/train/dcgan-16-0.json"
    cost = read(path, TrainingCost)
    write(path, replace(cost, first_stage=replace(cost, train_pflop=2.0, seconds=185.0)))
    run = load_run("dcgan-16-0", tmp_path)
    pflop, seconds = (figure_of(run, Key(metric)) for metric in ("train_pflop", "seconds"))
    assert pflop.value == pytest.approx(cost.train_pflop + 2)
    assert pflop.note == "2.00 PFLOP of it for the first stage"
    assert seconds.value == pytest.approx(cost.seconds + 185)
    assert seconds.note == "on cpu; 3\u202fmin 5\u202fs of it for the first stage"
    assert figure_of(run, Key("images_per_second")).value == cost.images_per_second


def test_operations_that_were_not_counted_are_a_gap_and_not_a_sum(tmp_path):
    fake_runs.project(tmp_path, ["dcgan-16-0"])
    path = tmp_path / "metrics/cost/train/dcgan-16-0.json"
    cost = read(path, TrainingCost)
    for incomplete in (
        replace(cost, train_pflop=None),
        replace(cost, first_stage=replace(cost, train_pflop=None)),
    ):
        write(path, incomplete)
        figure = figure_of(load_run("dcgan-16-0", tmp_path), Key("train_pflop"))
        assert (figure.value, figure.note) == (None, "its operations could not be counted")
        assert figure_of(load_run("dcgan-16-0", tmp_path), Key("seconds")).value


def test_every_format_of_the_table_can_be_written():
    assert all(wording.WRITE[measure.format](0.5) for measure in MEASURES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.significant(0.012345), "0.01235"),
        (wording.significant(12345.678), "12\u202f346"),
        (wording.significant(-2.5), "−2.500"),
        (wording.significant(1e-9), "1.000e−09"),
        (wording.significant(0), "0"),
        (wording.share(0.1934), ".193"),
        (wording.share(1.0), "1.000"),
        (wording.count(1_234_567), "1.23\u202fM"),
        (wording.count(950), "950"),
        (wording.thousands(64.0), "64"),
        (wording.thousands(7680.5), "7\u202f680.5"),
        (wording.duration(4.2), "4.2\u202fs"),
        (wording.duration(312.4), "5\u202fmin 12\u202fs"),
        (wording.duration(7800), "2\u202fh 10\u202fmin"),
    ],
)
def test_numbers_are_written_for_people(text, expected):
    assert text == expected
