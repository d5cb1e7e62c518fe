"""dvc.yaml and the example of a workflow say what the rest of the project says."""

import re
import shlex

import pytest
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from tests.conftest import ROOT

YAML_1_2 = YAML(typ="safe")
DVC = YAML_1_2.load(ROOT / "dvc.yaml")
WORKFLOW = YAML_1_2.load(ROOT / "docs" / "github-actions.yml")
STEPS = WORKFLOW["jobs"]["figures"]["steps"]


def test_the_weights_of_every_shipped_run_are_an_artifact(shipped):
    names = [f"{run}-{seed}" for run in shipped.runs for seed in shipped.seeds]
    expected = {name: {"path": f"runs/{name}/train/model.safetensors", "type": "model"} for name in names}
    assert DVC["artifacts"] == expected, "list the runs of params.yaml under artifacts in dvc.yaml, in the same form"


def test_dvc_compares_summaries_alone():
    assert DVC["metrics"] == ["metrics/summary"]
    assert not any(key in stage for stage in DVC["stages"].values() for key in ("metrics", "plots"))


def commands():
    """Each command of the workflow, as words, without what its output goes to."""
    lines = [line for step in STEPS for line in step.get("run", "").splitlines() if line]
    return [shlex.split(line.partition(">")[0]) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_workflow_exists(words):
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["uv", "run", "--locked", "dvc", *arguments]:
            get_main_parser().parse_args(arguments)
        case _:
            assert words[0] == "echo" or words[:3] == ["gh", "pr", "comment"]  # which GitHub's machines have


def test_every_step_of_the_workflow_does_one_thing_and_is_of_a_known_version():
    for step in STEPS:
        assert ("run" in step) != ("uses" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "actions/checkout@v4"))
    assert "${{" not in "".join(step.get("run", "") for step in STEPS), "what others write goes through env"
    assert "pull_request" in WORKFLOW["on"]
