"""Changed model files: bytes of the header and of the tensors; values, types and shapes of the tensors."""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load, save
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutated_bytes

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.card import CARD
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.train import train

_DATA = Path(__file__).parents[2] / "data"
_TYPES = (torch.int64, torch.int8, torch.float16, torch.float64, torch.bfloat16, torch.complex64, torch.bool)
_NUMBERS = (0.0, 0.5, 1.0, 2.0, -1.0, -1e-3, 1e3, 1e-30, 1e10, 1e20, 1e38, float("nan"), float("inf"), -float("inf"))


@cache
def seeds() -> list[bytes]:
    """Return model files to change: of the current format, and of the first one."""
    planes = [Plane(data=fibre_field(i, shape=(192, 192)).image, name=f"fibres {i}") for i in range(3)]
    training = TrainingConfig(steps=1, batch_size=2, augmentations=1, holdout=0.3)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for config in (ModelConfig(backbone="scattering", tile=64, flow_steps=1, memory_size=200), _pyramid()):
            model = train([NormalRegion(plane) for plane in planes], config, training, device="cpu")
            save_model(Path(folder, "model.safetensors"), model)
            found.append(Path(folder, "model.safetensors").read_bytes())
    return [*found, gzip.decompress((_DATA / "format_1_keep.safetensors.gz").read_bytes())]


def _pyramid() -> ModelConfig:
    return ModelConfig(backbone="scattering", tile=64, flow_steps=1, levels="pyramid")


def card_of(data: bytes) -> dict[str, object]:
    """Return the card of a model file."""
    length = int.from_bytes(data[:8], "little")
    card: dict[str, object] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][CARD])
    return card


def _make(rng: random.Random, folder: Path) -> Path:
    data = rng.choice(seeds())
    path = folder / "model.safetensors"
    if rng.random() < 0.3:
        end = 8 + int.from_bytes(data[:8], "little")
        first, last = rng.choice(((0, 8), (8, end), (end, len(data)), (0, len(data))))
        path.write_bytes(mutated_bytes(rng, data, first, last))
        return path
    state, card = load(data), card_of(data)
    if rng.random() < 0.7:
        card.pop("sha256_of_weights", None)  # otherwise its check alone is tested
    for name in rng.sample(sorted(state), rng.choice((1, 1, 2, 10))):
        _change(rng, state, name)
    path.write_bytes(save(state, {CARD: json.dumps(card)}))
    return path


def _change(rng: random.Random, state: dict[str, torch.Tensor], name: str) -> None:
    values = state[name]
    match rng.randrange(24):
        case 0:
            del state[name]
        case 1:
            state[name] = values.to(rng.choice(_TYPES))
        case 2:
            state[name] = values.reshape(-1)[: rng.choice((0, 1, 7))].clone()
        case 3:
            state[rng.choice(("evil", "backbone.evil", f"coarser.{name}", f"{name}2"))] = values.clone()
        case 4:
            state[name] = values[..., :-1].clone() if values.ndim else values[None].clone()
        case 5 if values.is_floating_point():
            state[name] = torch.full_like(values, rng.choice(_NUMBERS))
        case _:
            changed = values.clone().reshape(-1)
            if len(changed):
                number = rng.choice(_NUMBERS) if values.is_floating_point() else rng.randrange(-(2**31), 2**31)
                changed[rng.randrange(len(changed))] = number
            state[name] = changed.reshape(values.shape)


def _use(path: Path) -> None:
    model = load_model(path)
    detect(model, Plane(data=fibre_field(9, shape=(112, 128)).image, name="new"), device="cpu")


seeds()  # before the processes are forked
TARGET = Target("model", _make, _use)
