import math

import numpy as np
import pytest
import torch
from small_models import LinearVAE, OnlySamples, Uniform

from visage.inference.batches import choose_rows
from visage.evaluation.book import Book, metrics
from visage.evaluation.records import Record, load_records, model_hash, save_records, undefined, why_not
from visage.models.base import HasBound, HasLogProb, Samples


@pytest.fixture
def book():
    return Book("data", "model", resamples=100, seed=1)


def test_records_survive_their_file(tmp_path, book):
    book.mean("psnr", "dB", "exact", np.linspace(20, 30, 40), "a note")
    book.missing("ssim", "1", "no encoder")
    save_records(tmp_path / "records.json", book.records)
    assert load_records(tmp_path / "records.json") == book.records
    assert book.records[1] == undefined("ssim", "1", "no encoder", data_hash="data", model_hash="model")
    assert book.records[1].value is None
    assert book.records[1].kind == "undefined"


@pytest.mark.parametrize(
    ("value", "kind", "ci95", "note"),
    [(None, "exact", None, "why"), (1.0, "undefined", None, "why"), (None, "undefined", None, "")]
    + [(bad, "exact", None, "") for bad in (math.nan, math.inf)]
    + [(1.0, "exact", (0.0, math.inf), "")],
)
def test_a_record_that_says_nothing_is_refused(value, kind, ci95, note):
    with pytest.raises(ValueError, match="record x"):
        Record("x", value, "1", kind, 1, ci95, note, "", "")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_mean_that_is_not_finite_is_undefined_and_says_why(book, bad):
    book.mean("psnr", "dB", "exact", np.array([bad, *range(39)], np.float64), "8-bit")
    assert book.records[0].kind == "undefined"
    assert book.records[0].note == "not finite for 1 of 40 images; 8-bit"


def test_scores_that_are_nan_are_undefined_and_infinite_ones_are_not(book):
    test, ood = np.zeros(40), np.ones(30)
    book.auroc("ood/a", test, np.where(np.arange(30) == 4, math.nan, ood))
    book.auroc("ood/b", test, np.full(30, math.inf))
    assert book.records[0].note == "the score is NaN for 1 of 70 images"
    assert book.records[1].value == 1.0
    assert book.records[1].n == 70


def test_only_a_score_that_is_surely_below_one_half_is_inverted(book):
    rng = np.random.default_rng(0)
    book.auroc("a", rng.normal(2, 1, 40), rng.normal(0, 1, 30), "score: nll")
    book.auroc("b", rng.normal(0.1, 1, 40), rng.normal(0, 1, 30))
    book.auroc("c", np.zeros(40), np.zeros(30))
    assert book.records[0].value < 0.2
    assert book.records[0].note.startswith("score: nll; inverted")
    assert all("inverted" not in record.note for record in book.records[1:])


def test_metrics_are_the_defined_figures_in_groups(book):
    book.mean("psnr", "dB", "exact", np.full(40, 22.123456789))
    book.missing("ssim", "1", "no encoder")
    book.auroc("ood/kl", np.zeros(40), np.ones(30))
    assert metrics(book.records) == {"psnr": 22.1235, "ood": {"kl": 1.0}}


def test_a_missing_capability_is_explained_by_the_model():
    assert why_not(OnlySamples(), HasBound, otherwise="-") == "defines no density"
    assert why_not(LinearVAE(), Samples, HasLogProb, otherwise="-") == "bounded, not computed"
    assert why_not(Uniform(), HasBound, otherwise="no bound") == "no bound"


def test_the_model_hash_is_that_of_the_weights():
    model = LinearVAE()
    before = model_hash(model)
    assert model_hash(LinearVAE()) == before
    with torch.no_grad():
        model.weight[0] += 1e-6
    assert model_hash(model) != before


def test_rows_are_fixed_and_fewer_are_the_first_of_more():
    ten, five, all_ = (choose_rows(40, n, 0, "test rows") for n in (10, 5, 0))
    assert ten[:5].tolist() == five.tolist()
    assert sorted(all_.tolist()) == list(range(40))
    assert choose_rows(40, 99, 0, "test rows").tolist() == all_.tolist()
    assert choose_rows(40, 0, 1, "test rows").tolist() != all_.tolist()
    assert choose_rows(40, 0, 0, "ood rows").tolist() != all_.tolist()
