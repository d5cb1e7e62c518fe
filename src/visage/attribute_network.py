"""The pipeline's own network that recognises a face's attributes, in whose features samples are compared with faces.

It is trained once for each size, on real images alone, before any model and apart from them all. Its last layer but one
is the space in which sets of images are compared where Inception's weights are missing: a Frechet distance there is
never called FID, and every figure carries the hash of the weights.

Layout of the folder, `data/attribute_network`:

    <size>/network.safetensors, train_features.npy   (N, 128) float32, of the training images as they are, not mirrored
    <size>/about.json                                `About`: how well it recognises attributes, or why there is none
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from visage.config import AttributeNetworkConfig
from visage.data.arrays import Faces, load_faces
from visage.errors import UserError
from visage.files import Strict, read_typed, replacing_folder, write_json
from visage.inference.batches import batches
from visage.measures.intervals import auroc
from visage.training.feed import Feed
from visage.weights import load_weights, save_weights, weights_hash

FEATURES = 128
"""Dimensions of the space in which images are compared."""
WIDTHS = (32, 64, 128, 256)
"""Channels after each halving of the resolution."""
VALIDATIONS = 8
"""Moments of the training, evenly spaced, of which the one with the best validation loss is kept."""
BATCH = 64
"""Images that the network sees at a time: bounds the memory."""
NO_ATTRIBUTES = "these images have no attributes to learn from"
AGAIN = "run `dvc repro -f attribute_network`"


class AttributeNetwork(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch normalisation, a mean over places, two linear layers.

    names: the A attributes that it recognises, in the order of its outputs.
    Smaller than it might be, so that two CPU cores train it in seconds: the resolution is halved from the start.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        layers: list[nn.Module] = []
        for before, after in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.last = nn.Linear(WIDTHS[-1], FEATURES)
        self.head = nn.Linear(FEATURES, len(self.names))

    def features(self, x: Tensor) -> Tensor:
        """(B, 128), none negative, for x (B, 3, S, S) in [-1, 1]."""
        return F.relu(self.last(self.trunk(x).mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, A) of the attributes for x (B, 3, S, S) in [-1, 1]."""
        logits: Tensor = self.head(self.features(x))
        return logits


@dataclass(frozen=True, slots=True)
class About(Strict):
    """What is known of the network of one size: `about.json`.

    why_not: why there is none, "" where there is one.
    names: the A attributes that it recognises. weights_hash: `visage.weights.weights_hash` of it.
    test_auroc: how well it recognises each attribute of test faces; without those that all of them have, or none has.
    auroc: their mean, None where there are none. n: test faces behind it. kimg: length of its training.
    """

    why_not: str
    names: list[str]
    weights_hash: str
    test_auroc: dict[str, float]
    auroc: float | None
    n: int
    kimg: float


@dataclass(frozen=True, slots=True)
class TrainedAttributeNetwork:
    """A trained network, in eval mode and frozen, and what is known of it.

    names: the A attributes that it recognises. weights_hash: of its weights.
    train_features: (N, 128) float32, read-only, of the training images in their order.
    """

    network: AttributeNetwork
    names: Sequence[str]
    weights_hash: str
    train_features: NDArray[np.float32]

    @property
    def name(self) -> str:
        """What notes call it."""
        return f"the attribute network {self.weights_hash[:12]}"


def learnable(train: Faces) -> list[str]:
    """The attributes that some training images have and others lack."""
    varies = train.attributes.min(0, initial=1) != train.attributes.max(0, initial=0)
    return [name for name, kept in zip(train.names, varies, strict=True) if kept]


