"""Drift: how soon a change is noticed, and how often normal images raise a warning.

Three tables. The first draws maps from the ten laws of nfa_null.py, moves all of them by a part of the standard
deviation of their positions, or widens them about their median, and prints the part of sequences in which drift is
reported within ten images: at once, and after 50 unchanged images. The second counts warnings in sequences of
unchanged images; by Ville's inequality they are at most 1 %. The third, for models and folders of normal images that
the model was not trained on, changes brightness, contrast, sharpness and noise of the files.

    python benchmarks/drift.py                                        # about 15 minutes on one core
    python benchmarks/drift.py --laws "smooth noise" --specimens 20 --sequences 40
    python benchmarks/drift.py --laws --real model.safetensors DATASET/test/good --channels 0

Sequences of real images are drawn from the folder, each image at most once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.detection.detect import detect
from napari_uflow.image.plane import Plane
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.nfa.calibration import profile_of
from napari_uflow.nfa.drawing import combine_levels
from napari_uflow.nfa.drift import DriftTest
from napari_uflow.progress import drain
from napari_uflow.store.checkpoint import load_model
from napari_uflow.store.images import find_images, read_planes
from nfa_null import LAWS, STRIDE, Map

N_IMAGES = 10
N_GOOD = 50
LOG10_ANOMALOUS = -1.0  # as in detection.detect
Image = NDArray[np.floating]

SHIFTS: dict[str, Callable[[Map], Map]] = {
    "shift .25 SD": lambda m: m + 0.25 * m.std(),
    "shift .5 SD": lambda m: m + 0.5 * m.std(),
    "widened x 1.3": lambda m: np.median(m) + 1.3 * (m - np.median(m)),
}


def noisy(image: Image, part: float) -> Image:
    rng = np.random.default_rng(image.size)
    return image + part * np.ptp(image) * rng.normal(size=image.shape)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "none": lambda x: x,
    "brightness +5 %": lambda x: x + 0.05 * np.ptp(x),
    "brightness +20 %": lambda x: x + 0.2 * np.ptp(x),
    "contrast x 0.8": lambda x: (x - x.mean()) * 0.8 + x.mean(),
    "contrast x 0.5": lambda x: (x - x.mean()) * 0.5 + x.mean(),
    "blur 0.5 px": lambda x: ndimage.gaussian_filter(x, 0.5),
    "blur 0.7 px": lambda x: ndimage.gaussian_filter(x, 0.7),
    "blur 1 px": lambda x: ndimage.gaussian_filter(x, 1.0),
    "noise 1 %": lambda x: noisy(x, 0.01),
    "noise 3 %": lambda x: noisy(x, 0.03),
    "noise 6 %": lambda x: noisy(x, 0.06),
    "defect of 1 %": lambda x: with_defect(x, 0.01),
    "defect of 5 %": lambda x: with_defect(x, 0.05),
}


def with_defect(image: Image, part: float) -> Image:
    """Add a square of noise: an anomaly in every image is no drift."""
    changed, side = image.copy(), int((part * image.size) ** 0.5)
    rng = np.random.default_rng(image.size)
    row, col = (int(rng.integers(0, max(1, n - side))) for n in image.shape)
    square = changed[row : row + side, col : col + side]
    square[...] = rng.uniform(image.min(), image.max(), square.shape)
    return changed


def profile(fitted: Calibration, values: Map) -> tuple[float, ...]:
    """Return the statistics of a map without its anomalous regions, as in a detection."""
    (level,) = fitted.regions((values,))
    nfa = combine_levels([level], (1,), values.shape, background=3.0)
    return fitted.profile_of([values], [nfa <= LOG10_ANOMALOUS])


def images_to_warning(test: DriftTest, profiles: list[tuple[float, ...]], rng: np.random.Generator) -> int:
    """Return the number of images at which drift is reported; 0 if it is not."""
    for i, values in enumerate(profiles, start=1):
        test.add(values, rng)
        if test.has_warned:
            return i
    return 0


def print_power(options: argparse.Namespace) -> None:
    """Print the first table."""
    print("| law | specimens | " + " | ".join(f"{name} | after {N_GOOD}" for name in SHIFTS) + " |")
    print("|---" * (2 * len(SHIFTS) + 2) + "|")
    for law in options.laws:
        for n in options.specimens:
            noticed = np.mean([noticed_by_one(law, n, seed) for seed in range(options.sequences)], axis=0)
            print(f"| {law} | {n} | " + " | ".join(f"{part:.2f}" for part in noticed) + " |", flush=True)


def noticed_by_one(law: str, n_specimens: int, seed: int) -> list[bool]:
    """Return for one set of held-out specimens whether each change is noticed within ten images, at once and later."""
    rng = np.random.default_rng((seed, n_specimens))
    draw = LAWS[law]
    images = [CalibrationImage(str(i), (draw(rng),)) for i in range(n_specimens)]
    fitted = drain(Calibration.fit_steps(images, (STRIDE,), subtracts_median=None))
    noticed = []
    for change in SHIFTS.values():
        changed = [profile(fitted, change(draw(rng))) for _ in range(N_IMAGES)]
        for n_good in (0, N_GOOD):
            test = DriftTest(fitted.held_out_profiles)
            is_false = images_to_warning(test, [profile_of(draw(rng)) for _ in range(n_good)], rng) > 0
            noticed.append(not is_false and images_to_warning(test, changed, rng) > 0)
    return noticed


def print_false_warnings(options: argparse.Namespace) -> None:
    """Print the second table."""
    print("\n| law | specimens | sequences | images each | warned |")
    print("|---" * 5 + "|")
    totals = np.zeros(2, dtype=int)
    for law in options.laws:
        for n in options.specimens:
            warned = 0
            for seed in range(options.normal_sequences):
                rng = np.random.default_rng((seed, n, 9))
                test = DriftTest(np.transpose([profile_of(LAWS[law](rng)) for _ in range(n)]))
                warned += images_to_warning(test, [profile_of(LAWS[law](rng)) for _ in range(200)], rng) > 0
            totals += (warned, options.normal_sequences)
            print(f"| {law} | {n} | {options.normal_sequences} | 200 | {warned} |", flush=True)
    print(f"\nwarned: {totals[0]} of {totals[1]} ({totals[0] / max(totals[1], 1):.2%})")


def print_real(model_path: Path, folder: str, options: argparse.Namespace) -> None:
    """Print the third table."""
    model = load_model(model_path)
    network = model.network("cpu", options.weights)
    assert model.calibration is not None
    held_out = model.calibration.held_out_profiles
    planes = [read_planes(path, channels=options.channels)[0] for path in find_images([folder])][: options.images]
    print(f"\n{folder}: {len(planes)} images, {len(held_out[0])} held-out specimens\n")
    print("| change | median moved by (SD of images) | noticed within 10 | images until then |")
    print("|---" * 4 + "|")
    normal: NDArray[np.float64] | None = None
    for name, change in CHANGES.items():
        found = np.array([detect(model, _changed(plane, change), network=network).profile for plane in planes])
        normal = found if normal is None else normal
        moved = (found[:, 0] - normal[:, 0]).mean() / normal[:, 0].std()
        until = []
        for seed in range(options.sequences):
            rng = np.random.default_rng(seed)
            sequence = found[rng.permutation(len(found))[:N_IMAGES]]
            until.append(images_to_warning(DriftTest(held_out), list(map(tuple, sequence)), rng))
        noticed = [n for n in until if n]
        median = f"{np.median(noticed):.0f}" if noticed else "-"
        print(f"| {name} | {moved:+.1f} | {len(noticed) / len(until):.2f} | {median} |", flush=True)


def _changed(plane: Plane, change: Callable[[Image], Image]) -> Plane:
    values = np.stack([change(channel.astype(np.float64)) for channel in plane.read()])
    return Plane(data=values.astype(np.float32), axes="CYX", name=plane.name, pixel_size=plane.pixel_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", nargs="*", choices=list(LAWS), default=list(LAWS), metavar="LAW")
    parser.add_argument("--specimens", nargs="+", type=int, default=[10, 20, 50], help="numbers of held-out specimens")
    parser.add_argument("--sequences", type=int, default=20, help="changed sequences of each kind (%(default)s)")
    parser.add_argument("--normal-sequences", type=int, default=34, help="unchanged ones of each kind (%(default)s)")
    parser.add_argument("--real", nargs=2, action="append", default=[], metavar=("MODEL", "FOLDER"))
    parser.add_argument("--images", type=int, default=24, help="images of a folder (%(default)s)")
    parser.add_argument("--channels", nargs="+", type=int)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    if options.laws:
        print_power(options)
        print_false_warnings(options)
    for model, folder in options.real:
        print_real(Path(model), folder, options)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
