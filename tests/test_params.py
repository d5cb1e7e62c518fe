import copy
import io
import json
import math
import re
import shutil

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from visage import params as parameters
from visage.config import (
    AttributeNetworkConfig,
    DownloadConfig,
    EvaluateConfig,
    OodSet,
    PreprocessConfig,
    ReferenceConfig,
    ReportConfig,
    RunConfig,
)
from visage.errors import UserError
from visage.params.images import OUTPUTS


@pytest.fixture(scope="session")
def shipped_raw():
    return YAML(typ="safe").load(ROOT / "params.yaml")


@pytest.fixture
def raw(shipped_raw):
    """params.yaml as it is shipped, but with one small run."""
    return copy.deepcopy(shipped_raw) | {"runs": ["vae-32"]}


@pytest.fixture
def read(tmp_path):
    """Write a changed params.yaml (JSON is YAML) and read it."""

    def go(raw):
        (tmp_path / "params.yaml").write_text(json.dumps(raw))
        return parameters.load(tmp_path / "params.yaml")

    return go


@pytest.fixture
def resolve(read):
    """The same; what each run is, by name."""
    return lambda raw: {run.name: run for run in parameters.resolve(read(raw), ROOT / "src")}


@pytest.fixture
def configure(read, tmp_path):
    """The same all the way to the files in configs/."""

    def go(raw):
        params = read(raw)
        runs = parameters.resolve(params, ROOT / "src")
        parameters.write_configs(params, runs, tmp_path / "configs", ROOT)
        return {run.name: run for run in runs}

    return go


def put(raw, dotted, value):
    *path, last = dotted.split(".")
    for key in path:
        raw = raw.setdefault(key, {})
    raw[last] = value


