"""Automatic threshold on real images: observed against accepted false alarms, masks against the best fixed threshold.

For each data set a model is trained (or read from the output folder), calibrated on specimens held out of training and
tested on normal images of other specimens and on anomalous images, by every test of the package.

    python benchmarks/nfa_real.py DATASET ... --weights resnet18.safetensors [--holdout 0.34] [-- --steps 200]

A data set has the layout of MVTec AD (``train/good``, ``test/good``, ``test/KIND``, ``ground_truth``), or a folder
``normal`` and others with anomalies and without masks. For the latter, ``--test-specimens`` gives the beginnings of the
names of normal images for testing; the name of a specimen ends before the last underscore. Flags after ``--`` are
passed to ``napari-uflow train``.

Prints two Markdown tables per data set: false alarms, and masks at one accepted false alarm per image. The oracle is
the fixed threshold on the heatmap with the best IoU, chosen with the truth.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from napari_uflow.cli import main as napari_uflow
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.result import Detection
from napari_uflow.evaluation.evaluate import TestImage, find_test_images
from napari_uflow.evaluation.metrics import auroc, iou, oracle_iou, region_recall
from napari_uflow.nfa.conformal import specimens_needed
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.store.checkpoint import load_model
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.system.devices import choose_device

EPSILONS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
METHODS = {
    "size-conditional, guaranteed": DetectionConfig(),
    "size-conditional, tails": DetectionConfig(calibration="tails"),
    "size-conditional, not calibrated": DetectionConfig(calibration="none"),
    "paper": DetectionConfig(nfa="paper"),
    "paper, as published": DetectionConfig(nfa="paper", as_published=True),
    "binomial": DetectionConfig(nfa="binomial"),
    "binomial, as published": DetectionConfig(nfa="binomial", as_published=True),
}


def split_of(root: Path, test_specimens: list[str], folder: Path) -> tuple[list[str], list[TestImage]]:
    """Return the files to train on and the images to test on."""
    if (root / "train" / "good").is_dir():
        return [str(root / "train" / "good")], find_test_images(root, channels=[0])
    normal = find_images(root / "normal")
    kept = [path for path in normal if path.name.startswith(tuple(test_specimens))]
    if not kept or len(kept) == len(normal):
        raise SystemExit(f"{root}: give some of its normal specimens, not all, with --test-specimens")
    links = folder / "train"
    links.mkdir()
    for path in normal:
        if path not in kept:
            (links / path.name).symlink_to(path.resolve())
    images = [TestImage(read_planes(path, channels=[0])[0], "good", None) for path in kept]
    for kind in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "normal"):
        images += [TestImage(read_planes(path, channels=[0])[0], kind.name, None) for path in find_images(kind)]
    return [str(links)], images


def run(root: Path, options: argparse.Namespace, flags: list[str]) -> None:
    name = root.name if root.name != "tiles256" else root.parent.name
    model_file = options.output / f"{name}-{options.backbone}.safetensors"
    with tempfile.TemporaryDirectory() as temporary:
        files, images = split_of(root, options.test_specimens, Path(temporary))
        if not model_file.exists():
            command = ["train", *files, "-o", str(model_file), "--backbone", options.backbone, "--channels", "0"]
            command += ["--holdout", str(options.holdout)]
            if options.weights and options.backbone != "scattering":
                command += ["--weights", str(options.weights)]
            if not (root / "train").is_dir():
                command += ["--specimen-pattern", "^(.+)_[^_]+$"]
            if napari_uflow([*command, *flags]) != 0:
                raise SystemExit(f"training failed: {' '.join(command)}")
    model = load_model(model_file)
    if model.calibration is None:
        raise SystemExit(f"{name} has too few images to calibrate")
    network = model.network(choose_device("auto"))
    n_specimens = model.calibration.offset.n_specimens
    normal = [p for p in images if not p.is_anomalous]
    anomalous = [p for p in images if p.is_anomalous]
    images = normal + anomalous
    print(f"\n### {name}, {options.backbone}\n")
    print(
        f"{len(model.record.specimens)} specimens to train on, {n_specimens} held out; {len(normal)} normal and "
        f"{len(anomalous)} anomalous test images. (A guarantee of epsilon needs max(3, 1 / epsilon - 1) specimens.)\n"
    )
    heads = [f"{e:g}" + ("" if n_specimens >= specimens_needed(e) else " (not guaranteed)") for e in EPSILONS]
    print("False alarms per normal test image (images with any), by accepted number:\n")
    print("| test | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    masks = [p.mask() for p in images]
    has_masks = any(mask.any() for mask in masks)
    is_anomalous = [p.is_anomalous for p in images]
    lines, oracle = [], math.nan
    for method, config in METHODS.items():
        found: list[Detection] = [detect(model, p.plane, config, network=network) for p in images]
        cells = []
        for epsilon in EPSILONS:
            labels = [label_mask(d.log10_nfa, math.log10(epsilon)) for d in found[: len(normal)]]
            counts = np.array([x.max() for x in labels])
            cells.append(f"{counts.mean():.2f} ({(counts > 0).mean():.0%})")
        print(f"| {method} | " + " | ".join(cells) + " |", flush=True)
        if math.isnan(oracle) and has_masks:
            oracle = oracle_iou([np.nan_to_num(d.score) for d in found], masks)[0]
        by_nfa = auroc([-d.lowest_log10_nfa for d in found], is_anomalous)
        flagged = np.mean([len(d.regions) > 0 for d in found[len(normal) :]])
        cells = [f"{by_nfa:.3f}", f"{flagged:.0%}"]
        if has_masks:
            labels = [d.labels for d in found]
            reached = iou(labels, masks)
            recall = region_recall(labels[len(normal) :], masks[len(normal) :])
            cells += [f"{reached:.3f}", f"{reached / oracle:.0%}", f"{recall:.0%}"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    heads = ["image AUROC by NFA", "anomalous images detected"]
    if has_masks:
        heads += ["IoU", f"of the oracle's {oracle:.3f}", "true regions detected"]
    print("\nAt one accepted false alarm per image:\n")
    print("| test | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    print("\n".join(lines), flush=True)


def main() -> None:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, help="folders of data sets")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", type=Path, help="weights of the backbone")
    parser.add_argument(
        "--holdout", type=float, default=0.2, help="fraction of specimens held out (default: %(default)s)"
    )
    parser.add_argument(
        "--test-specimens", nargs="+", default=[], help="beginnings of the names of normal images for testing"
    )
    parser.add_argument("--output", type=Path, default=Path("evaluation"), help="folder for models")
    options = parser.parse_args(arguments[:split])
    options.output.mkdir(parents=True, exist_ok=True)
    for root in options.roots:
        run(root, options, arguments[split + 1 :])


if __name__ == "__main__":
    main()
