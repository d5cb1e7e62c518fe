import contextlib
import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import visage as package
from tests.conftest import ROOT
from tests.small_data import SETTINGS
from visage import files
from visage.cli.main import app
from visage.report.linear import opponents
from visage.results import Results, read
from visage.using.places import find_project

SIZE = 32
VAE = f"vae-{SIZE}"


def side(path):
    return Image.open(path).size


def test_the_program_itself(project, tmp_path):
    """As its user types it, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def call(*arguments):
        command = [sys.executable, "-m", "visage.cli.main", *map(str, arguments)]
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=120)

    helped = call("--help")
    assert helped.returncode == 0
    assert all(command.callback.__name__ in helped.stdout for command in app.registered_commands)
    drawn = call("sample", VAE, "-n", 4, "-o", tmp_path / "grid.png")
    assert (drawn.returncode, drawn.stdout.strip()) == (0, str(tmp_path / "grid.png"))
    failed = call("sample", "vae-99", "-o", tmp_path / "other.png")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_every_command_has_a_help_with_an_example(visage):
    for command in app.registered_commands:
        status, out, _ = visage(command.callback.__name__, "--help")
        assert status == 0
        assert f"visage {command.callback.__name__}" in " ".join(out.split()), command.callback.__name__


def test_runs_in_a_pipe_and_as_json(visage, project):
    status, out, _ = visage("runs")
    head, *rows = csv.reader(io.StringIO(out), delimiter="\t")
    assert status == 0
    assert head[0] == "run"
    assert [row[0] for row in rows] == sorted(path.name for path in (project / "runs").iterdir())
    _, out, _ = visage("runs", "--json")
    found = {one["run"]: one for one in json.loads(out)}
    results = read(project / "runs" / f"{VAE}-0" / "evaluate" / "results.json", Results)
    figure = found[f"{VAE}-0"]["figures"]["bits_per_dim"]
    assert figure["value"] == results.find("bits_per_dim").value
    assert figure["kind"] == "upper_bound"
    assert figure["text"].startswith("≤ ")
    assert found[f"dcgan-{SIZE}-0"]["figures"] == {}
    assert found[f"{VAE}-0"]["folder"] == f"runs/{VAE}-0"


def test_models_says_what_each_can_do(visage):
    _, out, _ = visage("models", "--json")
    found = {one["recipe"]: one for one in json.loads(out)}
    assert {"vae", "beta_vae", "glow", "vae_mse"} <= found.keys()
    assert "reconstructs" in found["vae"]["can"]
    assert "reconstructs" not in found["dcgan"]["can"]
    assert "Kingma & Dhariwal 2018" in found["glow"]["paper"]


def test_a_picture_of_samples_is_as_wide_as_they_are_many(visage, tmp_path):
    for n, columns in ((4, 4), (20, 8), (100, 10)):
        assert visage("sample", VAE, "-n", n, "-o", tmp_path / "grid.png")[0] == 0
        assert side(tmp_path / "grid.png")[0] == columns * (96 + 2) - 2


def test_a_folder_of_samples_is_continued(visage, refused, project, tmp_path):
    folder = tmp_path / "samples"
    assert visage("sample", VAE, "-n", 10, "--folder", folder)[0] == 0
    first = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert sorted(first) == [f"{i:06d}.png" for i in range(10)]
    (folder / "000004.png").unlink()  # as if it had been killed there
    assert visage("sample", VAE, "-n", 300, "--folder", folder)[0] == 0
    again = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert len(again) == 300
    assert {path.name for path in folder.iterdir()} == {*again, "samples.json"}
    assert {name: again[name] for name in first} == first
    pixels = np.asarray(Image.open(folder / "000299.png"))
    np.testing.assert_array_equal(pixels, package.load(project / "runs" / f"{VAE}-0", device="cpu").sample(300)[299])
    assert "holds samples with another seed" in refused("sample", VAE, "--seed", 1, "--folder", folder)
    assert "holds samples with another run" in refused("sample", f"dcgan-{SIZE}", "--folder", folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert "holds other files" in refused("sample", VAE, "--folder", tmp_path / "other")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_samples_in_other_ways(visage, tmp_path):
    out = ("-n", 2, "-o", tmp_path / "grid.png")
    assert visage("sample", f"conditional_gan-{SIZE}", "--attributes", "Smiling,-Eyeglasses", *out)[0] == 0
    assert visage("sample", f"glow-{SIZE}", "--variant", "T 0.7", *out)[0] == 0
    diffusion = f"conditional_diffusion-{SIZE}"
    assert (
        visage("sample", diffusion, "--set", "sampling_steps=2", "--attributes", "Male", "--guidance", 2, *out)[0] == 0
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "name either a picture with -o"),
        (("-o", "a.png", "--folder", "b"), "name either a picture with -o"),
        (("-o", "a.txt"), r"a.txt: .txt cannot be written: use .png"),
        (("-o", "a"), "a file without a suffix cannot be written"),
        (("-o", "a.png", "--attributes", "Smiling,,Male"), "names no attribute at ''"),
        (("-o", "a.png", "--attributes", "Smiling,-Smiling"), "names Smiling twice"),
        (("-o", "a.png", "--attributes", "Smiling"), "vae-32-0 cannot sample with attributes"),
        (("-o", "a.png", "--variant", "T 1"), "vae-32-0 samples in one way only"),
        (("-o", "a.png", "--guidance", "2"), "vae-32-0 has no guidance"),
        (("-o", "a.png", "--set", "width"), "write KEY=VALUE"),
        (("-o", "a.png", "--set", "width=["), "the value cannot be read"),
        (("-o", "a.png", "--device", "tpu"), "finds no device tpu here"),
    ],
)
def test_wrong_options_of_sample_are_named(refused, project, options, words):
    assert words in refused("sample", VAE, *options)
    assert not (project / "a.png").exists()


def test_photographs_through_models(visage, photo, tmp_path):
    one, two = photo("one.png"), photo("two.jpg", (30, 50), seed=1)
    width = 2 * 98 - 2
    for rows, command in (
        (2, ("reconstruct", VAE)),
        (3, ("translate", f"cyclegan-{SIZE}")),
        (3, ("inpaint", f"mae-{SIZE}")),
    ):
        status, out, err = visage(*command, one, two, "-o", tmp_path / "sheet.png")
        assert (status, out.strip()) == (0, str(tmp_path / "sheet.png")), err
        assert side(tmp_path / "sheet.png") == (width, rows * 98 - 2)
    assert visage("edit", VAE, one, two, "--add", "Smiling", "--remove", "Male", "-o", tmp_path / "sheet.png")[0] == 0
    assert side(tmp_path / "sheet.png") == (6 * 98 - 2, width)


def test_the_sheet_shows_the_photograph_and_the_reconstruction(visage, project, photo, tmp_path):
    assert visage("reconstruct", VAE, photo(), "-o", tmp_path / "sheet.png")[0] == 0
    model = package.load(project / "runs" / f"{VAE}-0", device="cpu")
    shown = np.asarray(Image.open(tmp_path / "sheet.png"))[::3, ::3]
    np.testing.assert_array_equal(shown[:32], model.square(photo())[0])
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "sheet.png"))[98::3, ::3], model.reconstruct(photo())[0]
    )


def test_many_photographs_go_on_below(visage, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(18):
        photo(f"photos/{i:02}.png", seed=i)
    assert visage("reconstruct", VAE, tmp_path / "photos", "-o", tmp_path / "sheet.png")[0] == 0
    assert side(tmp_path / "sheet.png") == (16 * 98 - 2, 4 * 98 - 2)
    last = np.asarray(Image.open(tmp_path / "sheet.png"))[2 * 98 :: 3, 2 * 98 :]
    assert (last[:, -1] == 255).all()  # the third place of the last row is empty


def test_aligned_photographs_are_cut_as_in_training(visage, refused, photo, tmp_path):
    aligned = photo("aligned.png", (218, 178))
    assert visage("reconstruct", VAE, aligned, "--aligned", "-o", tmp_path / "sheet.png")[0] == 0
    box = np.asarray(Image.open(aligned))[40:188, 15:163]
    model = package.load(find_project() / "runs" / f"{VAE}-0", device="cpu")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png"))[:96:3, ::3], model.square(box)[0])
    assert "aligned CelebA images are 178x218" in refused("reconstruct", VAE, photo(), "--aligned", "-o", "x.png")


def test_bad_photographs_leave_nothing_behind(refused, photo, tmp_path, project):
    (tmp_path / "photo.jpg").write_text("no image at all")
    (tmp_path / "empty").mkdir()
    out = ("-o", tmp_path / "sheet.png")
    assert "photo.jpg cannot be read" in refused("reconstruct", VAE, tmp_path / "photo.jpg", *out)
    assert "holds no image" in refused("reconstruct", VAE, tmp_path / "empty", *out)
    assert "there is no such file or folder" in refused("reconstruct", VAE, tmp_path / "nowhere.png", *out)
    assert "a GAN without an encoder cannot" in refused("reconstruct", f"dcgan-{SIZE}", photo(), *out)
    assert "there is no attribute Foo" in refused("edit", VAE, photo(), "--add", "Foo", *out)
    assert "name an attribute with --add or --remove" in refused("edit", VAE, photo(), *out)
    both = ("--add", "Male", "--remove", "Male")
    assert "Male is both added and removed" in refused("edit", VAE, photo(), *both, *out)
    assert "not to Foo" in refused("translate", f"cyclegan-{SIZE}", photo(), "--to", "Foo", *out)
    assert not (tmp_path / "sheet.png").exists()


def test_a_full_disk_is_one_line(refused, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield

    monkeypatch.setattr(files, "replacing", full)
    assert "free some space" in refused("sample", VAE, "-n", 2, "-o", tmp_path / "grid.png")


@pytest.mark.long
def test_walks_and_trainings_as_films(visage, refused, photo, tmp_path):
    one, two = photo("one.png"), photo("two.png", seed=1)
    assert visage("interpolate", VAE, one, two, "--frames", 6, "-o", tmp_path / "walk.gif")[0] == 0
    assert Image.open(tmp_path / "walk.gif").n_frames == 2 * 5  # there and back
    assert visage("interpolate", VAE, "--faces", 3, "--frames", 4, "-o", tmp_path / "walk.png")[0] == 0
    assert side(tmp_path / "walk.png") == (4 * 98 - 2, 2 * 98 - 2)
    assert visage("progress", VAE, "-o", tmp_path / "training.gif")[0] == 0
    assert Image.open(tmp_path / "training.gif").n_frames >= 3
    assert "one photograph is no walk" in refused("interpolate", VAE, one, "-o", tmp_path / "x.gif")
    assert "holds no pictures of the training" in refused("progress", f"dcgan-{SIZE}", "-o", tmp_path / "x.gif")
    assert ".png cannot be written" in refused("progress", VAE, "-o", tmp_path / "x.png")
    assert "mae-32-0 cannot draw codes" in refused("interpolate", f"mae-{SIZE}", "-o", tmp_path / "x.gif")


def test_a_walk_as_a_video(visage, tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    assert visage("interpolate", VAE, "--faces", 2, "--frames", 5, "-o", tmp_path / "walk.mp4")[0] == 0
    frames = imageio.imread(tmp_path / "walk.mp4", plugin="FFMPEG")
    assert frames.shape == (2 * 4, 256, 256, 3)


def test_scores_as_csv(visage, project, photo, tmp_path):
    test = np.load(project / "data" / "processed" / str(SIZE) / "test.npy")
    (tmp_path / "faces").mkdir()
    for i in range(4):
        Image.fromarray(test[i]).save(tmp_path / "faces" / f"{i}.png")
    assert visage("score", VAE, tmp_path / "faces", "-o", tmp_path / "scores.csv")[0] == 0
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [row["file"].rpartition("/")[2] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    model = package.load(project / "runs" / f"{VAE}-0", device="cpu")
    np.testing.assert_allclose([float(row["elbo"]) for row in rows], model.log_prob(test[:4]), rtol=1e-6)
    scores = model.scores(test[:4])
    percentiles = model.percentiles("nll", scores["nll"])
    np.testing.assert_allclose([float(row["bits_per_dim_percentile"]) for row in rows], percentiles, atol=0.051)
    _, out, _ = visage("score", f"glow-{SIZE}", photo())
    (row,) = csv.DictReader(io.StringIO(out))
    assert "log_prob" in row
    assert "elbo" not in row
    assert "bits_per_dim_percentile" not in row  # it was not evaluated


def test_a_folder_is_judged_as_the_run_is(visage, project, tmp_path):
    """The run's own samples, drawn with the seed of the evaluation, get the run's own figures."""
    folder = tmp_path / "samples"
    n = max(SETTINGS.samples, SETTINGS.quality_samples)
    assert visage("sample", VAE, "-n", n, "--seed", SETTINGS.seed, "--folder", folder)[0] == 0
    for i in range(SETTINGS.quality_samples, n):
        (folder / f"{i:06d}.png").unlink()
    status, out, err = visage("evaluate", folder, "--json")
    assert status == 0, err
    found = {one["metric"]: one for one in json.loads(out)}
    results = read(project / "runs" / f"{VAE}-0" / "evaluate" / "results.json", Results)
    for metric in (
        "fd_attr128",
        "kd_attr128",
        "precision",
        "recall",
        "density",
        "coverage",
        "memorization",
        "fd_pix64",
    ):
        assert found[metric]["value"] == pytest.approx(results.find(metric).value, rel=1e-6), metric
        assert found[metric]["n"] == results.find(metric).n


def test_a_judged_folder_joins_the_page(visage, refused, project, photo, tmp_path):
    for i in range(8):
        photo(f"{i}.png", (SIZE, SIZE), seed=i)
    assert visage("evaluate", tmp_path, "--join", "their-gan", "--json")[0] == 0
    shutil.copytree(project, tmp_path / "copy")  # the page of all runs is not for this test
    (row,) = [one for one in opponents(SIZE, tmp_path / "copy", []) if one.outside]
    assert (row.title, row.kind) == ("their-gan", "samples from elsewhere")
    _, out, _ = visage("evaluate", tmp_path, "--size", SIZE, "--json")
    assert row.figure("fd_attr128").value == json.loads(out)[0]["value"]
    assert side(row.picture) == (8 * 98 - 2, 96)
    file = tmp_path / "copy" / "judged" / str(SIZE) / "their-gan.json"
    file.write_text(file.read_text().replace(row.data_hash, "00" * 32))
    assert not [one for one in opponents(SIZE, tmp_path / "copy", []) if one.outside]
    assert "use letters, digits" in refused("evaluate", tmp_path, "--size", SIZE, "--join", "../x")


def test_what_cannot_be_judged_is_named(refused, photo, tmp_path):
    photo("one.png")
    assert "holds 1 images, and 6 are needed" in refused("evaluate", tmp_path)
    assert "is no folder" in refused("evaluate", tmp_path / "one.png")
    for i in range(6):
        photo(f"{i}.png", (24, 24))
    assert "has no reference of 24x24 pixels: name one of --size 32" in refused("evaluate", tmp_path)
    weights = ("--inception", tmp_path / "nowhere.pth", "--size", SIZE)
    assert "there is no such file of weights" in refused("evaluate", tmp_path, *weights)
