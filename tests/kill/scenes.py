"""The scenes: a training with snapshots, the save of a model, a detection in files."""

from __future__ import annotations

import csv
import importlib
import shutil
from pathlib import Path

from PIL import Image

from napari_uflow.cli import main
from napari_uflow.samples.dataset import write_fibre_dataset
from napari_uflow.store.checkpoint import load_model, save_somewhere
from napari_uflow.store.files import remove_leftovers
from napari_uflow.store.images import read_planes
from napari_uflow.training.snapshots import interrupted

from .harness import Scene

__all__ = ["make_scenes"]

_FAST = "--backbone scattering --tile 64 --flow-steps 2 --augmentations 1 --batch-size 2 --check-every 1 --device cpu"
_OUTPUT = "model.safetensors"


def make_scenes(folder: Path) -> dict[str, Scene]:
    """Return the scenes by name, with their images and models in a folder."""
    data = write_fibre_dataset(folder / "data", n_train=4, n_test_good=3, n_test_defective=3, shape=(128, 128))
    normal, images = data / "train" / "good", folder / "images"
    images.mkdir()
    for number, path in enumerate(sorted((data / "test").rglob("*.png"))):
        shutil.copy(path, images / f"{number}.png")
    options = f"{_FAST} --learning-rate 0.003 --holdout 0 --patience 1000".split()

    def train(output: Path, steps: int) -> int:
        return main(["train", str(normal), "-o", str(output), "--steps", str(steps), *options])

    def detect(place: Path) -> int:
        return main(["detect", str(old), str(images), "-o", str(place / "found"), "--device", "cpu"])

    # Work in this process compiles what the forks need. A snapshot a minute would be none in these short trainings.
    importlib.import_module("napari_uflow.training.optimise")._SECONDS_BETWEEN_SNAPSHOTS = 0.0
    old, new = folder / "old.safetensors", folder / "new.safetensors"
    for path, steps in ((old, 1), (new, 2)):
        assert train(path, steps) == 0
    warm = folder / "warm"
    warm.mkdir()
    assert detect(warm) == 0
    model = load_model(new)

    def with_old_model(place: Path) -> None:
        shutil.copy(old, place / _OUTPUT)

    def look_at_models(place: Path) -> str:
        remove_leftovers(place)
        names = {path.name for path in place.iterdir()} - {".log"}
        snapshots = interrupted(place, f"{_OUTPUT}.")
        assert names == {_OUTPUT, *(path.name for path in snapshots)}, names
        for path in snapshots:
            assert load_model(path).history
        steps = load_model(place / _OUTPUT).training.steps
        return f"{'old' if steps == 1 else 'new'} model{' and snapshot' * len(snapshots)}"

    def with_old_results(place: Path) -> None:
        shutil.copytree(warm / "found", place / "found")

    def look_at_results(place: Path) -> str:
        found = place / "found"
        remove_leftovers(found)
        names = {path.name for path in found.iterdir() if not path.name.startswith(".")}
        expected = {path.name for path in (warm / "found").iterdir()}
        assert names == expected, names ^ expected
        for path in found.iterdir():
            _read(path)
        return "complete files"

    return {
        scene.name: scene
        for scene in (
            Scene("training", with_old_model, lambda place: train(place / _OUTPUT, 12), look_at_models),
            Scene("saving", with_old_model, lambda place: save_somewhere(place / _OUTPUT, model)[1], look_at_models),
            Scene("detecting", with_old_results, detect, look_at_results),
        )
    }


def _read(path: Path) -> None:
    """Read a result as a whole; raise if a part of it is missing."""
    if path.suffix == ".tif":
        for plane in read_planes(path):
            plane.read()
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert {len(row) for row in rows} == {len(rows[0])}, path
        assert path.read_bytes().endswith(b"\n"), path