def runs_for(key, value):
    """The run that a changed key concerns: the recipe's, where the key is a recipe's."""
    if key == "runs":
        return value
    return [f"{key.split('.')[1]}-32" if key.startswith("recipes.") else "vae-32"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.kimgg", 3, ["train", "kimgg", "unknown", "did you mean kimg?"]),
        ("data.sauce", "celeba", ["data", "sauce", "unknown", "did you mean source?"]),
        ("data.celebra", {}, ["data", "celebra", "unknown", "did you mean celeba?"]),
        ("bata", 1, ["bata", "unknown", "did you mean data?"]),
        ("train.lr_final", "1e-3", ["train: lr_final", "number", "'1e-3'"]),
        ("train.weight_decay", -1000.0, ["train: weight_decay", "greater than", "-1000.0"]),
        ("recipes.vae.demo.train.lr", 1000.0, ["recipes.vae.demo.train: lr", "less than 1", "1000.0"]),
        ("recipes.vae.demo.train.kimgg", 1, ["recipes.vae.demo.train: kimgg", "unknown", "did you mean kimg?"]),
        ("recipes.vae.train.lr_final", 2, ["recipes.vae.train: lr_final", "less than or equal to 1", "2"]),
        ("recipes.vae.at_32", {"train": {"lr": 0}}, ["recipes.vae.at_32.train: lr", "greater than 0"]),
        ("recipes.vae.demo.at_32", {"model": {"width": 3}}, ["recipes.vae.demo.at_32.model: width", "8", "3"]),
        ("train.batch_size", 0, ["batch_size", "2"]),
        ("train.flip", "off", ["flip", "boolean", "'off'"]),
        ("scale", "medium", ["scale", "demo", "full", "medium"]),
        ("runs", [], ["runs is empty", "nothing to train"]),
        ("runs", ["vea-32"], ["runs", "vea", "did you mean vae?"]),
        ("runs", ["vae_32"], ["runs", "vae_32", "<recipe>-<size>"]),
        ("runs", ["vae-32", "vae-32"], ["vae-32", "twice"]),
        ("runs", ["vae-48"], ["vae-48", "preprocess.sizes"]),
        ("preprocess.sizes", [32, 64, 32], ["preprocess.sizes", "32 is listed twice"]),
        ("preprocess.sizes", [32, 12], ["preprocess.sizes.1", "multiple of 8", "12"]),
        ("preprocess.sizes", [32, 0], ["preprocess.sizes.1", "greater than or equal to 8", "0"]),
        ("runs", ["vae-32-0"], ["vae-32-0", "<recipe>-<size>"]),
        ("seeds", [], ["seeds", "at least 1"]),
        ("seeds", [0, 3, 3], ["seeds", "3", "twice"]),
        ("seeds", [0, -1], ["seeds", "greater than or equal to 0", "-1"]),
        ("seeds", 0, ["seeds", "list"]),
        ("seeds", [0, 2**63], ["seeds.1", "less than 9223372036854775808"]),
        ("seed", 2**64, ["seed", "less than 9223372036854775808", "18446744073709551616"]),
        ("recipes.conditional_gan.model.attributes", ["Smilling"], ["Smilling", "did you mean Smiling?"]),
        ("recipes.cyclegan.model.domain_b", "Black_Hair", ["domain_a", "domain_b", "Black_Hair"]),
        ("recipes.ddpm.model.multipliers", [], ["ddpm", "multipliers"]),
        ("recipes.stylegan.demo.train.lr_factors", {"generator": 0.0}, ["lr_factors", "greater than 0"]),
        (
            "recipes.bigan.train.lr_factors",
            {"critic": 2.0},
            ["recipes.bigan.train: lr_factors: critic", "discriminator"],
        ),
        ("recipes.cyclegan.train.batch_size", 15, ["recipes.cyclegan.train: batch_size: 15", "multiple of 2"]),
        ("recipes.mae.demo.train.kimg", 1, ["recipes.mae.demo.train: warmup_kimg: 1.28", "kimg 1"]),
        ("recipes.autoencoder.demo.train.snapshots", 10**9, ["recipes.autoencoder", "snapshots", "1000", "1000000000"]),
        ("evaluate.quality_samples", {"demo": 200, "full": -5}, ["evaluate", "quality_samples", "-5"]),
        ("attribute_network.kimg", {"demo": 16, "full": "x"}, ["attribute_network", "kimg", "'x'"]),
        ("train.precision", "auto", ["params.yaml: train: precision", "'fp32' or 'bf16'", "auto"]),
        ("train.precision", {"demo": "fp16", "full": "bf16"}, ["params.yaml: train: precision", "fp16"]),
        ("train.precision", {"demo": "fp32"}, ["params.yaml: train: precision", "'fp32' or 'bf16'"]),
        ("data.source", "folder", ["data", "root"]),
        ("data.root", "", ["data.root", "''", "names nothing"]),
        ("data.root", " ", ["data.root", "' '", "names nothing"]),
        ("data.root", "data/raw/celeba", ["data.root: data/raw/celeba is in data/raw", "DVC empties", "elsewhere"]),
        ("data.root", "data/raw", ["data.root", "is in data/raw"]),
        ("data.root", "runs/../report/x", ["data.root", "is in report"]),
        ("data.root", "data", ["data.root: data holds data/raw", "the folder of the images alone"]),
        ("data.root", ".", ["data.root: . holds configs"]),
        ("ood", [{"source": "folder", "root": "metrics/cats"}], ["ood[0].root", "is in metrics"]),
        ("data.limit", 5, ["data.limit", "5 images", "6 or more"]),
        ("data.limit", 10, ["data.limit", "10 training images", "train.batch_size of vae-32, 16"]),
        ("data.source", "celebra", ["data.source", "celebra", "did you mean celeba?", "folder"]),
        ("data.synthetic.images", 3, ["data.synthetic", "images", "20", "3"]),
        ("data.celeba.mirrors", "http://x", ["data.celeba", "mirrors"]),
        ("data.celeba.checksums", {"a.zip": "123"}, ["data.celeba", "checksums.a.zip", "123"]),
        ("data.celeba.checksums", {}, ["data.celeba", "checksums lacks img_align_celeba.zip", "add the MD5"]),
        ("data.celeba.mirror", [], ["data.celeba", "mirror", "unknown", "did you mean mirrors?"]),
        ("data.synthetic", None, ["data.synthetic", "dictionary"]),
        ("data.folder.test_share", 0.95, ["data.folder", "valid_share + test_share"]),
        ("data.folder.attributes", "", ["data.folder", "attributes", "''", "names no file"]),
        ("ood", [{"source": "svhn", "root": ""}], ["ood.0.root", "''", "names nothing"]),
        ("ood", [{"source": "svhn", "name": ""}], ["ood.0.name", "''", "names nothing"]),
        ("ood", [], ["ood", "at least one", "headline"]),
        ("ood", "svhn", ["ood", "list"]),
        ("ood", [{"source": "svnh"}], ["ood[0].source", "svnh", "did you mean svhn?", "auto"]),
        ("ood", [{"source": "auto"}, {"sauce": "svhn"}], ["ood.1", "source", "missing"]),
        ("ood", [{"source": "auto"}, {"source": "folder"}], ["ood", "folder", "root"]),
        ("ood", [{"source": "svhn"}, {"source": "svhn", "root": "more"}], ["ood", "two sets are named svhn", "name"]),
        ("ood", [{"source": "auto"}, {"source": "drawn_clothes"}], ["ood", "two sets are named drawn_clothes"]),
        ("ood", [{"source": "svhn", "name": "House Numbers"}], ["ood[0].name", "House Numbers", "a-z"]),
        ("ood", [{"source": "svhn", "name": "gray"}], ["ood[0]", "gray", "name"]),
        ("ood", [{"source": "folder", "root": "/photos/test"}], ["ood[0]", "test", "name"]),
        ("ood", [{"source": "svhn", "name": "train"}], ["ood[0]", "train", "name"]),
        ("ood", [{"source": "svhn", "name": "file"}], ["ood[0]", "file", "name"]),
        ("ood", [{"source": "folder", "root": "/photos/2024"}], ["ood", "/photos/2024", "name"]),
        ("preprocess.crop.right", 170, ["crop", "square"]),
        ("preprocess.crop.bottom", 230, ["crop", "218"]),
        ("preprocess.crop", {"left": 9, "top": 9, "right": 10, "bottom": 10}, ["crop", "1 pixels", "16 or more"]),
        ("model.likelihood", "gausian", ["params.yaml: model: likelihood", "gausian", "gaussian"]),
        ("recipes.beta_vae.model.beta", -1.0, ["recipes.beta_vae.model: beta", "0"]),
        ("recipes.vae.uses", ["betaa"], ["recipes.vae.uses", "betaa", "did you mean beta?"]),
        ("recipes.vae.file", "vea", ["recipes.vae", "vea.py"]),
        ("recipes.vae.base", "beta_vea", ["recipes.vae.base", "beta_vea", "did you mean beta_vae?"]),
        ("recipes.vae.base", "vae", ["recipes.vae.base", "vae -> vae", "circle"]),
        ("recipes.vae.base", "beta_vae", ["base", "vae -> beta_vae -> vae", "circle"]),
        ("recipes.vae.modell", {}, ["recipes.vae", "modell", "did you mean model?"]),
        ("recipes.vae.model.widht", 3, ["recipes.vae.model", "widht", "did you mean width?"]),
        ("recipes.vae.demo.model.widht", 3, ["recipes.vae.demo.model", "widht", "did you mean width?"]),
        ("recipes.vae.demo.at32", {}, ["recipes.vae.demo", "at32", "at_<size>"]),
        ("recipes.dcgan.model.latent_dim", 0, ["dcgan", "latent_dim"]),
        ("evaluate.draws", 0, ["evaluate", "draws"]),
        ("evaluate.importance_draws", 0, ["evaluate", "importance_draws"]),
        ("evaluate.inception", True, ["evaluate", "inception", "string"]),
        ("evaluate.inception", "nowhere.pth", ["evaluate.inception", "'nowhere.pth' is no file", "download"]),
        ("evaluate.inception", "", ["evaluate.inception", "'' is no file"]),
        ("attribute_network.kimg", 0, ["attribute_network", "kimg", "greater than 0"]),
        ("attribute_network.epochs", 3, ["attribute_network", "epochs", "unknown"]),
        ("runtime.device", "gpu", ["runtime", "device", "cuda"]),
        ("runtime.devices", 0, ["runtime", "devices", "greater than or equal to 1"]),
    ],
)
def test_mistakes_are_one_line_that_names_them(raw, configure, key, value, words):
    put(raw, key, value)
    with pytest.raises(UserError) as error:
        configure(raw | {"runs": runs_for(key, value)})
    message = str(error.value)
    assert "ood" in message or "params.yaml" in message
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate.images", math.nan),
        ("data.synthetic.images_per_identity", math.inf),
        ("recipes.glow.full.at_32.train.lr", -math.inf),  # neither in `runs` nor at this scale
        ("recipes.dcgan.model.width", math.nan),
    ],
)
def test_numbers_that_are_none_are_refused_wherever_they_are(raw, tmp_path, key, value):
    put(raw, key, value)
    put(raw, "train.betas", [0.9, math.inf])
    YAML(typ="safe").dump(raw, tmp_path / "params.yaml")
    with pytest.raises(UserError) as error:
        parameters.load(tmp_path / "params.yaml")
    assert set(str(error.value).splitlines()) == {
        f"params.yaml: {key}: {value} is no number to compute with",
        "params.yaml: train.betas.1: inf is no number to compute with",
    }


