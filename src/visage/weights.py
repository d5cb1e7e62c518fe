"""Weights as files: safetensors, never a pickle; and the hash by which results name them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visage.errors import UserError
from visage.files import replacing


def weights_hash(module: nn.Module) -> str:
    """Hex digest of the names, types, shapes and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all."""
    with replacing(path) as temporary:
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged.
    """
    try:
        weights: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and run `dvc repro` again") from error
    return weights
