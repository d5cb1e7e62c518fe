"""`metrics/` holds the figures of the runs that there are, and no others."""

import json

from tests.factory import EVALUATION_COST, TRAINING_COST, results
from visage.files import write_json
from visage.measures.table import BY_KEY
from visage.metrics import SUMMARIZED, publish, publish_run, summary
from visage.results import StageCost, cost_file, write

NAMES = ("vae-32-0", "glow-32-0")


def written(root):
    """The files in `metrics/`."""
    return {path.relative_to(root / "metrics").as_posix() for path in (root / "metrics").rglob("*") if path.is_file()}


def measured(root, name):
    write(root / "runs" / name / "evaluate" / "results.json", results(name, "0" * 64))
    write(cost_file(root, name, "train"), TRAINING_COST)
    write(cost_file(root, name, "evaluate"), EVALUATION_COST)


def test_figures_and_costs_are_those_of_the_named_runs_and_of_the_shared_stages(tmp_path):
    for name in NAMES:
        measured(tmp_path, name)
    write_json(tmp_path / "data" / "reference" / "metrics.json", {"32": {"probe_pixels": 0.5}})
    write(tmp_path / "data" / "cost" / "download.json", StageCost(12.5, 300))
    publish(tmp_path, NAMES)
    costs = {f"cost/{stage}/{name}.json" for stage in ("train", "evaluate") for name in NAMES}
    costs.add("cost/download.json")
    figures = {f"{folder}{name}.json" for folder in ("", "summary/") for name in NAMES}
    assert written(tmp_path) == {"reference.json", *figures, *costs}
    figures = json.loads((tmp_path / "metrics" / "vae-32-0.json").read_text())
    assert figures == results("vae-32-0", "").metrics()
    cost = (tmp_path / "metrics" / "cost" / "train" / "vae-32-0.json").read_bytes()
    assert cost == cost_file(tmp_path, "vae-32-0", "train").read_bytes()
    publish(tmp_path, NAMES[:1])
    assert not {name for name in written(tmp_path) if "glow" in name}
    assert "reference.json" in written(tmp_path)


def test_an_evaluation_adds_its_own_figures_and_leaves_the_others(tmp_path):
    for name in NAMES:
        measured(tmp_path, name)
    publish(tmp_path, NAMES[:1])
    before = written(tmp_path)
    publish_run(tmp_path, NAMES[1])
    assert written(tmp_path) - before == {
        "glow-32-0.json", "summary/glow-32-0.json", "cost/train/glow-32-0.json", "cost/evaluate/glow-32-0.json"
    }  # fmt: skip


def test_a_summary_has_the_defined_figures_and_counts_what_is_tripped(tmp_path):
    measured(tmp_path, "vae-32-0")
    publish(tmp_path, ["vae-32-0"])
    found = json.loads((tmp_path / "metrics" / "summary" / "vae-32-0.json").read_text())
    assert found == {"recon_mse": 0.0125, "bits_per_dim": 3.5, "ood_auroc": 0.75, "tripped": 0}
    assert summary({"tripwires": {"mode_collapse": 1, "non_finite": 0, "memorization": 1}}) == {"tripped": 2}
    assert {name.removeprefix("ood_") for name in SUMMARIZED} <= BY_KEY.keys()
