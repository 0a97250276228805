"""Memory over many cycles of training and detection, in one process and in one viewer.

    python benchmarks/soak.py script [--cycles 200]
    xvfb-run -a python benchmarks/soak.py viewer [--cycles 60]
    xvfb-run -a python benchmarks/soak.py layers [--cycles 60]

``script`` trains, saves, loads, detects and writes. ``viewer`` trains and detects with the buttons of the plugin, and
removes the result layers each time. ``layers`` is the control: layers as large, added and removed in napari without the
plugin. Printed are resident memory, Python objects, threads, descriptors and temporary files, and the growth in a cycle
over the last three quarters, with its standard error. What grows in ``layers``, too, is napari's own.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_COLUMNS = ("memory / MB", "objects", "threads", "descriptors", "temporary files")


class Curves:
    """Measurements after each cycle, printed ten times in all."""

    def __init__(self, cycles: int, temporary: Path) -> None:
        self._cycles, self._temporary = cycles, temporary
        self._process = psutil.Process()
        self._rows: list[tuple[float, ...]] = []

    def measure(self) -> None:
        """Measure the end of a cycle."""
        gc.collect()
        self._rows.append(
            (
                self._process.memory_info().rss / 1e6,
                len(gc.get_objects()),
                self._process.num_threads(),
                self._process.num_fds(),
                sum(1 for _ in self._temporary.rglob("*")),
            )
        )
        n = len(self._rows)
        if n == 1 or n % max(1, self._cycles // 10) == 0:
            print(
                f"cycle {n:>4}: " + ", ".join(f"{c} {v:.0f}" for c, v in zip(_COLUMNS, self._rows[-1], strict=True)),
                flush=True,
            )

    def conclude(self) -> None:
        """Print the growth in a cycle."""
        rows = np.array(self._rows)[self._cycles // 4 :]
        cycle = np.arange(len(rows))
        for column, values in zip(_COLUMNS, rows.T, strict=True):
            (slope, _), covariance = np.polyfit(cycle, values, 1, cov=True)
            print(f"{column}: {slope:+.3f} ± {covariance[0, 0] ** 0.5:.3f} in a cycle")


def script(curves: Curves, cycles: int) -> None:
    """Train, save, load, detect, write."""
    import torch

    from napari_uflow import (
        ModelConfig,
        NormalRegion,
        TrainingConfig,
        detect,
        load_model,
        read_planes,
        save_model,
        train,
        write_fibre_dataset,
        write_tiff,
    )

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    write_fibre_dataset(folder, shape=(128, 128), n_train=6, n_test_good=2, n_test_defective=3)
    images = sorted((folder / "train").rglob("*.png"))
    image = sorted((folder / "test").rglob("*.png"))[0]
    for seed in range(cycles):
        normal = [NormalRegion(plane, None, path.stem) for path in images for plane in read_planes(path)]
        model = train(
            normal,
            ModelConfig(tile=64),
            TrainingConfig(steps=2, check_every=1, augmentations=1, batch_size=4, seed=seed),
        )
        save_model(folder / "model.safetensors", model)
        found = detect(load_model(folder / "model.safetensors"), read_planes(image)[0])
        write_tiff(folder / "heatmap.tif", found.score, "YX")
        curves.measure()


def _events(seconds: float) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.001)


def _viewer() -> Any:
    os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp(), "settings.yaml"))
    from napari_uflow._napari.session.libraries import make_torch_safe

    make_torch_safe()
    import napari

    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1200, 800)
    return viewer


def _remove(window: Any, own: set[Any]) -> None:
    """Remove the layers that are not among ``own``; napari 0.9 crashed where several went between two drawings."""
    for layer in [layer for layer in window.layers if layer not in own]:
        window.layers.remove(layer)
        _events(0.2)


def viewer(curves: Curves, cycles: int) -> None:
    """Train and detect with the panels' buttons; remove the results."""
    window = _viewer()
    import torch

    from napari_uflow._napari.session.runner import State
    from napari_uflow._napari.session.session import session_of

    torch.set_num_threads(1)
    window.open_sample("napari-uflow", "normal_fibres")
    window.open_sample("napari-uflow", "defective_fibres")
    panels = {
        name: window.window.add_plugin_dock_widget("napari-uflow", name, tabify=True)[1]
        for name in ("Train", "Detect", "Anomalies")
    }
    train, detect = panels["Train"], panels["Detect"]
    train.normal_images.images.set_layers([window.layers["Fibres, normal"]])
    fields = train.new_model.training_form.fields
    for name, value in {"steps": 2, "check_every": 1, "augmentations": 1, "max_tiles": 12, "batch_size": 4}.items():
        fields[name].value = value
    detect.image.set_layer(window.layers["Fibres, with defects"])
    runner = session_of(window).runner
    own = set(window.layers)

    def finish() -> None:
        end = time.monotonic() + 300
        while runner.state is not State.IDLE:
            if time.monotonic() > end:
                raise TimeoutError("the job does not end")
            _events(0.02)
        _events(0.2)

    for _ in range(cycles):
        train.job_bar.button.click()
        finish()
        detect.job_bar.button.click()
        finish()
        if own.issuperset(window.layers):
            raise RuntimeError(f"no results: {train.job_bar.status.text()} {detect.job_bar.status.text()}")
        _remove(window, own)
        _events(0.2)
        curves.measure()


def layers(curves: Curves, cycles: int) -> None:
    """Add and remove two image layers and a labels layer of the same size as the plugin's results."""
    window = _viewer()

    window.open_sample("napari-uflow", "defective_fibres")
    shape = window.layers[0].data.shape
    rng = np.random.default_rng(0)
    own = set(window.layers)
    for _ in range(cycles):
        for _ in range(2):
            window.add_image(rng.random(shape, np.float32), colormap="inferno", blending="additive")
        window.add_labels(rng.integers(0, 3, shape))
        _events(0.5)
        _remove(window, own)
        _events(0.2)
        curves.measure()


_WHAT: dict[str, tuple[Callable[[Curves, int], None], int]] = {
    "script": (script, 200),
    "viewer": (viewer, 60),
    "layers": (layers, 60),
}


def main() -> None:
    """Run the cycles and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=_WHAT)
    parser.add_argument("--cycles", type=int, help="200 for script, else 60")
    options = parser.parse_args()
    cycle, n = _WHAT[options.what]
    n = options.cycles or n
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        curves = Curves(n, Path(folder))
        cycle(curves, n)
        curves.conclude()
        os.chdir(folder)
    os._exit(0)  # the window's own end is not measured


if __name__ == "__main__":
    main()
