"""Time of a detection relative to that of its network, the forward passes of backbone and flow.

    python benchmarks/detection_overhead.py [--backbones scattering resnet18] [--sides 256 512 1024 2048] [--rounds 5]

The network has random weights. Backbone and flow are timed on an image of 512 x 512 pixels, without tiles, halos or
chunks, and their time per pixel is scaled to the size of the image. That size suits the caches, so the ratio includes
everything else that a detection does (overlapping halos, scores, heatmap, regions, table). The rounds alternate; the
table has the medians, and the median of the ratios with their range.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import score_steps
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.progress import drain
from napari_uflow.samples.fibres import fibre_field

SIDE = 512


def model_of(backbone: str) -> TrainedModel:
    """Return a model with a calibrated region test, whose time is included."""
    network = UFlow(ModelConfig(backbone=backbone, border="reflect"), 1)
    intensity = IntensityRange((0.0,), (255.0,))
    images = []
    for seed in range(4):
        plane = Plane(data=fibre_field(100 + seed, shape=(256, 256)).image)
        scores = drain(score_steps(network.eval(), intensity, plane))
        images.append(CalibrationImage(str(seed), scores.tested))
    calibration = drain(Calibration.fit_steps(images, scores.tested_strides))
    return TrainedModel(
        config=network.config,
        training=TrainingConfig(),
        intensity=intensity,
        state=network.state_dict(),
        calibration=calibration,
    )


def seconds(run: Callable[..., object], *arguments: object, **options: object) -> float:
    """Return the duration of a call."""
    began = time.perf_counter()
    run(*arguments, **options)
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["scattering", "resnet18"])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{'backbone':<16}{'side':>6}{'backbone s':>12}{'flow s':>9}{'detection s':>13}{'ratio':>8}{'range':>14}")
    for backbone in options.backbones:
        model = model_of(backbone)
        network = model.network()
        image = torch.rand(1, 1, SIDE, SIDE)
        with torch.no_grad():
            features = network.features(image)
            network.latents(features)
        for side in options.sides:
            block = fibre_field(0, shape=(512, 512)).image
            plane = Plane(data=np.tile(block, (-(-side // 512),) * 2)[:side, :side])
            config = DetectionConfig()
            detect(model, plane, config, network=network)
            rows = []
            for _ in range(options.rounds):
                with torch.no_grad():
                    of_backbone = seconds(network.features, image)
                    of_flow = seconds(network.latents, features)
                larger = (side / SIDE) ** 2
                of_all = seconds(detect, model, plane, config, network=network)
                rows.append((of_backbone * larger, of_flow * larger, of_all))
            table = np.array(rows)
            ratios = table[:, 2] / table[:, :2].sum(axis=1)
            middle = np.median(table, axis=0)
            print(
                f"{backbone:<16}{side:>6}{middle[0]:>12.3f}{middle[1]:>9.3f}{middle[2]:>13.3f}"
                f"{np.median(ratios):>8.2f}{f'{ratios.min():.2f} - {ratios.max():.2f}':>14}",
                flush=True,
            )


if __name__ == "__main__":
    main()
