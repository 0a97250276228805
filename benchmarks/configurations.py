"""Time of the default model relative to other configurations, on one machine in one run.

    python benchmarks/configurations.py [--rounds 3] [--images 16] [--side 256] [--steps 60]

Each round trains every configuration on drawn fibres and detects in images with defects. Times are CPU times, summed
over cores; the table has the medians, and the ratios to the first row with their range over the rounds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.training.train import train

CONFIGURATIONS = {
    "default": ModelConfig(),
    "one octave": ModelConfig(octaves=1),
    "memory of 500": ModelConfig(memory_size=500),
    "magnification 2": ModelConfig(magnification=2.0),
    "scattering, pyramid": ModelConfig(backbone="scattering", levels="pyramid", contrast=1.0),
}


def measured(config: ModelConfig, normal: list[Plane], tested: list[Plane], steps: int) -> tuple[float, float]:
    """Return the seconds of a training and of a detection."""
    began = time.process_time()
    regions = [NormalRegion(plane) for plane in normal]
    model = train(regions, config, TrainingConfig(steps=steps, check_every=max(1, steps // 4)))
    trained = time.process_time()
    network = model.network()
    detect(model, tested[0], network=network)
    loaded = time.process_time()
    for plane in tested:
        detect(model, plane, network=network)
    return trained - began, (time.process_time() - loaded) / len(tested)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    shape = (options.side, options.side)
    fields = [fibre_field(seed, shape=shape).image for seed in range(options.images)]
    normal = [Plane(data=field, name=f"fibres {i}") for i, field in enumerate(fields)]
    tested = [Plane(data=fibre_field(1000 + seed, shape=shape, defects=2).image) for seed in range(8)]
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in CONFIGURATIONS}
    for _ in range(options.rounds):
        for name, config in CONFIGURATIONS.items():
            rows[name].append(measured(config, normal, tested, options.steps))
    first = np.array(rows["default"])
    print(f"{options.images} images of {options.side} x {options.side} pixels, {options.steps} steps\n")
    print("| configuration | training | of the default's | detection | of the default's |")
    print("|---|---|---|---|---|")
    for name, values in rows.items():
        table = np.array(values)
        ratios = table / first
        cells = [
            f"{np.median(table[:, i]):.2f} s | {np.median(ratios[:, i]):.2f} ({ratios[:, i].min():.2f} to "
            f"{ratios[:, i].max():.2f})"
            for i in range(2)
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
