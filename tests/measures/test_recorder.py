import math

import numpy as np
import pytest

from visage.measures.intervals import auroc_interval, mean_interval
from visage.measures.recorder import Figure, Recorder
from visage.results import Record

IDENTITY = np.arange(40) // 2


@pytest.fixture
def recorder():
    return Recorder(100, 1, IDENTITY)


def counts(recorder, n, m):
    return recorder.faces(n), recorder.others(m)


def test_records_stand_in_the_order_in_which_they_were_added(recorder):
    recorder.mean("psnr", "exact", np.linspace(20, 30, 40), "a note")
    recorder.missing("ssim", "no encoder")
    recorder.auroc("other", "nll", np.zeros(40), np.ones(30), counts(recorder, 40, 30))
    recorder.estimates({"fid": Figure(3.0, 8), "kid": Figure(0.5, 8, (0.25, 0.75), "a note")})
    mean, missing, auroc, fid, kid = recorder.records
    assert (mean.metric, mean.kind, mean.n, mean.note) == ("psnr", "exact", 40, "a note")
    assert mean.value == pytest.approx(25)
    assert mean.ci95[0] < 25 < mean.ci95[1]
    assert missing == Record("ssim", "undefined", note="no encoder")
    assert (auroc.metric, auroc.images, auroc.score, auroc.value, auroc.n) == ("auroc", "other", "nll", 1.0, 70)
    assert fid == Record("fid", "estimate", 3.0, 8)
    assert kid == Record("kid", "estimate", 0.5, 8, (0.25, 0.75), "a note")


@pytest.mark.parametrize(
    "add",
    [
        lambda recorder: recorder.mean("beauty", "exact", np.ones(3)),
        lambda recorder: recorder.missing("beauty", "no eyes"),
        lambda recorder: recorder.figure("beauty", "exact", 1.0, 3),
        lambda recorder: recorder.estimates({"beauty": Figure(1.0, 3)}),
    ],
)
def test_a_metric_without_a_row_in_the_table_is_refused(recorder, add):
    with pytest.raises(LookupError, match=r"beauty has no row in visage/measures/table\.py"):
        add(recorder)
    assert recorder.records == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_mean_that_is_not_finite_is_undefined_and_says_why(recorder, bad):
    recorder.mean("psnr", "exact", np.array([bad, *range(39)], np.float64), "8-bit")
    recorder.mean("ssim", "exact", np.array([bad, 1.0]))
    assert recorder.records[0] == Record("psnr", "undefined", note="not finite for 1 of 40 images; 8-bit")
    assert recorder.records[1].note == "not finite for 1 of 2 images"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_is_undefined_and_keeps_its_place(recorder, bad):
    recorder.figure("aupr", "exact", bad, 7, note="why", images="other", score="nll")
    recorder.figure("fid", "exact", bad, 7)
    assert recorder.records == [
        Record("aupr", "undefined", note="not finite; why", images="other", score="nll"),
        Record("fid", "undefined", note="not finite"),
    ]


def test_scores_that_are_nan_are_undefined_and_infinite_ones_are_not(recorder):
    test, ood = np.zeros(40), np.ones(30)
    recorder.auroc("other", "a", test, np.where(np.arange(30) == 4, math.nan, ood), None)
    recorder.auroc("other", "b", test, np.full(30, math.inf), counts(recorder, 40, 30))
    expected = Record("auroc", "undefined", note="the score is NaN for 1 of 70 images", images="other", score="a")
    assert recorder.records[0] == expected
    assert recorder.records[1].value == 1.0
    assert recorder.records[1].n == 70


def test_only_a_score_that_is_surely_below_one_half_is_inverted(recorder):
    rng = np.random.default_rng(0)
    drawn = counts(recorder, 40, 30)
    recorder.auroc("other", "a", rng.normal(2, 1, 40), rng.normal(0, 1, 30), drawn, note="hat or glasses")
    recorder.auroc("other", "b", rng.normal(0.1, 1, 40), rng.normal(0, 1, 30), drawn, "estimate")
    recorder.auroc("other", "c", np.zeros(40), np.zeros(30), drawn)
    recorder.auroc("other", "d", np.ones(40), np.zeros(30), None)  # without an interval nothing is sure
    assert recorder.records[0].value < 0.2
    assert recorder.records[0].note.startswith("hat or glasses; inverted")
    assert all("inverted" not in record.note for record in recorder.records[1:])
    assert recorder.records[3].ci95 is None
    assert [record.kind for record in recorder.records] == ["exact", "estimate", "exact", "exact"]


def test_all_figures_share_the_resamples_of_the_people(recorder):
    rng = np.random.default_rng(0)
    test, ood = rng.normal(size=40), rng.normal(1, 1, size=30)
    recorder.mean("psnr", "exact", test)
    recorder.mean("ssim", "exact", test[:9])
    recorder.mean("recon_mse", "exact", test[5:9], rows=np.arange(5, 9))
    recorder.auroc("other", "a", test, ood, counts(recorder, 40, 30))
    faces, others = recorder.faces(40), recorder.others(30)
    assert (faces[:, ::2] == faces[:, 1::2]).all()  # two images of each person
    assert recorder.records[0].ci95 == mean_interval(test, faces)
    assert recorder.records[1].ci95 == mean_interval(test[:9], faces[:, :9])
    assert recorder.records[2].ci95 == mean_interval(test[5:9], faces[:, 5:9])
    assert recorder.records[3].ci95 == auroc_interval(test, ood, faces, others)
    again = Recorder(100, 1, IDENTITY)
    again.auroc("other", "a", test, ood, counts(again, 40, 30))  # whatever was recorded before
    assert again.records[0] == recorder.records[3]
    changed = Recorder(100, 2, IDENTITY)
    changed.auroc("other", "a", test, ood, counts(changed, 40, 30))
    assert changed.records[0].ci95 != again.records[0].ci95


def test_a_gain_on_a_few_images_is_taken_from_the_mean_of_all(recorder):
    """The first images are twice as hard as the others, which must not show."""
    values = np.where(np.arange(40) < 10, 8.0, 4.0)
    recorder.less("bits_per_dim_iw", "exact", values, np.full(10, 0.25), "note")
    record = recorder.records[0]
    assert (record.value, record.n, record.note) == (5 - 0.25, 10, "note")
    low, high = mean_interval(values, recorder.faces(40))
    assert record.ci95 == pytest.approx((low - 0.25, high - 0.25))
    recorder.less("bits_per_dim_iw", "exact", values, np.array([np.nan, 1]), "note")
    assert recorder.records[1].note == "a value is not finite; note"
