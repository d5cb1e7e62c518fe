"""Speed and quality of the project's models beside published implementations of the same ones, on the same faces.

    OMP_NUM_THREADS=1 python benchmarks/peers.py --faces CELEBA --peers PEERS --write
    OMP_NUM_THREADS=1 python benchmarks/peers.py --faces CELEBA --peers PEERS --parts quality --seconds 5 --sizes 32

    speed      images per CPU second of a peer's network in its own loop, beside our loop on a network configured to be
               of the same size, in float32 and in bfloat16; the sides take turns, and the table has the medians
    quality    what trainings of equal CPU seconds lead to: the peer at its default settings, the peer with a network of
               our size, and the recipe of params.yaml (scale demo), whose length is set to those seconds

CELEBA is a folder with CelebA's files. PEERS is a folder for the peers, which are not part of the project's
environment; those that are missing are left out, and a line says so:

    pip install --target PEERS --no-deps pythae normflows denoising-diffusion-pytorch einops ema-pytorch accelerate
    cd PEERS
    git clone https://github.com/AntixK/PyTorch-VAE
    git clone https://github.com/pytorch/examples
    git clone https://github.com/rosinality/glow-pytorch

The own loops of pythae, of denoising-diffusion-pytorch (whose images this process reads, as the CPU time of others
would not be counted) and of PyTorch's DCGAN run as they are. That DCGAN makes 64 x 64 pixels alone: for 32, it
enlarges the faces, and its samples are reduced. normflows has no loop, PyTorch-VAE's is for Lightning 1, and
glow-pytorch's calls what torchvision has removed: theirs is `bare_loop`, in which images are in memory. A hook that
PyTorch calls after each step of an optimiser stops them. Times are CPU seconds of this process with one thread; ours
include all that precedes the first step, theirs do not. Most of our small recipes start where linear algebra ends
(docs/recipes.md), which is part of them. Frechet distances are in the features of our attribute network, trained on
the same faces; denoising-diffusion-pytorch draws with as many network calls as we do. Nothing else should run
meanwhile.
"""

import argparse
import csv
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from ratios import CPU, machine
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from training import training_of

from visage import params as parameters
from visage.attribute_network import train_attribute_network
from visage.config import PreprocessConfig, RunConfig, RuntimeConfig
from visage.data.arrays import load_faces
from visage.data.gather import gather
from visage.data.preprocess import preprocess
from visage.files import write_text
from visage.inference.batches import embedded, per_image, to_pixels
from visage.inference.chunks import Draws
from visage.inference.flops import flops_of
from visage.maths.pixels import dequantize, quantization_nats, to_float
from visage.maths.units import bits_per_dim
from visage.measures.reconstruction import mse
from visage.measures.sample_quality import frechet_distance
from visage.params.images import download_config
from visage.params.sections import Params, at_scale
from visage.training.devices import start_device
from visage.training.loop import Training
from visage.training.outputs import build_model

HERE = Path(__file__).parent
COLUMNS = ("what", "ours", "the peer's", "ratio", "range", "ratio per FLOP", "goal")
CLONES = ("PyTorch-VAE", "glow-pytorch")
FOREVER = 10**9
BATCH = 50
"""Images that are measured or drawn at a time."""


