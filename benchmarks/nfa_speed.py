"""Time and memory of the region test by size of the map, as a Markdown table.

The map contains energies of independent N(0, 1) latents, drawn as chi-squared / channels in float32, with four planted
squares of latents that are too wide. Columns, all on one core, medians of several runs:

- tail: `chi2_log10_tail` of the energies
- regions: `significant_regions` of that, which skips positions that no significant region can contain
- test: both together, the time of a detection per level
- full tree: `best_regions` of all positions, for comparison with the column regions
- published: `published_regions` with one_sided=True, Chernoff's bound included
- hit: planted squares that contain a region with NFA < 1, by the test / by the published test
- memory: peak of the test above the memory before it (without the map), in MB (10^6 bytes) and in bytes per byte of
  the map; then the same with the full tree in place of the early stop

The last lines give the exponent of growth of each time with the number of positions, fitted from 256 x 256 on, and
whether 128 x 128 stays below 10 ms. Up to 512 x 512 it is also checked that the early stop and the full tree give the
same regions below the number of tests, in positions and values.

    python benchmarks/nfa_speed.py                    # minutes; the largest map needs about 3 GB
    python benchmarks/nfa_speed.py --largest 1024

Memory is the rise of the peak resident size (ru_maxrss) in a fresh process per number. tracemalloc would miss the
arrays of the compiled tree, which come from numba's own allocator. The kernel counts pages with a delay, so maps below
256 x 256 (a few hundred kB) are not measured. Linux and macOS only.
"""

from __future__ import annotations

import os

# Read when the libraries are loaded; the processes that measure inherit them.
os.environ.update(
    dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
)

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.counts import LOG10_BETA, log10_tests_for_any_size
from napari_uflow.nfa.segment import LevelRegions, published_regions, significant_regions
from napari_uflow.nfa.significance import chi2_log10_tail
from napari_uflow.nfa.tree import best_regions

SIDES = (64, 128, 256, 512, 1024, 2048, 4096)
CHANNELS = 32
DEFECTS = ((1, 3.0), (4, 1.7), (12, 1.35), (24, 1.2))  # positions per side, width of the latents; one per quadrant
TIMES = ("tail", "regions", "test", "full tree", "published")
SMALLEST_FIT = 256  # below it, the time of a call as such counts too
SMALLEST_MEMORY = 256
LARGEST_CHECK = 512
BUDGET_SIDE, BUDGET_MS = 128, 10.0


def energies(side: int, seed: int) -> tuple[NDArray[np.float32], list[tuple[slice, slice]]]:
    """Draw a map with its planted squares, without any copy that would raise the peak of memory; return both."""
    rng = np.random.default_rng((seed, side))
    energy = np.empty((side, side), dtype=np.float32)
    rng.standard_gamma(CHANNELS / 2, dtype=np.float32, out=energy)  # half of a chi-squared
    energy *= np.float32(2 / CHANNELS)
    half = side // 2
    squares = []
    for quadrant, (size, width) in enumerate(DEFECTS):
        row, col = (half * which + int(rng.integers(0, half - size + 1)) for which in divmod(quadrant, 2))
        squares.append((slice(row, row + size), slice(col, col + size)))
        energy[squares[-1]] *= np.float32(width**2)
    return energy, squares


def early_stop(energy: NDArray[np.float32]) -> LevelRegions:
    return significant_regions(chi2_log10_tail(energy, CHANNELS), log10_tests_for_any_size(energy.size))


def full_tree(energy: NDArray[np.float32]) -> LevelRegions:
    weight = chi2_log10_tail(energy, CHANNELS) + LOG10_BETA
    labels, log10_value = best_regions(energy, weight)
    return LevelRegions(labels, log10_tests_for_any_size(energy.size) + log10_value)


def published(energy: NDArray[np.float32]) -> LevelRegions:
    return published_regions([energy], [CHANNELS], one_sided=True)[0]


TESTS: dict[str, Callable[[NDArray[np.float32]], LevelRegions]] = {"early stop": early_stop, "full tree": full_tree}


def warm_up() -> None:
    """Compile all functions (or load them from the cache on disk) for the measured types."""
    energy, _ = energies(64, 0)
    energy[0, 0] = 1e6  # needs the continued fraction of the far tail
    for test in (early_stop, full_tree, published):
        test(energy)


