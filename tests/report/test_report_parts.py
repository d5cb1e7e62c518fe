import base64
import io
import re
from dataclasses import replace

import fake_runs
import numpy as np
import pytest
from PIL import Image

from visage.errors import UserError
from visage.measures.table import BY_KEY, MEASURES
from visage.pictures import grid, save
from visage.report import captions, images, wording
from visage.report.chapters import CHAPTERS
from visage.report.curves import POINTS, thin
from visage.report.figures import Figure, Key, Pooled, figure_of
from visage.report.load import load_run
from visage.report.models import Model, models_of
from visage.report.ood import sets_of
from visage.report.plotting import looks
from visage.report.table import hint, spread, verdicts
from visage.results import Gallery, ImageSet, PerImage, Picture, TrainingCost, read, write


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_grids_are_cut_back_into_their_images(tmp_path, size):
    tiles = np.random.default_rng(0).integers(0, 256, (10, size, size, 3), dtype=np.uint8)
    save(grid(tiles, 5), tmp_path / "grid.png")
    assert np.array_equal(images.cut(tmp_path / "grid.png", size).reshape(10, size, size, 3), tiles)


def test_other_pictures_are_inlined_whole(tmp_path):
    save(grid(np.zeros((1, 50, 50, 3), np.uint8), 1), tmp_path / "other.png")
    assert images.cut(tmp_path / "other.png", 32) is None
    assert images.inline(tmp_path / "other.png", 32).width == 100
    assert images.sheet(tmp_path / "other.png", 32, 1) is None


def test_a_sheet_places_each_face_with_its_reconstruction(tmp_path):
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    save(grid(fake_runs.pairs(shades[:10], shades[10:], 5), 5), tmp_path / "worst.png")
    sheet = images.sheet(tmp_path / "worst.png", 16, 10)
    assert (sheet.high, sheet.image.width) == (2, 5 * 17 - 1)
    # CSS: p % puts the point at p % of the picture over the point at p % of the box
    (x, y), box = sheet.places[8], (16, 33)
    assert (sheet.image.width - box[0]) * x / 100 == pytest.approx(3 * 17)
    assert (sheet.image.height - box[1]) * y / 100 == pytest.approx(2 * 17)
    assert images.sheet(tmp_path / "worst.png", 16, 21) is None


def test_inlined_pictures_are_rounded_by_at_most_half_a_level():
    tiles = np.random.default_rng(0).integers(0, 256, (1, 4, 16, 16, 3), dtype=np.uint8)
    data = base64.b64decode(images.join(tiles).uri.partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)[:, :16]
    assert abs(shown - tiles[0, 0]).max() <= np.ceil(255 / (images.LEVELS - 1) / 2)


def test_over_time_keeps_the_first_and_the_last(tmp_path):
    snapshots = []
    for i in range(25):
        path = tmp_path / f"{i:07d}.png"
        save(grid(np.full((16, 16, 16, 3), i, np.uint8), 8), path)
        snapshots.append((float(i), path))
    strips = images.over_time(snapshots, 16)
    assert [kimg for kimg, _ in strips] == [0, 4, 8, 12, 16, 20, 24]
    assert strips[0][1].width == 8 * 17 - 1
    assert images.over_time([], 16) == []


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


@pytest.fixture
def rivals(tmp_path):
    """Two models, 400 images; the second one's values are written by the test."""

    def build(values, others, rows=None, hashes=("d", "d"), kinds=("exact", "exact")):
        names = ("vae-16-0", "beta_vae-16-0")
        for i, (name, array) in enumerate(zip(names, (values, others), strict=True)):
            config, folder = fake_runs.configure(tmp_path, name), tmp_path / "runs" / name / "evaluate"
            index = np.arange(len(array)) if rows is None or i == 0 else rows
            PerImage({"test": index}, {}, {"recon_mse": array}).save(folder / "scores.npz")
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


@pytest.mark.parametrize("more", [{"hashes": ("d", "other")}, {"rows": np.arange(400, 800)}])
def test_models_of_other_images_are_not_ranked(rivals, more):
    assert verdicts(rivals(NOISE[0], NOISE[0] + 1, **more), BY_KEY["recon_mse"]) == {}


def test_a_model_of_which_a_seed_failed_is_not_ranked(rivals):
    mine, theirs = rivals(NOISE[0], NOISE[0] - 1)
    unfinished = replace(
        theirs.first, results=replace(theirs.first.results, records=[]), per_image=PerImage({}, {}, {})
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
    about = fake_runs.schema.Reference(2, 16, "d", "", "none", reference, [])
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