@dataclass(frozen=True, slots=True)
class Data:
    """Faces of one size, (N, S, S, 3) uint8.

    folder: the training faces as PNG files, in a folder inside it; peers may write beside it.
    embed: (n, S, S, 3) uint8 -> features (n, 128).
    """

    size: int
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    folder: Path
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer's model with its training.

    loop: trains without an end. modules: those whose parameters count, once it has begun. batch: images of a step.
    answer: images in [-1, 1] -> reconstructions (VAE), or, with a generator, -> nats of the 8-bit images (flows);
        n -> samples in [-1, 1] (GAN, diffusion).
    steps: of optimisers in an iteration.
    """

    loop: Callable[[], object]
    modules: Callable[[], Sequence[nn.Module]]
    batch: int
    answer: Callable[..., Tensor]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Side:
    """What one side reached, and with what: GFLOP of an image in training, or images shown and the CPU seconds."""

    value: float
    parameters: int
    gflop: float = 0.0
    images: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        cost = f"{self.gflop:.3g} GFLOP" if self.gflop else f"{self.images:,.0f} images, {self.seconds:.0f} s"
        return f"{self.value:.4g} ({self.parameters / 1e6:.3g} M, {cost})"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a ratio above 1 says that ours is the better side."""

    what: str
    ours: Side
    peer: Side
    ratios: Sequence[float]
    goal: str

    def cells(self) -> dict[str, str]:
        """The values of `COLUMNS`."""
        ratio = median(self.ratios)
        reach = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}" if len(self.ratios) > 1 else ""
        per_flop = f"{ratio * self.ours.gflop / self.peer.gflop:.2f}" if self.peer.gflop else ""
        values = (self.what, str(self.ours), str(self.peer), f"{ratio:.2f}", reach, per_flop, self.goal)
        return dict(zip(COLUMNS, values, strict=True))

    def numbers(self) -> dict[str, str | float]:
        """The same for the CSV file."""
        sides = {
            f"{name} {key}": value for name in ("ours", "peer") for key, value in asdict(getattr(self, name)).items()
        }
        ratios = {"ratio": median(self.ratios), "least": min(self.ratios), "most": max(self.ratios)}
        rounded = {key: float(f"{value:.5g}") for key, value in (sides | ratios).items()}
        return {"what": self.what, **rounded, "goal": self.goal}


# --- Trainings that are stopped


class EnoughError(Exception):
    """The time of a training is over."""


def forever(step: Callable[[], object]) -> None:
    while True:
        step()