def test_all_runs_that_a_size_does_not_suit_are_listed(raw, resolve):
    raw["runs"] = ["vae-24", "vq_vae-24", "dcgan-24", "latent_diffusion-24", "vae-32"]
    put(raw, "preprocess.sizes", [24, 32])
    put(raw, "recipes.latent_diffusion.model.multipliers", [1, 1, 1])
    with pytest.raises(UserError) as error:
        resolve(raw)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[2] for line in lines] == [
        "vae-24 (recipes.vae.demo.model)",
        "dcgan-24 (recipes.dcgan.demo.model)",
        "latent_diffusion-24 (recipes.latent_diffusion.demo.model)",
    ]
    assert "choose a power of two" in lines[0]


def test_what_is_wrong_in_a_first_stage_is_said_once(raw, resolve):
    put(raw, "recipes.autoencoder.model.patch", 5)
    with pytest.raises(UserError, match=r"^params\.yaml: runs: autoencoder-32 \(recipes\.autoencoder[^\n]*$"):
        resolve(raw | {"runs": ["autoencoder-32", "latent_diffusion-32"]})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("recipes.glow.model.steps", 0, "recipes.glow.model: steps: must be greater than"),
        ("recipes.vae.full.model.width", 3, "recipes.vae.full.model: width: must be "),
        ("recipes.vae.full.at_128", {"train": {"lr": 2}}, "recipes.vae.full.at_128.train: lr: must be less than 1"),
        ("recipes.ddpm.full.train.kimgg", 1, "recipes.ddpm.full.train: kimgg: unknown key; did you mean kimg?"),
    ],
)
def test_what_is_not_run_is_checked_too_value_by_value(raw, resolve, key, value, words):
    put(raw, key, value)
    put(raw, "recipes.wgan.full.model.latent_dim", 0)
    with pytest.raises(UserError) as error:
        resolve(raw)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert [line for line in lines if words in line]
    assert [line for line in lines if "recipes.wgan.full.model: latent_dim" in line]


