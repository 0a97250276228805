"""Speed and memory compared with anomalib's U-Flow, on the same machine in the same run.

    pip install anomalib          (in a separate environment: it needs other versions of common libraries)
    python benchmarks/against_anomalib.py [--backbone resnet18] [--tiles 16] [--batch 8] [--rounds 5]

Both have the same network (flow steps, subnets, tile size) with random weights; nothing is downloaded. Tiles are in
memory, so reading files is excluded. An epoch uses each tile once; our first epoch also fills the feature cache and is
listed separately. Our detection includes the heatmap and the regions of the false-alarm test, that of anomalib the
heatmap. The rounds alternate; the table has the median of the ratios and their range. Memory is the largest resident
size of a process with a single task above that after building the network.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.progress import Progress
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.system.devices import free_memory


def tiles_of(n: int, side: int) -> list[np.ndarray]:
    """Draw square images."""
    return [fibre_field(seed, shape=(side, side)).image for seed in range(n)]


def without_downloads() -> None:
    """Replace pre-trained weights by random ones."""
    original = timm.create_model

    def make(*args, **options):
        return original(*args, **{**options, "pretrained": False})

    timm.create_model = make
    for name in ("napari_uflow.model.uflow", "napari_uflow.training.train"):
        importlib.import_module(name).load_pretrained = _leave_random


def _leave_random(backbone: object, weights: object = None) -> str:  # noqa: ARG001
    return "random weights"


class Ours:
    """Train and detect with this package."""

    def __init__(self, backbone: str, side: int, tiles: list[np.ndarray], batch: int) -> None:
        self._model = ModelConfig(backbone=backbone, tile=side if backbone != "mcait" else 256, border="reflect")
        self._regions = [NormalRegion(Plane(data=tile, name=str(i))) for i, tile in enumerate(tiles)]
        self._planes = [region.plane for region in self._regions]
        self._batch = batch
        self.model = None
        self._network = None

    def train(self, n_epochs: int) -> tuple[float, float]:
        """Return seconds until the first step, and of an epoch after it."""
        from napari_uflow.training.train import train

        steps = max(1, len(self._regions) // self._batch) * n_epochs
        training = TrainingConfig(
            steps=steps, batch_size=self._batch, augmentations=1, holdout=0.0, check_every=min(10_000, steps + 1)
        )
        times: list[float] = []
        began = time.perf_counter()

        def hear(event: object) -> None:
            if isinstance(event, Progress) and event.phase == "Training":
                times.append(time.perf_counter())

        self.model = train(self._regions, self._model, training, device="cpu", on_event=hear)
        self._network = self.model.network()
        first = times[0] - began
        per_step = (times[-1] - times[0]) / max(1, len(times) - 1)
        return first, per_step * max(1, len(self._regions) // self._batch)

    def detect(self) -> float:
        """Return seconds for all images."""
        began = time.perf_counter()
        for plane in self._planes:
            detect(self.model, plane, DetectionConfig(), network=self._network)
        return time.perf_counter() - began


class Theirs:
    """Train and detect with anomalib, by its public classes."""

    def __init__(self, backbone: str, side: int, tiles: list[np.ndarray], batch: int) -> None:
        from anomalib.models.image.uflow.loss import UFlowLoss
        from anomalib.models.image.uflow.torch_model import UflowModel

        self._model = UflowModel(input_size=(side, side), backbone=backbone)
        self._loss = UFlowLoss()
        self._tiles = torch.from_numpy(np.stack(tiles)).float()[:, None].expand(-1, 3, -1, -1) / 255
        self._batch = batch
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimiser = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-5)

    def train(self, n_epochs: int) -> tuple[float, float]:
        """Return seconds of the first epoch, and of an epoch after it."""
        self._model.train()
        seconds = []
        for _ in range(n_epochs):
            began = time.perf_counter()
            for batch in self._tiles.split(self._batch):
                self._optimiser.zero_grad()
                z, ln_det = self._model(batch)
                self._loss(z, ln_det).backward()
                self._optimiser.step()
            seconds.append(time.perf_counter() - began)
        return seconds[0], float(np.mean(seconds[1:]))

    def detect(self) -> float:
        """Return seconds for all images."""
        self._model.eval()
        began = time.perf_counter()
        with torch.no_grad():
            for batch in self._tiles.split(self._batch):
                self._model(batch)
        return time.perf_counter() - began


def resident() -> float:
    """Return resident memory in GB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e6


def peak_of(run: Callable[[], object]) -> float:
    """Return the rise of resident memory during a call, in GB."""
    before, most, is_over = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    is_over.set()
    watcher.join()
    return most[0] - before


def memory(options: argparse.Namespace, who: str, what: str) -> float:
    """Measure in a separate process."""
    command = [sys.executable, __file__, "--backbone", options.backbone, "--tiles", str(options.tiles)]
    command += ["--batch", str(options.batch), "--memory-of", who, what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", choices=["resnet18", "wide_resnet50_2", "mcait"])
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    without_downloads()
    side = 448 if options.backbone == "mcait" else 256
    tiles = tiles_of(options.tiles, side)
    if options.memory_of:
        who, what = options.memory_of
        one = {"ours": Ours, "theirs": Theirs}[who](options.backbone, side, tiles, options.batch)
        if what == "train":
            print(json.dumps(peak_of(lambda: one.train(2))))
        else:
            if who == "ours":
                one.train(1)
            free_memory(torch.device("cpu"))  # memory of the training would be used again
            print(json.dumps(peak_of(one.detect)))
        return
    ours = Ours(options.backbone, side, tiles, options.batch)
    theirs = Theirs(options.backbone, side, tiles, options.batch)
    table = np.array(
        [
            (*ours.train(options.epochs), *theirs.train(options.epochs), ours.detect(), theirs.detect())
            for _ in range(options.rounds)
        ]
    )
    print(f"{options.backbone}, {options.tiles} tiles of {side} x {side}, batches of {options.batch}; seconds")
    print(f"{'':<34}{'ours':>10}{'anomalib':>10}{'anomalib / ours':>18}{'range':>16}")
    per_thousand = 1000 / options.tiles
    for name, mine, its, factor in (
        ("an epoch after the first", 1, 3, 1.0),
        ("the first epoch (ours: with cache)", 0, 2, 1.0),
        ("1,000 tiles detected", 4, 5, per_thousand),
    ):
        ratios = table[:, its] / table[:, mine]
        print(
            f"{name:<34}{np.median(table[:, mine]) * factor:>10.2f}{np.median(table[:, its]) * factor:>10.2f}"
            f"{np.median(ratios):>18.2f}{f'{ratios.min():.2f} - {ratios.max():.2f}':>16}",
            flush=True,
        )
    for what in ("train", "detect"):
        mine, its = memory(options, "ours", what), memory(options, "theirs", what)
        print(f"{f'memory to {what}, GB':<34}{mine:>10.2f}{its:>10.2f}{its / max(mine, 1e-3):>18.2f}")


if __name__ == "__main__":
    main()
