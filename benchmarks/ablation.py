"""What each choice of the default model brings: one changed at a time, on data with ground truth.

    python benchmarks/ablation.py ROOT ... [--seeds 0 1 2] [--only NAME ...] [--weights resnet18.safetensors]

A ROOT has ``train/good``, ``test/good``, ``test/KIND`` and ``ground_truth/KIND/NAME_mask.png``. Training is instant
unless the row says otherwise: the rows differ in one choice each, so the cheapest model shows it. A cell is the mean
over the seeds, which draw the held-out specimens and the memory; the range follows in brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_uflow.config import DetectionConfig, ModelConfig, training_preset
from napari_uflow.evaluation.evaluate import evaluate_steps, find_test_images
from napari_uflow.model.classes import N_CLASSES
from napari_uflow.model.memory import Memory
from napari_uflow.nfa.calibration import MapCalibration
from napari_uflow.progress import Chunks, Steps, drain
from napari_uflow.training.evidence import evidence_steps
from napari_uflow.training.regions import read_regions
from napari_uflow.training.train import train

COLUMNS = {
    "image AUROC": "image_auroc",
    "by NFA": "image_auroc_nfa",
    "pixel AUROC": "pixel_auroc",
    "AUPRO": "aupro",
    "IoU": "iou",
    "oracle IoU": "oracle_iou",
    "false alarms": "false_alarms_per_image",
}


@contextmanager
def one_class() -> Iterator[None]:
    """Judge every position as if it were inside."""

    def inside(shape: tuple[int, int], *_: Any) -> NDArray[np.int64]:
        return np.full(shape, N_CLASSES - 1)

    with patch("napari_uflow.model.uflow.border_classes", inside):
        yield


@contextmanager
def median_subtracted() -> Iterator[None]:
    """Subtract the median of each image from the evidence."""
    original = MapCalibration.fit.__func__  # type: ignore[attr-defined]

    def fit(cls: type[MapCalibration], *args: Any, **options: Any) -> MapCalibration:
        found: MapCalibration = original(cls, *args, **{**options, "subtracts_median": True})
        return found

    with patch.object(MapCalibration, "fit", classmethod(fit)):
        yield


def compared(aperture: int) -> Callable[[], AbstractContextManager[None]]:
    """Compare only one aperture with the memory, with the weight of both: 0 the sharp features, 1 the wide ones."""

    @contextmanager
    def only() -> Iterator[None]:
        original = Memory.distance_in_chunks

        def distances(memory: Memory, x: Tensor) -> Chunks[Tensor]:
            found = yield from original(memory, x)
            return found[:, [aperture] * memory.n_parts]

        with patch.object(Memory, "distance_in_chunks", distances):
            yield

    return only


@contextmanager
def without_held_out() -> Iterator[None]:
    """Remember specimens that are trained on only."""

    def steps(*args: Any, **options: Any) -> Steps[None]:
        return evidence_steps(*args, **{**options, "remembers_held_out": False})

    with patch("napari_uflow.training.train.evidence_steps", steps):
        yield


@dataclass(frozen=True)
class Variant:
    """One row: changes of the default model and training, and of the program around them."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[None]] = nullcontext


VARIANTS = {
    "default, instant": Variant(),
    "contrast 1": Variant({"contrast": 1.0}),
    "contrast 0.2": Variant({"contrast": 0.2}),
    "one class of positions": Variant(around=one_class),
    "median of each image subtracted": Variant(around=median_subtracted),
    "likelihood alone": Variant({"evidence": "likelihood"}),
    "memory alone": Variant({"evidence": "memory"}),
    "wide features alone": Variant(around=compared(1)),
    "sharp features alone": Variant(around=compared(0)),
    "held-out specimens not remembered": Variant(around=without_held_out),
    "memory of 500": Variant({"memory_size": 500}),
    "memory of 20,000": Variant({"memory_size": 20_000}),
    "octaves 1": Variant({"octaves": 1}),
    "octaves 2": Variant({"octaves": 2}),
    "flow of 200 steps": Variant(training={"steps": 200}),
    "flow of 200 steps, likelihood alone": Variant({"evidence": "likelihood"}, {"steps": 200}),
    "magnification 2": Variant({"magnification": 2.0}),
    "resnet18": Variant({"backbone": "resnet18"}),
    "pyramid, 200 steps": Variant({"levels": "pyramid", "contrast": 1.0}, {"steps": 200}),
}


def measured(root: Path, variant: Variant, seed: int, weights: Path | None) -> dict[str, float | None]:
    """Train and evaluate once; return the numbers by key, and the seconds of the training."""
    model = ModelConfig(**variant.model)
    training = training_preset("instant").replace(**variant.training, seed=seed)
    with variant.around():
        start = time.perf_counter()
        trained = train(
            read_regions([root / "train" / "good"]),
            model,
            training,
            weights=weights if model.backbone == "resnet18" else None,
        )
        seconds = time.perf_counter() - start
        run = drain(evaluate_steps(trained, find_test_images(root), DetectionConfig()))
    return {**run.to_dict(), "seconds": seconds}


def cell(values: list[float | None]) -> str:
    """Return the mean of the seeds and their range."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return ""
    return f"{np.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("roots", nargs="+", type=Path, help="folders of data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--weights", type=Path, help="safetensors file of timm's resnet18; its row is left out without")
    args = parser.parse_args()
    print("| data | variant | " + " | ".join(COLUMNS) + " | training |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for root in args.roots:
        name = root.parent.name if root.name.startswith("tiles") else root.name
        for label in args.only:
            variant = VARIANTS[label]
            if variant.model.get("backbone") == "resnet18" and args.weights is None:
                continue
            runs = [measured(root, variant, seed, args.weights) for seed in args.seeds]
            cells = [cell([run.get(key) for run in runs]) for key in COLUMNS.values()]
            seconds = np.mean([run["seconds"] for run in runs])
            print(f"| {name} | {label} | " + " | ".join(cells) + f" | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