def test_settings_that_do_not_go_together_matter_only_where_they_are_run(raw, resolve):
    put(raw, "recipes.ddpm.model.timesteps", 50)  # fewer than the 100 terms of the bound at full scale
    assert resolve(raw | {"runs": ["ddpm-32"]})["ddpm-32-0"].settings["timesteps"] == 50
    with pytest.raises(UserError, match=r"ddpm-32 \(recipes\.ddpm\.full\.model\): .*there are 50 timesteps"):
        resolve(raw | {"runs": ["ddpm-32"], "scale": "full"})


def test_inception_s_file_is_looked_for_in_the_project_s_root(raw, configure, tmp_path, monkeypatch):
    put(raw, "evaluate.inception", "weights.pth")
    (tmp_path / "weights.pth").touch()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # which is where the project is when a copy of it runs
    with pytest.raises(UserError, match=r"evaluate\.inception: 'weights\.pth' is an empty file: name"):
        configure(raw)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    configure(raw)
    assert EvaluateConfig.load(tmp_path / "configs").inception == "weights.pth"
    put(raw, "evaluate.inception", "download")
    configure(raw)


def test_the_folders_that_users_must_keep_out_of_are_those_that_stages_write():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values()
    outputs = [next(iter(out)) if isinstance(out, dict) else out for stage in stages for out in stage["outs"]]
    folders = {out.rpartition("/")[0] if out.startswith("data/cost/") else out.partition("/$")[0] for out in outputs}
    assert sorted(folders) == sorted(OUTPUTS)


