"""Hits on planted defects at a guaranteed number of false alarms, beside the threshold that an oracle would choose.

    python benchmarks/guarantee_power.py DATA [DATA ...]           # all that is known of a set of images
    python benchmarks/guarantee_power.py DATA --images 10 --draws 4 --steps 0 --work FOLDER

From the normal images of a set (of training and test) some are drawn to train on, each an independent specimen, and
others to test on; defects are planted into copies of the latter. A model is trained once with a part of its specimens
held out (split), once with each held out in turn (cross). Its guarantee chooses the threshold at .1, .3 and 1 false
alarm per image; the oracle of each model chooses the one at which exactly as many occur in the test images, which
nobody can know. The numbers are means over draws of the images: hits, hits over those of the oracle of the same model,
and what was realised: the part of normal images with any false alarm at .1 and .3, their mean number at 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.image.planting import draw_plans, plant
from napari_uflow.image.region import NormalRegion
from napari_uflow.nfa.conformal import HIGHEST
from napari_uflow.nfa.labelling import count_thresholds
from napari_uflow.training.regions import read_regions
from napari_uflow.training.train import train

sys.path.insert(0, str(Path(__file__).parent))
from quality import DataSet

EPSILONS = (0.1, 0.3, 1.0)
MODES = ("split", "cross")
MOST_TESTED = 60
MOST_PLANTED = 24
PIXELS_PER_DEFECT = 16_000


@dataclass(frozen=True)
class Draw:
    """Hits and false alarms of one model, by accepted number."""

    data: str
    images: int
    steps: int
    draw: int
    mode: str
    n_specimens: int
    hits: tuple[float, ...]
    oracle: tuple[float, ...]
    realised: tuple[float, ...]


def rate(counts: Sequence[NDArray[np.int64]], epsilon: float) -> float:
    """Return what a guarantee of `epsilon` is about: the part of images with any false alarm, or their mean number."""
    return float(np.mean([np.minimum(n, 1 if epsilon < 1 else np.inf) for n in counts]))


def oracle_threshold(events: Sequence[Sequence[float]], epsilon: float) -> float:
    """Return the highest threshold at which the rate in these images is at most `epsilon`."""
    firsts = sorted(image[0] for image in events if image)
    of_all = firsts if epsilon < 1 else sorted(t for image in events for t in image)
    n = math.floor(epsilon * len(events) + 1e-9)
    return HIGHEST if n >= len(of_all) else float(np.nextafter(of_all[n], -np.inf))


def run(data: DataSet, n: int, draw: int, options: argparse.Namespace) -> list[Draw]:
    """Train on `n` images and test on the others."""
    rng = np.random.default_rng((draw, n))
    pool = read_regions(data.train)
    pool += [NormalRegion(image.plane, None) for image in data.test if not image.is_anomalous]
    pool = [pool[int(i)].of_specimen(f"image {i}") for i in rng.permutation(len(pool))]
    known, new = pool[:n], pool[n : n + MOST_TESTED]
    found = []
    for mode in MODES:
        training = TrainingConfig(guarantee=mode, steps=options.steps, seed=draw)
        model = train(known, ModelConfig(), training)
        assert model.calibration is not None
        network, nominal = model.network(), DetectionConfig(calibration="tails")
        detected = [detect(model, region.plane, nominal, network=network) for region in new]
        events = [count_thresholds(of.log10_nfa, HIGHEST) for of in detected]
        values = [region.plane.read() for region in new]
        lowest: list[float] = []
        for i, region in enumerate(new[:MOST_PLANTED]):
            pixels = values[i]
            n_defects = max(1, round(pixels[0].size / PIXELS_PER_DEFECT))
            planted = plant(
                pixels,
                draw_plans(n_defects, seed=1000 * draw + i),
                seed=i,
                span=model.intensity.span,
                donors=[other for j, other in enumerate(values) if j != i][:8],
                dtype=region.plane.data.dtype,
                margin=32,
            )
            result = detect(model, planted.plane(region.plane), nominal, network=network)
            labels = np.arange(1, len(planted.defects) + 1)
            lowest += [float(result.log10_nfa[planted.labels == label].min(initial=np.inf)) for label in labels]
        offset = model.calibration.offset
        chosen = [offset.threshold(epsilon) for epsilon in EPSILONS]
        ideal = [oracle_threshold(events, epsilon) for epsilon in EPSILONS]
        counts = [[np.searchsorted(image, t, side="right") for image in events] for t in chosen]
        hits, best = ([float(np.mean(np.array(lowest) <= t)) for t in of] for of in (chosen, ideal))
        realised = [rate(of, epsilon) for of, epsilon in zip(counts, EPSILONS, strict=True)]
        found.append(
            Draw(data.name, n, options.steps, draw, mode, offset.n_specimens, tuple(hits), tuple(best), tuple(realised))
        )
    return found


def table(draws: Sequence[Draw]) -> None:
    """Print the means over draws, with the standard error of the ratio."""
    print(f"{'set':<22}{'n':>3}{'steps':>6} {'mode':<6}{'held out':>9}" + "".join(f"{e:>31g}" for e in EPSILONS))
    print(" " * 47 + "hits oracle ratio     realised " * len(EPSILONS))
    for key in sorted({(d.data, d.images, d.steps, d.mode) for d in draws}, key=lambda k: (k[:3], MODES.index(k[3]))):
        of = [d for d in draws if (d.data, d.images, d.steps, d.mode) == key]
        line = f"{key[0]:<22}{key[1]:>3}{key[2]:>6} {key[3]:<6}{np.mean([d.n_specimens for d in of]):>9.0f} "
        for i in range(len(EPSILONS)):
            hits, best = (np.array([getattr(d, name)[i] for d in of]) for name in ("hits", "oracle"))
            ratio = hits.mean() / max(best.mean(), 1e-9)
            error = np.std(hits - ratio * best) / max(best.mean(), 1e-9) / math.sqrt(len(of))
            real = np.mean([d.realised[i] for d in of])
            line += f"{hits.mean():>5.2f}{best.mean():>6.2f}{ratio:>7.0%} +- {error:<4.0%}{real:>6.2f} "
        print(line + f"({len(of)} draws)")


def main() -> None:
    """Run the draws that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="folders of images, as for quality.py")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--steps", type=int, default=0, help="steps of the training; 0 as with the preset 'instant'")
    parser.add_argument("--work", type=Path, help="folder that keeps the draws, which are not repeated")
    options = parser.parse_args()
    draws: list[Draw] = []
    for root in options.data:
        data = DataSet.find(root)
        for n in options.images:
            for draw in range(options.draws):
                path = options.work and options.work / f"{data.name}_{n}_{options.steps}_{draw}.json"
                if path and path.exists():
                    found = [Draw(**values) for values in json.loads(path.read_text())]
                else:
                    found = run(data, n, draw, options)
                    if path:
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(json.dumps([asdict(d) for d in found]))
                draws += found
    table(draws)


if __name__ == "__main__":
    main()
