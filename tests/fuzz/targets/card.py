"""Changed cards of model files, with checksums that fit them: shown, loaded and used."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

from safetensors.torch import load, save
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutated_bytes, mutated_json
from tests.fuzz.targets.model import card_of, seeds

from napari_uflow.cli import main
from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.card import CARD, read_card
from napari_uflow.store.checkpoint import load_model

_SUMS = ("sha256_of_card", "sha256_of_weights")


def _make(rng: random.Random, folder: Path) -> Path:
    data = rng.choice(seeds())
    card = card_of(data)
    if rng.random() < 0.9:
        for name in _SUMS:
            card.pop(name, None)
    if rng.random() < 0.85:
        text = json.dumps(mutated_json(rng, card))
    else:
        text = mutated_bytes(rng, json.dumps(card).encode()).decode("utf-8", "replace")
    path = folder / "model.safetensors"
    path.write_bytes(save(load(data), {CARD: text}))
    return path


def _use(path: Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for options in ([], ["--json"]):
            assert main(["show", str(path), *options]) in (0, 2)
    unsafe = [c for c in printed.getvalue() if c < " " and c not in "\n\t"]
    assert not unsafe, f"printed {unsafe[:5]}"
    read_card(path)
    found = detect(load_model(path), Plane(data=fibre_field(9, shape=(112, 128)).image, name="new"), device="cpu")
    found.guarantee.text()


TARGET = Target("card", _make, _use)