def test_missing_keys_and_files_are_named(raw, configure, tmp_path):
    del raw["train"]["flip"]
    with pytest.raises(UserError, match=r"train.*flip: this key is missing"):
        configure(raw)
    del raw["data"]["synthetic"]
    with pytest.raises(UserError, match=r"flip|data.synthetic: this key is missing"):
        configure(raw)
    with pytest.raises(UserError, match="missing"):
        parameters.load(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("seed: [1\nruns: 2")
    with pytest.raises(UserError, match=r"broken.yaml, line"):
        parameters.load(tmp_path / "broken.yaml")


# --- From a recipe to a run


@pytest.mark.parametrize("scale", ["demo", pytest.param("full", marks=pytest.mark.long)])
def test_every_shipped_recipe_is_valid_at_every_size(raw, resolve, scale):
    raw |= {"scale": scale, "runs": [f"{recipe}-{size}" for recipe in raw["recipes"] for size in (32, 64)]}
    assert {run.label for run in resolve(raw).values()} == set(raw["runs"])


def test_a_shared_value_may_differ_by_scale(raw, resolve):
    """The demo is made for CPUs, most of which lack bf16; the flows' density is exact at full scale too."""
    labels = ["vae-32", "glow-32", "realnvp-32"]
    for scale, expected in (("demo", ["fp32"] * 3), ("full", ["bf16", "fp32", "fp32"])):
        runs = resolve(copy.deepcopy(raw) | {"runs": labels, "scale": scale})
        assert [run.train.precision for run in runs.values()] == expected
    put(raw, "train.precision", "bf16")  # as `-S train.precision=bf16` does
    runs = resolve(raw | {"runs": [*labels, "mae-32"]})
    assert [run.train.precision for run in runs.values()] == ["bf16", "bf16", "bf16", "fp32"]
    raw["train"] |= {"precision": "fp32", "lr": {"demo": 0.01, "full": 0.02}}
    del raw["recipes"]["vae"]["demo"]["train"]["lr"]
    (full,) = resolve(raw | {"runs": ["vae-32"], "scale": "full"}).values()
    assert (full.train.precision, full.train.lr) == ("fp32", 0.02)


def test_a_first_stage_that_cannot_be_trained_is_named(raw, resolve):
    put(raw, "recipes.autoencoder.train.lr_factors", {"decoder": 2.0})
    with pytest.raises(UserError, match=r"recipes.autoencoder.train: lr_factors: decoder is no player"):
        resolve(raw | {"runs": ["latent_diffusion-32"]})


PLACES = [
    *("", "recipes.vae", "recipes.vae.demo", "recipes.vae.at_32", "recipes.vae.demo.at_32"),
    *("recipes.beta_vae", "recipes.beta_vae.demo", "recipes.beta_vae.at_32", "recipes.beta_vae.demo.at_32"),
]
"""In the order of the comment above `recipes` in params.yaml: each overrides those above it."""


def test_each_place_overrides_those_above_it(raw, resolve):
    for step, place in enumerate(PLACES, 1):
        put(raw, f"{place}.train.weight_decay".lstrip("."), float(step))
        if place:
            put(raw, f"{place}.model.latent_dim", step)
        runs = resolve(raw | {"runs": ["beta_vae-32", "beta_vae-64", "dcgan-32"]})
        elsewhere = [i for i, p in enumerate(PLACES[:step], 1) if "at_32" not in p][-1]
        assert [run.train.weight_decay for run in runs.values()] == [step, elsewhere, 1]
        if place:
            assert runs["beta_vae-32-0"].settings["latent_dim"] == step
    raw["scale"] = "full"
    (run,) = resolve(raw | {"runs": ["beta_vae-32"]}).values()
    assert PLACES[int(run.train.weight_decay) - 1] == "recipes.beta_vae.at_32"


def test_a_shared_knob_overrides_the_base_and_yields_to_the_recipe(raw, resolve):
    raw["runs"] = ["vae-32", "beta_vae-32"]
    put(raw, "model.beta", 1.25)
    runs = resolve(raw)
    assert [runs[name].settings["beta"] for name in ("vae-32-0", "beta_vae-32-0")] == [1.0, 1.25]
    put(raw, "recipes.beta_vae.model.beta", 3.0)
    assert resolve(raw)["beta_vae-32-0"].settings["beta"] == 3.0


def test_a_base_of_another_model_gives_its_training_and_the_settings_that_fit(raw, resolve):
    raw["recipes"]["small"] = {
        "base": "ddpm", "file": "dcgan", "demo": {"train": {"kimg": 1.5}}, "model": {"latent_dim": 8, "linear": False}
    }  # fmt: skip
    raw["runs"] = ["ddpm-32", "small-32"]
    ddpm, small = resolve(raw).values()
    assert small.settings == {"latent_dim": 8, "width": ddpm.settings["width"], "linear": False}
    assert (small.train.kimg, small.train.ema_decay) == (1.5, ddpm.train.ema_decay)
    assert small.model == "dcgan"
    del raw["recipes"]["small"]["model"]["latent_dim"]  # nothing else gives it
    with pytest.raises(UserError, match=r"recipes.small.*latent_dim: this key is missing"):
        resolve(raw)
    put(raw, "recipes.ddpm.model.widht", 3)
    with pytest.raises(UserError, match=r"recipes.ddpm.model: widht: unknown key; did you mean width"):
        resolve(raw | {"runs": ["small-32"]})


def test_bases_form_chains(raw, resolve):
    raw["recipes"]["third"] = {"base": "beta_vae", "file": "vae", "model": {"latent_dim": 5}}
    raw["runs"] = ["beta_vae-32", "third-32"]
    beta, third = resolve(raw).values()
    assert third.settings == beta.settings | {"latent_dim": 5}
    assert third.train == beta.train


def test_vae_and_beta_vae_differ_in_beta_alone(raw, resolve):
    runs = resolve(raw | {"runs": ["vae-32", "vae-64", "beta_vae-32", "beta_vae-64"]})
    for size in (32, 64):
        vae, beta = runs[f"vae-{size}-0"], runs[f"beta_vae-{size}-0"]
        assert {k for k in vae.settings if vae.settings[k] != beta.settings[k]} == {"beta"}
        assert vae.train == beta.train


def test_beta_reaches_the_beta_vae_alone(raw, resolve):
    raw["runs"] = ["vae-32", "beta_vae-32", "beta_vae-64", "dcgan-32"]
    before = resolve(copy.deepcopy(raw))
    put(raw, "model.beta", 1.2)
    after = resolve(raw)
    assert {name for name in before if before[name] != after[name]} == {"beta_vae-32-0", "beta_vae-64-0"}


def test_a_run_with_a_first_stage_holds_its_config(raw, resolve):
    runs = resolve(raw | {"runs": ["latent_diffusion-64", "vae-32"]})
    assert list(runs) == ["latent_diffusion-64-0", "vae-32-0"]
    first = runs["latent_diffusion-64-0"].first_stage
    assert first == resolve(raw | {"runs": ["autoencoder-64"]})["autoencoder-64-0"]
    assert runs["vae-32-0"].first_stage is None
    put(raw, "recipes.autoencoder.model.blocks", 0)
    with pytest.raises(UserError, match=r"recipes.autoencoder.model: blocks"):
        resolve(raw | {"runs": ["latent_diffusion-64"]})
    del raw["recipes"]["autoencoder"]
    with pytest.raises(UserError, match="autoencoder"):
        resolve(raw | {"runs": ["latent_diffusion-64"]})


def test_every_run_is_trained_once_for_each_seed(raw, resolve):
    raw["runs"] = ["vae-32", "latent_diffusion-32"]
    alone = resolve(copy.deepcopy(raw))
    runs = resolve(raw | {"seeds": [0, 2]})
    assert list(runs) == ["vae-32-0", "vae-32-2", "latent_diffusion-32-0", "latent_diffusion-32-2"]
    assert [(run.label, run.seed) for run in runs.values()][:2] == [("vae-32", 0), ("vae-32", 2)]
    assert runs["latent_diffusion-32-2"].first_stage.name == "autoencoder-32-2"
    assert {name: runs[name] for name in alone} == alone  # a new seed changes nothing of the others


def test_a_folder_without_attributes_cannot_train_what_needs_them(raw, resolve):
    raw["runs"] = ["vae-32", "conditional_gan-32"]
    raw["data"] |= {"source": "folder", "root": "photos"}
    with pytest.raises(UserError, match=r"conditional_gan-32 needs attributes .*data.folder.attributes"):
        resolve(raw)
    with pytest.raises(UserError, match=r"data.source: there is no source folded"):
        resolve(raw | {"data": raw["data"] | {"source": "folded"}})
    raw["data"]["folder"]["attributes"] = "attributes.csv"  # which ones it has is known once it is read
    assert resolve(raw)["conditional_gan-32-0"]


# --- Configs


def test_the_seed_of_data_and_evaluation_is_none_of_the_trainings(raw, configure, tmp_path):
    before = configure(copy.deepcopy(raw))
    assert configure(raw | {"seed": 7}) == before
    kinds = (DownloadConfig, EvaluateConfig, AttributeNetworkConfig)
    assert [kind.load(tmp_path / "configs").seed for kind in kinds] == [7, 7, 7]


def test_data_and_networks_are_made_for_every_size_and_label(raw, configure, tmp_path):
    configure(raw | {"seeds": [0, 1]})
    arrays, reference, network, report = (
        kind.load(tmp_path / "configs")
        for kind in (PreprocessConfig, ReferenceConfig, AttributeNetworkConfig, ReportConfig)
    )
    assert arrays.sizes == reference.sizes == network.sizes == tuple(raw["preprocess"]["sizes"])
    assert arrays.labels == reference.labels
    assert {"vae-64", "latent_diffusion-32"} < set(arrays.labels)
    assert arrays.crop == (15, 40, 163, 188)
    assert (network.kimg, network.batch_size) == (raw["attribute_network"]["kimg"]["demo"], 64)
    assert report.runs == ("vae-32-0", "vae-32-1")


def test_either_scale_has_its_measurements(raw, configure, tmp_path):
    """A value that is given alone holds at both scales."""
    put(raw, "evaluate.bootstrap", 300)
    found = []
    for scale in ("demo", "full"):
        configure(raw | {"scale": scale})
        evaluate = EvaluateConfig.load(tmp_path / "configs")
        network = AttributeNetworkConfig.load(tmp_path / "configs")
        found.append((evaluate.images, evaluate.quality_samples, evaluate.bootstrap, network.kimg))
    assert found == [(400, 300, 300, 16), (0, 50_000, 300, 1600)]


def test_only_the_settings_of_the_chosen_source_are_kept(raw, configure, tmp_path):
    configure(raw)
    drawn = DownloadConfig.load(tmp_path / "configs")
    assert (drawn.source, drawn.settings) == ("synthetic", raw["data"]["synthetic"])
    put(raw, "data.source", "celeba")
    configure(raw)
    celeba = DownloadConfig.load(tmp_path / "configs")
    assert (celeba.source, celeba.settings) == ("celeba", raw["data"]["celeba"])


@pytest.mark.parametrize(
    ("source", "sets", "expected"),
    [
        ("synthetic", [{"source": "auto"}], [("drawn_clothes", "drawn_clothes", None)]),
        ("celeba", [{"source": "auto", "root": None}], [("fashion_mnist", "fashion_mnist", None)]),
        ("celeba", [{"source": "drawn_clothes"}], [("drawn_clothes", "drawn_clothes", None)]),
        (
            "synthetic",
            [{"source": "svhn", "root": "/svhn"}, {"source": "folder", "root": "/data/Wild Cats (2024)/"}],
            [("svhn", "svhn", "/svhn"), ("wild_cats_2024", "folder", "/data/Wild Cats (2024)/")],
        ),
        (
            "synthetic",
            [{"source": "folder", "root": "a/1 cats"}, {"source": "folder", "root": "b/cats", "name": "more_cats"}],
            [("cats", "folder", "a/1 cats"), ("more_cats", "folder", "b/cats")],
        ),
    ],
)
def test_sets_of_other_images_are_named_and_settled(raw, configure, tmp_path, source, sets, expected):
    put(raw, "data.source", source)
    configure(raw | {"ood": sets})
    assert DownloadConfig.load(tmp_path / "configs").ood == tuple(OodSet(*entry) for entry in expected)


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        pytest.param("attribute_network.kimg", 0.5, {"attribute_network.json"}, marks=pytest.mark.long),
        pytest.param("evaluate.derived_images", 7, {"evaluate.json"}, marks=pytest.mark.long),
        ("seeds", [0, 1], {"report.json", "vae-32-1.json"}),
        ("model.beta", 0.5, set()),
        pytest.param("data.celeba.mirrors", ["http://localhost"], set(), marks=pytest.mark.long),
        (
            "ood",
            [{"source": "auto"}, {"source": "svhn"}],
            {"download.json", "code/download.json", "code/preprocess.json"},
        ),
    ],
)
def test_a_parameter_changes_the_configs_of_what_depends_on_it(raw, configure, tmp_path, key, value, changed):
    configure(raw)
    before = contents(tmp_path / "configs")
    put(raw, key, value)
    configure(raw)
    assert differing(before, contents(tmp_path / "configs")) == changed


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.json")}


