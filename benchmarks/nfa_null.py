"""False alarms per image of every test on data without anomalies, and hits on planted anomalies.

Three tables. The first compares tests on latents, the others are about the guarantee alone, on maps of evidence.

Latents are drawn at the sizes of a resnet18 model and 256 x 256 pixels, from eight null distributions: the theoretical
one, and deviations observed in real latents (gain per image, smooth gain maps, correlated neighbours and channels,
heavy tails, all together). Each draw is an independent specimen. The calibrated test is first fitted to specimens of
the same null; the guarantee is an average over their draw, so several sets of them are drawn.

    python benchmarks/nfa_null.py                     # about 20 minutes on two cores
    python benchmarks/nfa_null.py --tests 100 --nulls iid t5 --laws
    python benchmarks/nfa_null.py --nulls --laws quantised bursts --specimens 3 9
    python benchmarks/nfa_null.py --nulls --laws nuclei sizes --specimens 9 20 100 --areas 4 14

For epsilon of .01 and .1 the number is the fraction of images with any false alarm, for 1 their mean number.
`conformal` must not exceed epsilon by more than chance (one-sided, 1 %; a star marks numbers that do); with fewer than
1 / epsilon - 1 specimens there is no guarantee and the number is marked with a tilde. Hits are the fractions of planted
squares detected at epsilon = 1: 4 x 4 positions of the finest level with latents 1.7 times too wide, 12 x 12 with 1.35,
24 x 24 with 1.2.

The second table draws maps of evidence, 40 x 40 positions, from ten laws that the guarantee was not developed on: a
heavy-tailed gain, two types of specimen, shading, periodic texture, sparse bright nuclei, quantised values, identical
maps, images of different sizes, bursts of nuclei in some images, smooth noise. For each number of held-out specimens it
prints what the guarantee bounds, the mean of min(N, B) over new images and draws of the held-out ones (B is 1 for .1
and .3 unless there are many specimens: the part of images with any false alarm), and the mean number N at 1. New images
have 1, 4 and 14 times the area of the held-out ones, for laws of which larger images are defined. The error is that of
the draws of the held-out specimens; a star marks means above epsilon by more than two of them.

The third table is about the bounds beside the mean, for new images of the same area: the part of images with at most
the bounded number of false alarms at all of 40 accepted numbers from .01 to 10 at once (.9 is promised), this bound at
.1, .3 and 1 and, below the slash, the number that 9 of 10 images do not exceed; the mean bound of the part of images
with any false alarm at .1 and, below the slash, the part of draws that it held for (.9 is promised, and the part of
images is itself known from few).
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import multiprocessing.pool
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binom

from napari_uflow.nfa.binomial import binomial_log10_nfa, candidate_threshold
from napari_uflow.nfa.bounds import any_part, most_false
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.nfa.conformal import loss_bound, specimens_needed
from napari_uflow.nfa.counts import log10_tests_for_any_size
from napari_uflow.nfa.drawing import combine_levels
from napari_uflow.nfa.labelling import count_thresholds, label_mask
from napari_uflow.nfa.segment import published_regions, significant_regions
from napari_uflow.nfa.significance import chi2_log10_tail
from napari_uflow.progress import drain

SHAPES = ((84, 64, 64), (80, 32, 32), (128, 16, 16))
STEPS = (1, 2, 4)
GRID = (64, 64)
EPSILONS = (0.01, 0.1, 1.0)
DEFECTS = {"small": (4, 1.7), "medium": (12, 1.35), "large": (24, 1.2)}
BACKGROUND = 3.0
Latents = list[NDArray[np.float32]]


def iid(rng: np.random.Generator) -> Latents:
    return [rng.standard_normal(shape, dtype=np.float32) for shape in SHAPES]


def gain(sd: float) -> Callable[[np.random.Generator], Latents]:
    return lambda rng: [z * np.float32(g) for g in [np.exp(sd * rng.normal())] for z in iid(rng)]


def gain_map(rng: np.random.Generator, sd: float = 0.1) -> Latents:
    smooth = ndimage.gaussian_filter(rng.normal(size=GRID), 10, mode="wrap")
    log_gain = (sd * smooth / smooth.std()).astype(np.float32)
    return [z * np.exp(log_gain[::step, ::step]) for z, step in zip(iid(rng), STEPS, strict=True)]


def neighbours(rng: np.random.Generator, sigma: float = 0.7) -> Latents:
    smooth = [ndimage.gaussian_filter(z, (0, sigma, sigma), mode="wrap") for z in iid(rng)]
    return [z / z.std() for z in smooth]


def channels(rng: np.random.Generator, correlation: float = 0.1) -> Latents:
    shared = [rng.standard_normal(shape[1:], dtype=np.float32) for shape in SHAPES]
    own = iid(rng)
    return [math.sqrt(1 - correlation) * z + math.sqrt(correlation) * s for z, s in zip(own, shared, strict=True)]


def student(rng: np.random.Generator, df: float = 5.0) -> Latents:
    unit = math.sqrt((df - 2) / df)
    return [(z * (unit / np.sqrt(rng.chisquare(df, z.shape) / df))).astype(np.float32) for z in iid(rng)]


def mixed(rng: np.random.Generator) -> Latents:
    smooth = ndimage.gaussian_filter(rng.normal(size=GRID), 10, mode="wrap")
    gains = np.exp(0.05 * rng.normal() + 0.05 * smooth / smooth.std()).astype(np.float32)
    latents = []
    for z, step in zip(student(rng, 8.0), STEPS, strict=True):
        shared = rng.standard_normal(z.shape[1:], dtype=np.float32)
        z = ndimage.gaussian_filter(math.sqrt(0.95) * z + math.sqrt(0.05) * shared, (0, 0.5, 0.5), mode="wrap")
        latents.append(z / z.std() * gains[::step, ::step])
    return latents


NULLS: dict[str, Callable[[np.random.Generator], Latents]] = {
    "iid": iid,
    "gain 5 %": gain(0.05),
    "gain 10 %": gain(0.1),
    "gain map 10 %": gain_map,
    "neighbours": neighbours,
    "channels": channels,
    "t5": student,
    "mixed": mixed,
}


SIDE = 40  # positions of a map
STRIDE = 8
ACCEPTED = (0.1, 0.3, 1.0)
SLIDER = tuple(np.geomspace(0.01, 10, 40))
Map = NDArray[np.float64]


def smooth(rng: np.random.Generator, side: int, sigma: float = 0.7) -> Map:
    values = ndimage.gaussian_filter(rng.normal(size=(side, side)), sigma, mode="wrap")
    return values / values.std()


def nuclei(rng: np.random.Generator, side: int, density: float = 0.002) -> Map:
    """Bright spots, `density` per position, of exponentially distributed height."""
    spots = np.zeros((side, side))
    for _ in range(rng.poisson(density * side**2)):
        spots[tuple(rng.integers(side, size=2))] += 24 * rng.exponential()
    return 4 * ndimage.gaussian_filter(spots, 1.0)


def shading(rng: np.random.Generator, side: int) -> Map:
    return smooth(rng, side) + rng.exponential() * np.linspace(-1, 1, side)


def periodic(rng: np.random.Generator, side: int) -> Map:
    phase, frequency = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.5)
    return 1.5 * np.sin(frequency * np.arange(side) + phase) + smooth(rng, side, sigma=0.5)


def two_types(rng: np.random.Generator, side: int) -> Map:
    return smooth(rng, side, sigma=0.5) if rng.random() < 0.7 else 0.5 + 1.5 * smooth(rng, side, sigma=1.5)


def sizes(rng: np.random.Generator, side: int) -> Map:
    side = round(side / SIDE * int(rng.integers(20, 80)))
    return smooth(rng, side) + nuclei(rng, side)


def bursts(rng: np.random.Generator, side: int) -> Map:
    return smooth(rng, side) + (nuclei(rng, side, density=0.012) if rng.random() < 0.15 else 0.0)


LAWS: dict[str, Callable[[np.random.Generator, int], Map]] = {
    "heavy gain": lambda rng, side: smooth(rng, side) * math.exp(0.3 * rng.standard_t(3)),
    "two types": two_types,
    "shading": shading,
    "periodic": periodic,
    "nuclei": lambda rng, side: smooth(rng, side) + nuclei(rng, side),
    "quantised": lambda rng, side: np.round(smooth(rng, side)),
    "identical": lambda _, side: smooth(np.random.default_rng(1), side),
    "sizes": sizes,
    "bursts": bursts,
    "smooth noise": lambda rng, side: smooth(rng, side, sigma=3.0),
}
# A part of a larger image is no image of these laws.
NOT_LARGER = ("shading", "identical")


def fitted_to(law: str, n_specimens: int, seed: int, number: int) -> tuple[np.random.Generator, Calibration]:
    """Return a draw of held-out specimens as a calibration, and the generator for new images."""
    rng = np.random.default_rng((seed, n_specimens, number, 3))
    images = [CalibrationImage(str(i), (LAWS[law](rng, SIDE),)) for i in range(n_specimens)]
    return rng, drain(Calibration.fit_steps(images, (STRIDE,), subtracts_median=None))


def realised(task: tuple[str, int, int, int, int, int]) -> list[float]:
    """Return the means of min(N, B) at each accepted number, and of N at the last, for one draw of specimens."""
    law, n_specimens, n_tests, seed, number, times = task
    rng, fitted = fitted_to(law, n_specimens, seed, number)
    side = round(SIDE * math.sqrt(times))
    counts = np.array([_counts(fitted, LAWS[law](rng, side), ACCEPTED) for _ in range(n_tests)])
    bounds = [loss_bound(e, n_specimens) for e in ACCEPTED]
    return [*np.minimum(counts, bounds).mean(axis=0), counts[:, -1].mean()]


def _counts(fitted: Calibration, values: Map, accepted: Sequence[float]) -> list[int]:
    (level,) = fitted.regions((values,))
    nfa = combine_levels([level], (1,), values.shape, background=BACKGROUND)
    return np.searchsorted(count_thresholds(nfa, 1.0), np.log10(accepted), side="right").tolist()


def bounded(task: tuple[str, int, int, int, int]) -> list[float]:
    """Return what the bounds are and how often they hold, for one draw of specimens."""
    law, n_specimens, n_tests, seed, number = task
    rng, fitted = fitted_to(law, n_specimens, seed, number)
    accepted = [*ACCEPTED, *SLIDER]
    most = [-1 if bound is None else bound for bound in (most_false(fitted.offset, e) for e in accepted)]
    counts = np.array([_counts(fitted, LAWS[law](rng, SIDE), accepted) for _ in range(n_tests)])
    part = any_part(fitted.offset, ACCEPTED[0])
    n = len(ACCEPTED)
    typical = np.quantile(counts[:, :n], 0.9, axis=0, method="inverted_cdf")
    kept = (counts[:, 0] > 0).mean() <= part
    return [(counts[:, n:] <= most[n:]).all(axis=1).mean(), *most[:n], *typical, part, kept]


def print_realised(options: argparse.Namespace, pool: multiprocessing.pool.Pool) -> None:
    """Print the second table."""
    print("| law | area | specimens | " + " | ".join(f"{e:g}" for e in ACCEPTED) + " | N at 1 |")
    print("|---" * (len(ACCEPTED) + 4) + "|", flush=True)
    for law, times, n in itertools.product(options.laws, options.areas, options.specimens):
        if times > 1 and law in NOT_LARGER:
            continue
        tasks = [(law, n, options.tests // 10, options.seed, number, times) for number in range(options.draws)]
        found = np.array(pool.map(realised, tasks))
        means, errors = found.mean(axis=0), found.std(axis=0, ddof=1) / math.sqrt(len(found))
        cells = []
        for e, mean, error in zip(ACCEPTED, means, errors, strict=False):
            mark = "~" if n < specimens_needed(e / times) else "*" if mean - 2 * error > e else ""
            cells.append(f"{mean:.3f} ± {error:.3f}{mark}")
        print(f"| {law} | {times} | {n} | " + " | ".join(cells) + f" | {means[-1]:.2f} |", flush=True)


def print_bounded(options: argparse.Namespace, pool: multiprocessing.pool.Pool) -> None:
    """Print the third table."""
    numbers = [f"at most / 9 of 10, at {e:g}" for e in ACCEPTED]
    print("\n| law | specimens | kept at all numbers | " + " | ".join(numbers) + " | any at .1 at most / kept |")
    print("|---" * (len(ACCEPTED) + 4) + "|", flush=True)
    for law, n in itertools.product(options.laws, options.specimens):
        tasks = [(law, n, options.tests // 10, options.seed, number) for number in range(options.draws)]
        kept, *means = np.mean(pool.map(bounded, tasks), axis=0)
        pairs = [f"{means[i]:.1f} / {means[i + len(ACCEPTED)]:.1f}" for i in range(len(ACCEPTED))]
        print(
            f"| {law} | {n} | {kept:.3f} | " + " | ".join(pairs) + f" | {means[-2]:.2f} / {means[-1]:.2f} |", flush=True
        )


def planted(latents: Latents, side: int, factor: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Widen the latents in a square, in place; return its mask."""
    row, col = (4 * int(rng.integers(0, (n - side) // 4 + 1)) for n in GRID)
    truth = np.zeros(GRID, dtype=bool)
    truth[row : row + side, col : col + side] = True
    for z, step in zip(latents, STEPS, strict=True):
        z[:, truth[::step, ::step]] *= np.float32(factor)
    return truth


def scores(latents: Latents) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.log1p(np.square(z, dtype=np.float64)).mean(axis=0) for z in latents)


def calibrated(null: str, n_specimens: int, seed: int, which: int) -> Calibration:
    rng = np.random.default_rng((seed, n_specimens, which, 1))
    images = [CalibrationImage(str(i), scores(NULLS[null](rng))) for i in range(n_specimens)]
    return drain(Calibration.fit_steps(images, STEPS))


def nfa_maps(latents: Latents, calibrations: dict[int, Calibration]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield log10 NFA of every position of the finest level, by each method."""
    energies = [np.square(z, dtype=np.float64).mean(axis=0) for z in latents]
    n_channels = [len(z) for z in latents]
    threshold = candidate_threshold(0.9)
    counts = [(np.square(z) >= threshold).sum(axis=0).astype(np.float32) for z in latents]
    yield "binomial", binomial_log10_nfa(counts, n_channels, STEPS, GRID, window_size=5, probability_thr=0.9)
    for name, one_sided in (("paper, published", False), ("paper", True)):
        levels = published_regions(energies, n_channels, one_sided=one_sided)
        yield name, combine_levels(levels, STEPS, GRID, background=BACKGROUND)
    levels = [
        significant_regions(chi2_log10_tail(e, c), log10_tests_for_any_size(e.size, len(SHAPES)))
        for e, c in zip(energies, n_channels, strict=True)
    ]
    yield "not calibrated", combine_levels(levels, STEPS, GRID, background=BACKGROUND)
    maps = scores(latents)
    for n_specimens, calibration in calibrations.items():
        for name, guaranteed in (("tails", False), ("conformal", True)):
            levels = calibration.regions(maps, guaranteed=guaranteed)
            yield f"{name}, {n_specimens} specimens", combine_levels(levels, STEPS, GRID, background=BACKGROUND)


def draw(task: tuple[str, int, int, dict[int, Calibration]]) -> dict[str, list[float]]:
    """Return the false alarms at every epsilon and the hits of each kind of anomaly in one draw, by method."""
    null, seed, number, calibrations = task
    rng = np.random.default_rng((seed, number, 2))
    row: dict[str, list[float]] = {}
    for name, values in nfa_maps(NULLS[null](rng), calibrations):
        counts = [float(label_mask(values, math.log10(e)).max()) for e in EPSILONS]
        row[name] = [min(n, 1.0) if e < 1 else n for n, e in zip(counts, EPSILONS, strict=True)]
    for side, factor in DEFECTS.values():
        latents = NULLS[null](rng)
        truth = planted(latents, side, factor, rng)
        for name, values in nfa_maps(latents, calibrations):
            row[name].append(float((values[truth] <= 0).any()))
    return row


def is_above(values: list[float], epsilon: float) -> bool:
    """Return True if the mean lies above epsilon by more than chance: one-sided, 1 %."""
    if epsilon < 1:
        return bool(binom.sf(sum(values) - 1, len(values), epsilon) < 0.01)
    return bool(np.mean(values) - 2.33 * np.std(values) / math.sqrt(len(values)) > epsilon)


def print_tests(options: argparse.Namespace, pool: multiprocessing.pool.Pool) -> None:
    """Print the first table."""
    columns = [f"{'any' if e < 1 else 'FA'} at {e:g}" for e in EPSILONS] + list(DEFECTS)
    print("| null | test | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 2) + "|", flush=True)
    for null in options.nulls:
        jobs = [(null, n, options.seed, i) for i in range(options.sets) for n in options.specimens]
        fitted = dict(zip(((n, i) for _, n, _, i in jobs), pool.starmap(calibrated, jobs), strict=True))
        sets = [{n: fitted[n, i] for n in options.specimens} for i in range(options.sets)]
        tasks = [(null, options.seed, i, sets[i * options.sets // options.tests]) for i in range(options.tests)]
        rows = pool.map(draw, tasks, chunksize=10)
        for name in rows[0]:
            means = np.mean([row[name] for row in rows], axis=0)
            cells = []
            for column, (mean, epsilon) in enumerate(zip(means, EPSILONS, strict=False)):
                mark = "*" if is_above([row[name][column] for row in rows], epsilon) else ""
                if name.startswith("conformal") and int(name.split()[1]) < specimens_needed(epsilon):
                    mark += "~"
                cells.append(f"{mean:.3f}{mark}")
            cells += [f"{mean:.2f}" for mean in means[len(EPSILONS) :]]
            print(f"| {null} | {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nulls", nargs="*", choices=list(NULLS), default=list(NULLS), metavar="NULL")
    parser.add_argument("--laws", nargs="*", choices=list(LAWS), default=list(LAWS), metavar="LAW")
    parser.add_argument("--specimens", nargs="+", type=int, default=[20, 100], help="numbers of held-out specimens")
    parser.add_argument("--areas", nargs="*", type=int, default=[1, 4, 14], help="areas of new images (%(default)s)")
    parser.add_argument("--draws", type=int, default=40, help="draws of held-out specimens of a law (%(default)s)")
    parser.add_argument("--tests", type=int, default=400, help="draws to test on (default: %(default)s)")
    parser.add_argument("--sets", type=int, default=10, help="sets of held-out specimens (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        if options.nulls:
            print_tests(options, pool)
        if options.laws:
            print_realised(options, pool)
            print_bounded(options, pool)
    print(f"\n{options.tests} draws each, {time.perf_counter() - start:.0f} s; * above epsilon, ~ no guarantee")


if __name__ == "__main__":
    main()
