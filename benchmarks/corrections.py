"""False alarms of new normal images after corrections in the images that false alarms are counted on.

    python benchmarks/corrections.py                  # about 15 minutes on one core
    python benchmarks/corrections.py --laws nuclei --draws 5 --rounds 1

Images are drawn from laws whose normal specimens hold what looks like an anomaly now and then: sparse bright nuclei,
smooth noise of a gain that differs between specimens, bursts of nuclei in some of them. A model is trained on a few
specimens, each held out in turn. Whatever it reports in them, each compared with the others, is called normal, and the
model is refined; several times. Then new images are judged at each accepted number: the part with any false alarm (.1
and .3), or their mean number (1), of the first model and of the refined one, over draws of the specimens. A star marks
means above what is accepted by more than two standard errors.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.config import DetectionConfig, ModelConfig, training_preset
from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.training.refine import refinement_of
from napari_uflow.training.train import train

Image = NDArray[np.float32]
SIDE = 128
EPSILONS = (0.1, 0.3, 1.0)
MODEL = ModelConfig(backbone="scattering", tile=SIDE, magnification=1.0, octaves=1, memory_size=1000, flow_steps=1)


def _noise(rng: np.random.Generator, sigma: float = 1.5) -> Image:
    noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma)
    return (noise / noise.std()).astype(np.float32)


def _with_spots(image: Image, n: int, rng: np.random.Generator) -> Image:
    rows, cols = np.mgrid[:SIDE, :SIDE]
    for row, col, size, height in zip(*rng.uniform(0, SIDE, (2, n)), *rng.uniform(2, 6, (2, n)), strict=True):
        image = image + np.float32(height) * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * size**2))
    return image.astype(np.float32)


LAWS: dict[str, Callable[[np.random.Generator], Image]] = {
    "nuclei": lambda rng: _with_spots(_noise(rng), rng.poisson(1.0), rng),
    "gain": lambda rng: _noise(rng) * np.float32(np.exp(0.4 * rng.standard_t(3))),
    "bursts": lambda rng: _with_spots(_noise(rng), rng.poisson(8.0) if rng.random() < 0.2 else 0, rng),
}


def counts(model: TrainedModel, images: list[Image], epsilon: float) -> NDArray[np.int64]:
    """Return the regions reported in each image."""
    network, config = model.network(), DetectionConfig(false_alarms=epsilon)
    return np.array([detect(model, Plane(data=x), config, network=network).labels.max() for x in images])


def corrected(model: TrainedModel, regions: list[NormalRegion], marks: list[NormalRegion]) -> list[NormalRegion]:
    """Return what the model reports in each image, compared with the others, marked normal; added to earlier marks."""
    network, config = model.network(), DetectionConfig(false_alarms=3.0)
    for region in regions:
        with network.remembering_others(region.specimen):
            labels = detect(model, region.plane, config, network=network).labels
        if labels.any():
            mask = ndimage.binary_dilation(labels > 0, iterations=8)
            marks = [*marks, NormalRegion(region.plane, mask, region.specimen, is_marked_normal=True)]
    return marks


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--specimens", type=int, default=10)
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--tests", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print(f"{'law':<10}{'marked':>8}" + "".join(f"{f'before {e:g}':>14}{f'after {e:g}':>14}" for e in EPSILONS))
    for law in options.laws:
        rates: list[list[float]] = []
        n_marks = []
        for draw in range(options.draws):
            rng = np.random.default_rng((draw, list(LAWS).index(law)))
            regions = [
                NormalRegion(Plane(data=LAWS[law](rng), name=f"s{i}"), None, f"s{i}") for i in range(options.specimens)
            ]
            new = [LAWS[law](rng) for _ in range(options.tests)]
            first = model = train(regions, MODEL, training_preset("instant").replace(seed=draw))
            marks: list[NormalRegion] = []
            for _ in range(options.rounds):
                marks = corrected(model, regions, marks)
                if marks:
                    model = train([*regions, *marks], model.config, refinement_of(model), init_from=model)
            n_marks.append(len(marks))
            row = []
            for epsilon in EPSILONS:
                for of in (first, model):
                    n = counts(of, new, epsilon)
                    row.append(float(np.mean(n > 0) if epsilon < 1 else np.mean(n)))
            rates.append(row)
        means, errors = np.mean(rates, axis=0), np.std(rates, axis=0, ddof=1) / math.sqrt(len(rates))
        line = f"{law:<10}{np.mean(n_marks):>8.1f}"
        for i, (mean, error) in enumerate(zip(means, errors, strict=True)):
            star = "*" if mean > EPSILONS[i // 2] + 2 * error else " "
            line += f"{f'{mean:.3f}{star}+-{error:.3f}':>14}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
