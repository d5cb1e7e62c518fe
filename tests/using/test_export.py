"""A model given away as a folder: what is in it, that it works elsewhere, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from giving_project import CROP, DCGAN, VAE, write_project
from ruamel.yaml import YAML

import visage
from tests.conftest import ROOT
from tests.small_models import make_images
from visage.errors import UserError
from visage.files import read_json, sha256, write_json
from visage.using import programs
from visage.using.export import export

pytest_plugins = ["tests.using.giving_project"]
PHOTOS = make_images(3, seed=8)


def head(folder):
    """The YAML and the text of a model card."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe").load(front), text


@pytest.fixture(scope="module")
def programmed(giving, tmp_path_factory):
    """The GAN with programs of both kinds."""
    folder = tmp_path_factory.mktemp("programmed") / "dcgan"
    return export(str(giving / "runs" / DCGAN.name), folder, ["torch.export", "onnx"]), folder


def test_the_folder_is_all_that_is_needed_elsewhere(giving, exported, tmp_path, monkeypatch):
    here, there = visage.load(giving / "runs" / VAE.name), tmp_path / "copy"
    shutil.copytree(exported, there)
    monkeypatch.chdir(tmp_path)
    again = visage.load("copy")
    assert again.place.project is None
    np.testing.assert_array_equal(again.sample(5, seed=3), here.sample(5, seed=3))
    np.testing.assert_array_equal(again.encode(PHOTOS), here.encode(PHOTOS))
    np.testing.assert_array_equal(again.edit(PHOTOS, {"Smiling": 2.0}), here.edit(PHOTOS, {"Smiling": 2.0}))
    np.testing.assert_array_equal(again.log_prob(PHOTOS), here.log_prob(PHOTOS))
    np.testing.assert_array_equal(again.percentiles("nll", np.array([0.5, 2.5])), [25, 75])
    assert again.results.records == here.results.records
    assert again.crop == CROP


def test_the_folder_holds_no_faces_no_pickles_and_no_names_of_this_machine(giving, exported):
    names = {file.name for file in exported.iterdir()}
    assert names == {
        *("README.md", "model.safetensors", "run.json", "export.json", "data.json", "evaluate.json"),
        *("results.json", "scores.npz", "directions.npz"),
    }
    for file in exported.iterdir():
        content = file.read_bytes()
        assert str(giving).encode() not in content, file
        assert b"000005.jpg" not in content, file  # of a gallery of the run's results
    with np.load(exported / "scores.npz", allow_pickle=False) as scores:
        assert set(scores.files) == {"scores.test.nll", "identity"}
        assert len(scores["identity"]) == 0


def test_the_card_says_what_the_model_is_and_what_kind_each_figure_is(exported):
    front, text = head(exported)
    assert front["library_name"] == "visage"
    assert front["license"] == "mit"
    assert front["pipeline_tag"] == "unconditional-image-generation"
    assert {"faces", "vae"} <= set(front["tags"])
    rows = {row.split(" | ")[0]: row.split(" | ")[1:4] for row in re.findall(r"^\| (.*) \|$", text, re.MULTILINE)}
    assert rows["Bits/dim"][:2] == ["≤ 3.500", "upper bound"]
    assert rows["Recon. MSE"] == ["0.01250", "exact", "0.01150 to 0.01350"]
    assert "Masked MSE" not in rows
    assert "Kingma & Welling 2014" in text
    assert "drawn faces, not photographs" in text
    assert "30 for training, 8 for validation" in text
    assert "images = model.sample(16, seed=0)" in text
    assert read_json(exported / "export.json")["weights"] in text
    assert "CelebA" not in text


def test_what_learnt_from_celeba_carries_its_terms(tmp_path):
    write_project(tmp_path, source="celeba")
    export(str(tmp_path / "runs" / DCGAN.name), tmp_path / "out")
    front, text = head(tmp_path / "out")
    assert (front["license"], front["license_name"]) == ("other", "celeba")
    assert front["license_link"] == "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    assert "non-commercial research" in text
    assert "No reconstructions: a GAN without an encoder cannot reconstruct." in text


