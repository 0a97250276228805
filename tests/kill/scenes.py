"""The scenes: a training with snapshots, the save of a model, a detection in files."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
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

    def detect(place: Path, model: Path, *more: str) -> int:
        return main(["detect", str(model), str(images), "-o", str(place / "found"), "--device", "cpu", *more])

    # Work in this process compiles what the forks need. A snapshot a minute would be none in these short trainings.
    importlib.import_module("napari_uflow.training.optimise")._SECONDS_BETWEEN_SNAPSHOTS = 0.0
    old, new = folder / "old.safetensors", folder / "new.safetensors"
    for path, steps in ((old, 1), (new, 2)):
        assert train(path, steps) == 0
    results = []
    for path in (old, new):
        place = folder / f"results of {path.stem}"
        place.mkdir()
        assert detect(place, path) == 0
        results.append(place / "found")
    earlier, whole = ({path.name: path.read_bytes() for path in found.iterdir()} for found in results)
    same = {name for name in earlier if earlier[name] == whole[name]}  # images without a region
    assert not any(name.endswith(("heatmap.tif", "nfa.tif", "summary.csv")) for name in same), same
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
        shutil.copytree(results[0], place / "found")

    def look_at_results(place: Path) -> str:
        """Tables and maps must be of one run, or marked as unfinished; the rest is then done by resuming it."""
        found = place / "found"
        remove_leftovers(found)
        files = {path.name: path.read_bytes() for path in found.iterdir() if not path.name.startswith(".")}
        if "unfinished.jsonl" not in files:
            assert files in (earlier, whole), sorted(files)
            return "earlier results" if files == earlier else "new results"
        for name in files:
            _read(found / name)
        maps = {name for name in files if name.endswith(".tif")}
        new_maps = {name for name in maps - same if files[name] == whole[name]}
        assert all(files[name] == earlier[name] for name in maps - new_maps)
        assert not new_maps or files["summary.csv"] != earlier["summary.csv"], "new maps beside an earlier table"
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            assert detect(place, new, "--resume") == 0
        assert {path.name: path.read_bytes() for path in found.iterdir() if not path.name.startswith(".")} == whole
        n_images = sum(name.endswith("heatmap.tif") for name in new_maps)
        return f"unfinished with {n_images} new images, and resumed"

    return {
        scene.name: scene
        for scene in (
            Scene("training", with_old_model, lambda place: train(place / _OUTPUT, 12), look_at_models),
            Scene("saving", with_old_model, lambda place: save_somewhere(place / _OUTPUT, model)[1], look_at_models),
            Scene("detecting", with_old_results, lambda place: detect(place, new), look_at_results),
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