def below(regions: LevelRegions, log10_limit: float) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return labels and values of the regions below a limit, which are the first ones."""
    n = int(np.searchsorted(regions.log10_nfa, log10_limit))
    return np.where(regions.labels <= n, regions.labels, 0), regions.log10_nfa[:n]


def check(energy: NDArray[np.float32]) -> None:
    """Raise unless early stop and full tree give the same regions below the number of tests."""
    log10_n_tests = log10_tests_for_any_size(energy.size)
    labels, values = below(early_stop(energy), log10_n_tests)
    full_labels, full_values = below(full_tree(energy), log10_n_tests)
    assert values.size > 0
    assert np.array_equal(values, full_values), f"values differ at {energy.shape}"
    assert np.array_equal(labels, full_labels), f"regions differ at {energy.shape}"


def hits(regions: LevelRegions, squares: list[tuple[slice, slice]]) -> int:
    labels, _ = below(regions, 0.0)
    return sum(bool(labels[square].any()) for square in squares)


def timed(side: int, seed: int) -> tuple[dict[str, float], str]:
    """Return the median milliseconds of each part, and the planted squares that were hit."""
    warm_up()
    energy, squares = energies(side, seed)
    if side <= LARGEST_CHECK:
        check(energy)
    log10_n_tests = log10_tests_for_any_size(energy.size)
    repeats = max(3, min(101, 2**23 // energy.size)) | 1
    seconds: dict[str, list[float]] = {name: [] for name in TIMES}
    for _ in range(repeats):
        start = time.perf_counter()
        log10_p = chi2_log10_tail(energy, CHANNELS)
        tail = time.perf_counter()
        regions = significant_regions(log10_p, log10_n_tests)
        end = time.perf_counter()
        seconds["tail"].append(tail - start)
        seconds["regions"].append(end - tail)
        seconds["test"].append(end - start)
        weight = log10_p + LOG10_BETA
        start = time.perf_counter()
        best_regions(energy, weight)
        seconds["full tree"].append(time.perf_counter() - start)
        start = time.perf_counter()
        old_regions = published(energy)
        seconds["published"].append(time.perf_counter() - start)
    medians = {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
    return medians, f"{hits(regions, squares)} / {hits(old_regions, squares)}"


def peak_bytes() -> int:
    """Return the peak resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def extra_memory(side: int, seed: int, test: str) -> int:
    """Return the bytes by which the peak rises during one test."""
    warm_up()
    energy, _ = energies(side, seed)
    # Memory freed since the peak would hide the first part of the rise: fill it until peak and present agree.
    start = peak_bytes()
    ballast = []
    while peak_bytes() == start:
        ballast.append(b"\x01" * 2**16)
    start = peak_bytes()
    regions = TESTS[test](energy)
    rise = peak_bytes() - start
    assert regions.log10_nfa.size > 0  # so the result is alive when the peak is read
    assert ballast
    return rise


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def memory_cell(side: int, seed: int, test: str) -> str:
    if side < SMALLEST_MEMORY:
        return "-"
    rise = in_fresh_process(extra_memory, side, seed, test)
    return f"{rise / 1e6:.1f} ({rise / (4 * side**2):.0f} x)"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=SIDES[-1], help="end at this side (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sides = [side for side in SIDES if side <= options.largest]
    if not sides:
        parser.error(f"--largest must be at least {SIDES[0]}, got {options.largest}")
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)  # glibc: arrays go back to the system when freed
    memory = {side: [memory_cell(side, options.seed, test) for test in TESTS] for side in sides}
    del os.environ["MALLOC_MMAP_THRESHOLD_"]
    header = ["map", *(f"{name}, ms" for name in TIMES), "hit", "memory, MB", "memory full tree, MB"]
    print("| " + " | ".join(header) + " |")
    print("|---" * len(header) + "|", flush=True)
    times: dict[int, dict[str, float]] = {}
    for side in sides:
        times[side], hit = in_fresh_process(timed, side, options.seed)
        cells = [f"{side} x {side}", *(milliseconds(times[side][name]) for name in TIMES), hit, *memory[side]]
        print("| " + " | ".join(cells) + " |", flush=True)
    checked = max(side for side in sides if side <= LARGEST_CHECK)
    print(f"\nUp to {checked} x {checked}, early stop and full tree give the same regions below the number of tests.")
    fitted = [side for side in sides if side >= SMALLEST_FIT]
    if len(fitted) > 1:
        log_n = [2 * np.log(side) for side in fitted]
        slopes = [float(np.polyfit(log_n, [np.log(times[side][name]) for side in fitted], 1)[0]) for name in TIMES]
        text = ", ".join(f"{name} {slope:.2f}" for name, slope in zip(TIMES, slopes, strict=True))
        print(f"Time grows with the number of positions to the power of: {text} ({fitted[0]} to {fitted[-1]}).")
    if BUDGET_SIDE in times:
        elapsed = times[BUDGET_SIDE]["test"]
        verdict = "below" if elapsed < BUDGET_MS else "NOT below"
        print(f"{BUDGET_SIDE} x {BUDGET_SIDE}: the test takes {elapsed:.2f} ms, {verdict} {BUDGET_MS:g} ms.")


if __name__ == "__main__":
    main()