@pytest.mark.long
def test_programs_compute_what_the_model_does_for_any_number_of_rows(programmed):
    about, folder = programmed
    assert [program.file for program in about.programs] == ["decode.pt2", "decode.onnx"]
    assert about.left_out == {}
    assert not [file for file in folder.iterdir() if tells_where_it_was_made(file)]
    model = visage.load(folder, device="cpu").model
    z = model.prior(7, torch.Generator().manual_seed(4))
    for program in about.programs:
        assert (program.input, program.output) == ("z (batch, 4)", "x (batch, 3, 16, 16)")
        found = programs.run_program(folder / program.file, z)
        torch.testing.assert_close(found, model.decode(z), atol=1e-5, rtol=0)


@pytest.mark.long
def test_onnx_inputs_have_names(programmed):
    import onnxruntime

    session = onnxruntime.InferenceSession(programmed[1] / "decode.onnx", providers=["CPUExecutionProvider"])
    (given,), (got,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, got.name, got.shape[1:]) == ("z", ["batch", 4], "x", [3, 16, 16])


def tells_where_it_was_made(file):
    content = file.read_bytes()
    return str(ROOT).encode() in content or b"site-packages" in content


def test_every_function_of_a_model_becomes_a_program(giving, tmp_path):
    about = export(str(giving / "runs" / VAE.name), tmp_path / "out", ["torch.export"])
    made = [(program.file, program.input, program.output) for program in about.programs]
    assert made == [
        ("encode.pt2", "x (batch, 3, 16, 16)", "z (batch, 4)"),
        ("decode.pt2", "z (batch, 4)", "x (batch, 3, 16, 16)"),
        ("reconstruct.pt2", "x (batch, 3, 16, 16)", "x (batch, 3, 16, 16)"),
    ]
    assert "| `encode.pt2` | x (batch, 3, 16, 16) | z (batch, 4) |" in head(tmp_path / "out")[1]
    assert not [file for file in (tmp_path / "out").iterdir() if tells_where_it_was_made(file)]


@pytest.mark.long
def test_an_export_replaces_an_earlier_one_and_nothing_else(giving, programmed, tmp_path):
    folder = shutil.copytree(programmed[1], tmp_path / "out")
    export(str(giving / "runs" / DCGAN.name), folder)
    assert not (folder / "decode.onnx").exists()
    for name in ("holiday.jpg", "model.safetensors"):
        other = tmp_path / name.partition(".")[0]
        other.mkdir()
        (other / name).write_bytes(b"mine")
        with pytest.raises(UserError, match="holds other files: name a new folder, an empty one or an earlier export"):
            export(str(giving / "runs" / DCGAN.name), other)
        assert (other / name).read_bytes() == b"mine"


def test_an_export_can_be_exported_again(exported, tmp_path):
    export(str(exported), tmp_path / "again")
    assert {f.name: sha256(f) for f in exported.iterdir()} == {
        f.name: sha256(f) for f in (tmp_path / "again").iterdir()
    }


@pytest.mark.parametrize("name", ["a program that differs", "nothing that can be traced"])
def test_what_fails_leaves_the_earlier_export(giving, exported, tmp_path, monkeypatch, capfd, name):
    folder = shutil.copytree(exported, tmp_path / "out")
    run, said = ("ddpm-16-0", "ddpm-16-0 cannot be written as a program: PyTorch cannot trace it: it chooses its steps")
    if name == "a program that differs":
        run, said = VAE.name, r"encode\.pt2 differs from the model by 0, more than -1"
        monkeypatch.setattr(programs, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=said):
        export(str(giving / "runs" / run), folder, ["torch.export"])
    assert {f.name: sha256(f) for f in folder.iterdir()} == {f.name: sha256(f) for f in exported.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert capfd.readouterr() == ("", "")


def test_other_data_and_figures_of_other_weights_are_refused(tmp_path):
    write_project(tmp_path)
    run, part = tmp_path / "runs" / VAE.name, tmp_path / "data" / "processed" / "train" / f"{VAE.label}.json"
    results = json.loads((run / "evaluate" / "results.json").read_text())
    write_json(run / "evaluate" / "results.json", results | {"model_hash": "ab" * 32})
    with pytest.raises(UserError, match="has the figures of other weights: run `dvc repro evaluate@vae-16-0`"):
        export(str(run), tmp_path / "out")
    write_json(part, {"source": "celeba"})
    with pytest.raises(UserError, match="is not what vae-16-0 was trained on: train it again"):
        export(str(run), tmp_path / "out")
    assert not (tmp_path / "out").exists()