def train_attribute_network(
    train: Faces, valid: Faces, *, kimg: float, batch_size: int, lr: float, seed: int, device: torch.device
) -> AttributeNetwork:
    """Train a network to recognise the learnable attributes: cross-entropy, Adam, a cosine down to 0, random flips.

    kimg: thousands of training images to show, in batches of `batch_size` or of all images if they are fewer.
    lr: learning rate at the start. The same seed gives the same network.
    Returns the network, in eval mode, at the moment that recognises the attributes of the validation images best.
    """
    names = learnable(train)
    batch_size = min(batch_size, len(train.images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AttributeNetwork(names)
    network = network.to(device).to(memory_format=torch.channels_last)
    feed = Feed(train.images, train.columns(names), batch_size=batch_size, flip=True, seed=seed, device=device)
    steps = max(1, round(kimg * 1000 / batch_size))
    optimizer = torch.optim.Adam(network.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    moments = {round(steps * (i + 1) / VALIDATIONS) for i in range(VALIDATIONS)}
    best, weights = float("inf"), network.state_dict()
    size = train.images.shape[1]
    for step in tqdm(range(1, steps + 1), desc=f"attribute network, {size} px", unit="step", mininterval=0.5):
        batch = feed.next()
        loss = F.binary_cross_entropy_with_logits(network.train()(batch.x), batch.y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if step in moments:
            found = _loss(network, valid, device)
            if found < best:
                best, weights = found, copy.deepcopy(network.state_dict())
    network.load_state_dict(weights)
    return network.eval()


def _loss(network: AttributeNetwork, faces: Faces, device: torch.device) -> float:
    logits = torch.from_numpy(_answers(network.eval(), faces.images, device))
    y = torch.from_numpy(faces.columns(network.names)).float()
    return float(F.binary_cross_entropy_with_logits(logits, y))


def make_attribute_networks(
    config: AttributeNetworkConfig, processed: Path, out: Path, device: torch.device
) -> dict[str, dict[str, float]]:
    """Train a network for each size and write `out`, whole or not at all.

    processed: the folder that `visage.data.arrays` describes.
    Returns the figures for `dvc metrics`: size -> {"auroc": mean over attributes, of test faces}; sizes without a
    network, and networks whose test faces are all alike, are left out.

    Raises:
        UserError: an array is missing.
    """
    figures: dict[str, dict[str, float]] = {}
    with replacing_folder(out) as folder:
        for size in config.sizes:
            about = _make(config, size, processed, folder / str(size), device)
            if about.auroc is not None:
                figures[str(size)] = {"auroc": round(about.auroc, 6)}
    return figures


def _make(config: AttributeNetworkConfig, size: int, processed: Path, out: Path, device: torch.device) -> About:
    """Train the network of one size and write its folder."""
    train, valid, test = (load_faces(split, size, processed) for split in ("train", "valid", "test"))
    out.mkdir()
    if learnable(train):
        network = train_attribute_network(
            train, valid, kimg=config.kimg, batch_size=config.batch_size, lr=config.lr, seed=config.seed, device=device
        )
        each = _auroc(test.columns(network.names), _answers(network, test.images, device), network.names)
        about = About(
            why_not="",
            names=list(network.names),
            weights_hash=weights_hash(network),
            test_auroc=each,
            auroc=float(np.mean(list(each.values()))) if each else None,
            n=len(test.images),
            kimg=config.kimg,
        )
        save_weights(out / "network.safetensors", network.state_dict())
        np.save(out / "train_features.npy", _answers(network, train.images, device, features=True))
    else:
        about = About(NO_ATTRIBUTES, [], "", {}, None, 0, 0.0)
    write_json(out / "about.json", asdict(about))
    return about


def _auroc(y: NDArray[np.uint8], logits: NDArray[np.float32], names: Sequence[str]) -> dict[str, float]:
    """The area under the ROC curve of each attribute that some images have and others lack."""
    scores = logits.astype(np.float64)
    return {
        name: auroc(scores[y[:, i] == 0, i], scores[y[:, i] == 1, i])
        for i, name in enumerate(names)
        if y[:, i].min(initial=1) != y[:, i].max(initial=0)
    }


@torch.no_grad()
def _answers(
    network: AttributeNetwork, images: NDArray[np.uint8], device: torch.device, *, features: bool = False
) -> NDArray[np.float32]:
    """Logits (n, A), or features (n, 128), of (n, S, S, 3) uint8 images."""
    ask = network.features if features else network
    return torch.cat([ask(x).cpu() for x in batches(images, BATCH, device)]).numpy()


def load_attribute_network(folder: Path, size: int, device: torch.device) -> TrainedAttributeNetwork | str:
    """The network of one image size, on the device; where there is none, why.

    folder: what `make_attribute_networks` wrote.

    Raises:
        UserError: a file is missing or damaged, or the weights are not those that about.json names.
    """
    home = folder / str(size)
    about = read_typed(home / "about.json", About, "run `dvc repro attribute_network`")
    if about.why_not:
        return about.why_not
    try:
        features = np.load(home / "train_features.npy", mmap_mode="r", allow_pickle=False)
        weights = load_weights(home / "network.safetensors")
    except FileNotFoundError as error:
        raise UserError(f"{home} is incomplete: {AGAIN}") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{home / 'train_features.npy'} cannot be read ({error}): {AGAIN}") from error
    network = AttributeNetwork(about.names)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{home / 'network.safetensors'} is of another network: {AGAIN}") from error
    if weights_hash(network) != about.weights_hash:
        raise UserError(f"{home / 'network.safetensors'} does not hold the weights that about.json names: {AGAIN}")
    network = network.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)
    return TrainedAttributeNetwork(network, tuple(about.names), about.weights_hash, features)