def differing(before, after):
    return {name for name in after if after[name] != before.get(name)}


def test_configs_survive_their_files(raw, configure, tmp_path):
    for name, run in configure(raw | {"runs": ["vae-32", "glow-32", "latent_diffusion-32"]}).items():
        assert RunConfig.load(name, tmp_path / "configs") == run


def test_the_key_of_a_run_changes_with_everything_that_decides_it(run_config):
    config, card = run_config("vae"), {"train": "abc"}
    keys = {
        config.key(card),
        config.key({"train": "abd"}),
        run_config("vae", 64).key(card),
        run_config("vae", lr=0.5).key(card),
        run_config("vae").seeded(1).key(card),
    }
    assert len(keys) == 5
    assert config.key(card) == run_config("vae").key(dict(card))


# --- The file itself


def test_params_yaml_survives_the_rewriting_of_dvc():
    """`dvc exp run -S` loads and dumps the file in round-trip mode; ours must come back byte for byte."""
    text = (ROOT / "params.yaml").read_text()
    yaml, out = YAML(), io.StringIO()
    yaml.dump(yaml.load(text), out)
    assert out.getvalue() == text


def test_set_param_changes_the_lines_it_names_and_no_other(tmp_path):
    """What `dvc exp run -S` does to the file: lists in braces stay there, and only blank lines after lists are lost."""
    from dvc.utils.hydra import apply_overrides

    path = shutil.copy(ROOT / "params.yaml", tmp_path)
    settings = ("train.precision=bf16", "recipes.vae.demo.train.kimg=2")
    apply_overrides(path, [*settings, "recipes.autoencoder.full.model.multipliers=[1,2,2]"])
    before, after = (filter(None, (folder / "params.yaml").read_text().splitlines()) for folder in (ROOT, tmp_path))
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [new.split("{")[-1].strip()[:7] for _, new in changed] == ["precisi", "kimg: 2", "width: "]
    assert "multipliers: [1, 2, 2]" in changed[2][1]