def timed(loop: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """The CPU time at the start of a loop and after each step of an optimiser, of which there are so many at least."""
    times = [time.process_time()]

    def after(*_: object) -> None:
        times.append(time.process_time())
        if times[-1] - times[0] >= seconds and len(times) > least:
            raise EnoughError

    handle = register_optimizer_step_post_hook(after)
    try:
        with suppress(EnoughError), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            loop()
    finally:
        handle.remove()
    return times


def trained(config: RunConfig, data: Data, seconds: float) -> tuple[Training, float]:
    """Train a recipe for as many images as fit into so many CPU seconds; the training, and the seconds that it took."""
    started = time.process_time()
    probe = training_of(config, data.train, CPU)
    before = time.process_time() - started
    steps = len(probe.phases) * 3
    times = timed(partial(forever, probe.iterate), seconds / 10, 2 * steps)
    rate = probe.images_shown * (len(times) - 1 - steps) / (len(times) - 1) / (times[-1] - times[steps])
    kimg = max(config.train.batch_size, (seconds - before) * rate) / 1000
    warmup = config.train.warmup_kimg * kimg / config.train.kimg
    started = time.process_time()
    length = replace(config.train, kimg=kimg, warmup_kimg=warmup)
    training = training_of(replace(config, train=length), data.train, CPU)
    while training.step < training.steps:
        training.iterate()
    return training, time.process_time() - started


# --- The peers


def pythae_vae(data: Data, config: RunConfig | None = None, batch: int = 100) -> Peer:
    """The networks for CelebA, or those for CIFAR at 32 pixels, or the ones of our recipe; settings of its scripts."""
    models, trainers, nets = import_module("pythae.models"), import_module("pythae.trainers"), "pythae.models.nn"
    latent_dim = config.settings["latent_dim"] if config else 64
    settings = models.VAEConfig(input_dim=(3, data.size, data.size), latent_dim=latent_dim)
    if config:
        ours: Any = build_model(replace(config, settings=config.settings | {"linear": False, "output": "sigmoid"}))
        output, names = import_module("pythae.models.base.base_utils").ModelOutput, ("embedding", "log_covariance")
        encoder, decoder = import_module(nets).BaseEncoder(), import_module(nets).BaseDecoder()
        encoder.net, decoder.net = ours.encoder, ours.decoder
        encoder.forward = lambda x: output(**dict(zip(names, ours.encoder(2 * x - 1), strict=True)))
        decoder.forward = lambda z: output(reconstruction=(ours.decoder(z) + 1) / 2)
    else:
        kind = "celeba" if data.size == 64 else "cifar"
        own = import_module(f"{nets}.benchmarks.{kind}")
        encoder = getattr(own, f"Encoder_Conv_VAE_{kind.upper()}")(settings)
        decoder = getattr(own, f"Decoder_Conv_AE_{kind.upper()}")(settings)
    vae = models.VAE(settings, encoder, decoder)
    x = torch.from_numpy(np.array(data.train)).permute(0, 3, 1, 2).contiguous().float() / 255
    faces = import_module("pythae.data.datasets").BaseDataset(x, torch.ones(len(x)))
    options = {"num_epochs": FOREVER, "per_device_train_batch_size": batch, "learning_rate": 1e-4}
    training = trainers.BaseTrainerConfig(output_dir=str(data.folder.parent), no_cuda=True, **options)
    trainer = trainers.BaseTrainer(vae, faces, training_config=training)

    def reconstruct(x: Tensor) -> Tensor:
        vae.eval()
        found: Tensor = vae.decoder(vae.encoder((x + 1) / 2)["embedding"])["reconstruction"]
        return 2 * found - 1

    return Peer(trainer.train, lambda: [vae], batch, reconstruct)


def bare_loop(
    data: Data, optimizer: torch.optim.Optimizer, loss: Callable[[Tensor], Tensor], batch: int
) -> Callable[[], None]:
    """The loop of a peer that has none, or none that runs today. loss: of training images (B, 3, S, S) in [-1, 1]."""
    images = torch.from_numpy(np.array(data.train))

    def step() -> None:
        value = loss(to_float(images[torch.randint(len(images), (batch,))]).contiguous())
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()

    return partial(forever, step)


def pytorch_vae(data: Data, batch: int = 64) -> Peer:
    """VanillaVAE with its settings for CelebA; at 32 pixels without the first of its five layers."""
    widths = None if data.size == 64 else [64, 128, 256, 512]
    vae = import_module("models").VanillaVAE(in_channels=3, latent_dim=128, hidden_dims=widths)

    def loss(x: Tensor) -> Tensor:
        found: Tensor = vae.loss_function(*vae((x + 1) / 2), M_N=0.00025)["loss"]
        return found

    def reconstruct(x: Tensor) -> Tensor:
        found: Tensor = vae.eval().decode(vae.encode((x + 1) / 2)[0])
        return 2 * found - 1

    loop = bare_loop(data, torch.optim.Adam(vae.parameters(), lr=0.005), loss, batch)
    return Peer(loop, lambda: [vae], batch, reconstruct)


def flow_peer(
    data: Data, model: nn.Module, optimizer: torch.optim.Optimizer, nats: Callable[[Tensor], Tensor], batch: int
) -> Peer:
    """A flow. nats: dequantised images in [0, 1) -> log-densities, (B,)."""

    def loss(x: Tensor) -> Tensor:
        return -nats(dequantize(x, torch.rand_like(x))).mean() / x[0].numel()

    def answer(x: Tensor, generator: torch.Generator) -> Tensor:
        model.eval()
        return nats(dequantize(x, torch.rand(x.shape, generator=generator))) - quantization_nats(x[0].numel())

    return Peer(bare_loop(data, optimizer, loss, batch), lambda: [model], batch, answer)


def normflows_glow(data: Data, levels: int = 3, steps: int = 16, width: int = 256, batch: int = 128) -> Peer:
    """The multi-scale flow with the layers, the sizes and the optimiser of its example for images."""
    nf = import_module("normflows")
    flows, bases = [], []
    for i in range(levels):
        channels, side = 3 * 2 ** (levels + 1 - i), data.size >> (levels - i)
        blocks = [nf.flows.GlowBlock(channels, width, split_mode="channel", scale=True) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        bases.append(nf.distributions.DiagGaussian((channels // 2 if i else channels, side, side)))
    model = nf.MultiscaleFlow(bases, flows, [nf.flows.Merge() for _ in range(levels - 1)], class_cond=False)
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-3, weight_decay=1e-5)
    return flow_peer(data, model, optimizer, lambda y: model.log_prob(y, None), batch)


def glow_pytorch(data: Data, levels: int = 4, steps: int = 32, affine: bool = False) -> Peer:
    """Glow with the defaults of its script, but of all 8 bits."""
    model = import_module("model").Glow(3, steps, levels, affine=affine)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def nats(y: Tensor) -> Tensor:
        log_p, log_det, _ = model(y - 0.5)
        found: Tensor = log_p + log_det
        return found

    return flow_peer(data, model, optimizer, nats, 16)


def denoising_diffusion(data: Data, dim: int = 64, multipliers: Sequence[int] = (1, 2, 4, 8), calls: int = 25) -> Peer:
    """U-Net, diffusion and trainer with their defaults; samples are from averaged weights after 1000 steps or more."""
    package = import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")
    net = package.Unet(dim=dim, dim_mults=tuple(multipliers))
    diffusion = package.GaussianDiffusion(net, image_size=data.size, sampling_timesteps=calls)
    batch, options = 16, {"train_num_steps": FOREVER, "save_and_sample_every": FOREVER, "calculate_fid": False}
    with redirect_stdout(io.StringIO()):
        trainer = package.Trainer(diffusion, str(data.folder), results_folder=str(data.folder.parent), **options)
    trainer.dl = package.cycle(DataLoader(trainer.ds, batch, shuffle=True))

    def sample(n: int) -> Tensor:
        drawn: Tensor = (diffusion if trainer.step < 1000 else trainer.ema.ema_model).sample(batch_size=n)
        return 2 * drawn - 1

    return Peer(trainer.train, lambda: [diffusion], batch, sample)


def pytorch_dcgan(data: Data, script: Path, width: int = 64, latent_dim: int = 100) -> Peer:
    """The script of PyTorch's examples as it is, executed anew by each call of the loop."""
    code, found = compile(script.read_text(), script, "exec"), dict[str, Any]()
    options = f"--dataset folder --workers 0 --niter {FOREVER} --manualSeed 0 --ngf {width} --ndf {width}"
    arguments = [
        *options.split(),
        "--nz",
        str(latent_dim),
        "--dataroot",
        str(data.folder),
        "--outf",
        str(data.folder.parent),
    ]

    def loop() -> None:
        found.clear()
        with mock.patch.object(sys, "argv", [str(script), *arguments]):
            exec(code, found)

    def sample(n: int) -> Tensor:
        images: Tensor = found["netG"](torch.randn(n, latent_dim, 1, 1))
        return F.adaptive_avg_pool2d(images, data.size)

    return Peer(loop, lambda: [found["netG"], found["netD"]], 64, sample, steps=2)


# --- Speed


@dataclass(frozen=True, slots=True)
class Case:
    """A peer, and the settings with which our recipe has a network of its size."""

    name: str
    size: int
    build: Callable[[Data], Peer]
    recipe: str
    settings: dict[str, Any]


def speed_cases(configs: Mapping[str, RunConfig], script: Path) -> list[Case]:
    same = {"linear": False, "output": "sigmoid", "sigma": 0.5**0.5}
    plain = same | {"norm": "batch", "activation": "leaky_relu"}
    pythae = plain | {"width": 128, "max_width": 1024, "latent_dim": 64, "slope": 0.0, "ending": "convolution"}
    vanilla = plain | {"width": 32, "max_width": 512, "latent_dim": 128, "slope": 0.01, "kernel": 3, "bottom": 2}
    glow = {"levels": 3, "steps": 8, "whitening_axes": 0}
    unet = {"width": 64, "multipliers": [1, 2, 2], "blocks": 2, "attention": [8], "patch": 1}
    unet |= {"prediction": "v", "filter_axes": 0, "variance": "small"}
    return [
        Case("pythae, VAE for CelebA", 64, partial(pythae_vae, batch=16), "vae", pythae),
        Case("pythae, our network", 64, partial(pythae_vae, config=configs["vae-64"], batch=16), "vae", same),
        Case("PyTorch-VAE, VanillaVAE", 64, pytorch_vae, "vae", vanilla),
        Case(
            "normflows, Glow", 32, partial(normflows_glow, steps=8, width=128, batch=32), "glow", glow | {"width": 128}
        ),
        Case("glow-pytorch", 32, partial(glow_pytorch, levels=3, steps=8, affine=True), "glow", glow | {"width": 512}),
        Case("denoising-diffusion-pytorch", 32, partial(denoising_diffusion, multipliers=(1, 2, 2)), "ddpm", unet),
        Case(
            "PyTorch's DCGAN",
            64,
            partial(pytorch_dcgan, script=script),
            "dcgan",
            {"width": 64, "latent_dim": 100, "linear": False},
        ),
    ]


def count(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def rate(loop: Callable[[], object], batch: int, steps: int, seconds: float) -> float:
    """Images per CPU second of a training, without its first iteration."""
    times = timed(loop, seconds, 3 * steps)
    return batch * (len(times) - 1 - steps) / steps / (times[-1] - times[steps])


def speed(case: Case, peer: Peer, data: Data, config: RunConfig, rounds: int, seconds: float) -> Iterator[Row]:
    """Two rows: our loop in both precisions beside the peer's."""
    trainings = []
    for precision in ("fp32", "bf16"):
        train = replace(config.train, batch_size=peer.batch, precision=precision)
        ours = replace(config, settings=config.settings | case.settings, train=train)
        trainings.append(training_of(ours, data.train, CPU))
    loops: list[Callable[[], object]] = [peer.loop, *(partial(forever, t.iterate) for t in trainings)]
    work = [flops_of(partial(timed, loop, 0, peer.steps)) / peer.batch / 1e9 for loop in loops]
    rates = [[rate(loop, peer.batch, peer.steps, seconds) for loop in loops] for _ in range(rounds)]
    theirs = Side(median(row[0] for row in rates), count(peer.modules()), work[0])
    for i, training in enumerate(trainings, 1):
        ours_ = Side(median(row[i] for row in rates), count([training.model]), work[i])
        what = f"images per CPU second, {case.name}, {data.size} px, batch {peer.batch}, {training.config.precision}"
        yield Row(what, ours_, theirs, [row[i] / row[0] for row in rates], ">= 1.5")


# --- Quality


def quality_cases(config: RunConfig, script: Path) -> dict[str, Callable[[Data], Peer]]:
    """The peers of a recipe at their default settings and, marked *, with a network of its size."""
    s = config.settings
    match config.recipe:
        case "vae":
            return {"pythae": pythae_vae, "pythae*": partial(pythae_vae, config=config), "PyTorch-VAE": pytorch_vae}
        case "glow":
            small = partial(normflows_glow, levels=s["levels"], steps=s["steps"], width=s["width"])
            return {"normflows": normflows_glow, "normflows*": small, "glow-pytorch": glow_pytorch}
        case "ddpm":
            unet = partial(denoising_diffusion, calls=s["sampling_steps"])
            small = partial(unet, dim=s["width"], multipliers=s["multipliers"])
            return {"denoising-diffusion-pytorch": unet, "denoising-diffusion-pytorch*": small}
        case _:
            gan = partial(pytorch_dcgan, script=script)
            small = partial(gan, width=s["width"] * config.size // 64, latent_dim=s["latent_dim"])
            return {"PyTorch's DCGAN": gan, "PyTorch's DCGAN*": small}


@torch.no_grad()
def measured(recipe: str, answer: Callable[..., Tensor], data: Data, images: int, samples: int) -> float:
    """The figure of a recipe's family, the lower the better, from what `Peer.answer` gives."""
    torch.manual_seed(1)
    test = data.test[:images]
    if recipe == "vae":
        return float(per_image(lambda x: mse(x, answer(x)), test, BATCH, CPU).mean())
    if recipe == "glow":
        nats = per_image(answer, test, BATCH, CPU, Draws(0, ["likelihood"]))
        return bits_per_dim(float(nats.mean()), test[0].size)
    with redirect_stderr(io.StringIO()):
        drawn = np.concatenate([to_pixels(answer(min(BATCH, samples - n))) for n in range(0, samples, BATCH)])
    return frechet_distance(data.embed(data.test), data.embed(drawn))


FIGURES = {"vae": "held-out MSE", "glow": "held-out bits/dim", "ddpm": "Frechet distance", "dcgan": "Frechet distance"}


def quality(config: RunConfig, data: Data, script: Path, seconds: float, images: int, samples: int) -> Iterator[Row]:
    """A row for each peer of a recipe, after trainings of equal CPU seconds."""
    training, took = trained(config, data, seconds)
    model: Any = training.ema.model.eval()
    sample = partial(model.sample, generator=torch.Generator().manual_seed(1))
    answer = {"vae": "reconstruct", "glow": "log_prob"}.get(config.recipe)
    value = measured(config.recipe, getattr(model, answer) if answer else sample, data, images, samples)
    ours = Side(value, count([training.model]), 0, training.images_shown, took)
    for name, build in quality_cases(config, script).items():
        if (peer := built(name, partial(build, data))) is None:
            continue
        times = timed(peer.loop, seconds)
        value = measured(config.recipe, peer.answer, data, images, samples)
        shown = (len(times) - 1) / peer.steps * peer.batch
        theirs = Side(value, count(peer.modules()), 0, shown, times[-1] - times[0])
        what = f"{FIGURES[config.recipe]}, {config.label}, {name}"
        yield Row(what, ours, theirs, [theirs.value / ours.value], "> 1")


def built(name: str, build: Callable[[], Peer]) -> Peer | None:
    """A peer, or None and a line where it is not there."""
    torch.manual_seed(0)
    try:
        return build()
    except (ImportError, FileNotFoundError) as error:
        print(f"left out: {name} ({error})", flush=True)
        return None


# --- Faces, settings and the table


def prepared(shipped: Params, root: Path, folder: Path) -> dict[int, Data]:
    """Preprocess the faces as the pipeline does, write them as PNG files too, and train the attribute networks."""
    faces = shipped.data.model_copy(update={"source": "celeba", "root": str(root.resolve())})
    gather(replace(download_config(shipped.model_copy(update={"data": faces})), ood=()), folder / "raw", folder / "new")
    asked, crop = shipped.preprocess, shipped.preprocess.crop
    box, sizes = (crop.left, crop.top, crop.right, crop.bottom), tuple(asked.sizes)
    preprocess(
        PreprocessConfig(sizes, box, asked.filter, asked.max_bad_share, 0, ()), folder / "raw", folder / "arrays"
    )
    settings: dict[str, Any] = at_scale(shipped.attribute_network, "demo")
    found = {}
    for size in sizes:
        train, valid, test = (load_faces(split, size, folder / "arrays") for split in ("train", "valid", "test"))
        network = train_attribute_network(train, valid, **settings, seed=0, device=CPU).requires_grad_(False)
        (png := folder / str(size) / "png" / "faces").mkdir(parents=True)
        for i, image in enumerate(train.images):
            Image.fromarray(image).save(png / f"{i:06d}.png")
        embed = partial(embedded, network.features, batch_size=BATCH, device=CPU)
        found[size] = Data(size, train.images, test.images, png.parent, embed)
    return found


def write_table(rows: Sequence[Row], about: str) -> None:
    """Write both files."""
    text, numbers = io.StringIO(), [row.numbers() for row in rows]
    writer = csv.DictWriter(text, list(numbers[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    write_text(HERE / "peers.csv", text.getvalue())
    head = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
    lines = [f"| {' | '.join(row.cells().values())} |" for row in rows]
    write_text(HERE / "peers.md", "\n".join([f"Measured by `benchmarks/peers.py` on {about}.", "", head, *lines, ""]))


def rows_of(asked: argparse.Namespace, configs: Sequence[RunConfig], data: Mapping[int, Data]) -> Iterator[Row]:
    script, by_label = asked.peers / "examples" / "dcgan" / "main.py", {config.label: config for config in configs}
    for case in speed_cases(by_label, script) if "speed" in asked.parts else ():
        if peer := built(case.name, partial(case.build, data[case.size])):
            config = by_label[f"{case.recipe}-{case.size}"]
            yield from speed(case, peer, data[case.size], config, asked.rounds, asked.speed_seconds)
    for config in configs if "quality" in asked.parts else ():
        if config.size in asked.sizes and config.recipe in asked.recipes:
            yield from quality(config, data[config.size], script, asked.seconds, asked.images, asked.samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder with CelebA's files")
    parser.add_argument("--peers", type=Path, required=True, help="folder with the peers")
    parser.add_argument("--parts", nargs="*", choices=("speed", "quality"), default=("speed", "quality"))
    parser.add_argument("--sizes", nargs="*", type=int, default=(32, 64), help="of quality, in pixels")
    parser.add_argument("--recipes", nargs="*", choices=list(FIGURES), default=list(FIGURES), help="of quality")
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of each training of quality")
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument(
        "--speed-seconds", type=float, default=8, help="CPU seconds of each side in each round of speed"
    )
    parser.add_argument("--images", type=int, default=500, help="held-out faces for MSE and bits/dim")
    parser.add_argument("--samples", type=int, default=200, help="for Frechet distances")
    parser.add_argument("--write", action="store_true", help="write benchmarks/peers.md and peers.csv")
    asked = parser.parse_args()
    asked.peers = asked.peers.resolve()
    sys.path += [str(asked.peers), *(str(asked.peers / clone) for clone in CLONES)]
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    shipped = parameters.load(Path("params.yaml"))
    runs = [f"{recipe}-{size}" for size in shipped.preprocess.sizes for recipe in FIGURES]
    configs = parameters.resolve(shipped.model_copy(update={"runs": runs, "seeds": [0], "scale": "demo"}), Path("src"))
    with tempfile.TemporaryDirectory() as folder:
        with chdir(folder):
            RuntimeConfig("cpu", 1, deterministic=False, experiment="benchmark").save()
            start_device()
        with redirect_stderr(io.StringIO()):
            data = prepared(shipped, asked.faces, Path(folder))
        same = [f"{frechet_distance(d.embed(d.test), d.embed(d.train[: asked.samples])):.3g}" for d in data.values()]
        about = (
            f"{machine()}. M: million parameters; GFLOP: of an image in training; *: a network of our size. As many "
        )
        about += f"training faces as samples have Frechet distances of {' and '.join(same)}"
        print(about)
        rows = []
        for row in rows_of(asked, configs, data):
            rows.append(row)
            print(" | ".join(row.cells().values()), flush=True)
            if asked.write:
                write_table(rows, about)


if __name__ == "__main__":
    main()