def test_every_recipe_says_how_long_a_demo_trains(raw):
    """A shorter training is the first thing that one sets by `-S recipes.<recipe>.demo.train.kimg=...`."""
    assert [name for name, recipe in raw["recipes"].items() if "kimg" not in recipe["demo"]["train"]] == []


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_every_command_in_the_documentation_names_real_parameters(raw, page):
    text = (ROOT / page).read_text()
    for key, value in re.findall(r"-S '?([a-z_0-9.]+)=([^\s'\\]+)", text):
        section = raw
        for part in key.split("."):
            assert part in section, f"{page}: -S {key}"
            section = section[part]
        if key == "runs":
            assert {run.split("-")[0] for run in value.strip("[]").split(",")} <= set(raw["recipes"])


# --- Which code a run and a stage depend on


@pytest.fixture
def project(tmp_path):
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def touch(path):
    path.write_text(path.read_text() + "\n")


EVERY = {"vae", "beta_vae", "dcgan", "realnvp", "ddpm", "latent_diffusion"}


@pytest.mark.parametrize(
    ("touched", "changed"),
    [
        ("models/vae.py", {"vae", "beta_vae"}),
        ("models/dcgan.py", {"dcgan"}),
        ("models/realnvp.py", {"realnvp"}),
        ("models/base.py", EVERY),
        ("training/loop.py", EVERY),
        ("inference/validation.py", EVERY),
        ("maths/pixels.py", EVERY),
        ("maths/likelihoods.py", {"vae", "beta_vae", "ddpm", "latent_diffusion"}),
        ("maths/diffusion.py", {"ddpm", "latent_diffusion"}),
        ("nn/unet.py", {"ddpm", "latent_diffusion"}),
        ("nn/flow_layers.py", {"realnvp"}),
        ("report/page.py", set()),
        ("measures/ood.py", set()),
        ("data/preprocess.py", set()),
        ("config.py", set()),
    ],
)
def test_editing_a_file_changes_the_runs_that_import_it(project, touched, changed):
    models = {"vae": "vae", "beta_vae": "vae"}
    models |= {name: name for name in ("dcgan", "realnvp", "ddpm", "latent_diffusion")}

    def digests():
        return {name: parameters.run_digest(model, project / "src") for name, model in models.items()}

    before = digests()
    touch(project / "src" / "visage" / touched)
    after = digests()
    assert {name for name in models if before[name] != after[name]} == changed


@pytest.mark.parametrize(
    ("pattern", "changed", "same"),
    [
        ("report/**/*.css", {"report"}, {"train", "evaluate", "reference", "download"}),
        ("report/page.py", {"report"}, {"train", "evaluate", "reference", "download"}),
        ("measures/table.py", {"report"}, {"train", "evaluate", "reference"}),
        ("measures/ood.py", {"evaluate"}, {"train", "preprocess", "attribute_network"}),
        ("measures/probes.py", {"reference", "evaluate"}, {"train", "preprocess", "attribute_network"}),
        ("training/loop.py", {"train", "vae-32-0"}, {"report", "reference", "preprocess", "download"}),
        ("data/sources/synthetic.py", {"download", "preprocess"}, {"train", "evaluate", "report"}),
        ("data/ood/drawn_clothes.py", {"download", "preprocess"}, {"train", "evaluate", "report"}),
        ("data/ood/svhn.py", set(), {"download", "preprocess", "train", "evaluate", "report"}),
        ("models/vae.py", {"vae-32-0"}, {"train", "evaluate", "report"}),
    ],
)
def test_editing_a_file_changes_the_stages_that_import_it(raw, project, pattern, changed, same):
    (project / "params.yaml").write_text(json.dumps(raw))

    def written():
        params = parameters.load(project / "params.yaml")
        runs = parameters.resolve(params, project / "src")
        parameters.write_configs(params, runs, project / "configs", project)
        return contents(project / "configs")

    before = written()
    touch(sorted((project / "src" / "visage").glob(pattern))[0])
    names = {name.removeprefix("code/").removesuffix(".json") for name in differing(before, written())}
    assert changed <= names
    assert not names & same


def test_digests_name_the_modules_of_a_stage(raw, configure, tmp_path):
    configure(raw)
    code = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "configs" / "code").glob("*.json")}
    assert code.keys() == {
        *("download", "preprocess", "attribute_network", "reference", "train", "evaluate", "report")
    }  # fmt: skip
    for stage, digests in code.items():
        assert list(digests) == sorted(digests)
        assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in digests.values())
        if stage != "report":
            assert not set(digests) & parameters.PLUMBING
    assert "visage.training.loop" in code["train"]
    assert "visage.data.sources.synthetic" in code["download"]
    assert "visage.data.sources.celeba" not in code["download"]
    beside = {path.name for path in (ROOT / "src/visage/report").rglob("*") if path.suffix in {".j2", ".css", ".js"}}
    assert {name.rpartition("/")[2] for name in code["report"] if "/" in name} == beside


def test_imports_are_found_wherever_they_are_written(tmp_path):
    files = {
        "__init__.py": "",
        "a.py": "import numpy\nfrom visage import b\nfrom visage.p.c import thing\n",
        "b.py": "def f():\n    import visage.d\n",
        "d.py": "from visage import nothing_that_is_a_module\nimport visagelike\n",
        "e.py": "",
        "p/__init__.py": "from visage.e import x\n",
        "p/c.py": "from visage import a\n",
        "p/unused.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "visage" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    all_of_a = {"visage", "visage.a", "visage.b", "visage.d", "visage.e", "visage.p", "visage.p.c"}
    assert parameters.first_party_imports(["visage.a"], tmp_path) == all_of_a
    without = frozenset({"visage.p"})
    assert parameters.first_party_imports(["visage.a"], tmp_path, without) == all_of_a - {
        *("visage.e", "visage.p", "visage.p.c")
    }  # fmt: skip
