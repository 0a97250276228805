"""Quality on data sets with ground truth, compared with other methods: equal weights, images, metrics and seeds.

    python benchmarks/quality.py DATASET ... --weights resnet18.safetensors --work RESULTS \
        --anomalib-python OTHER_ENVIRONMENT/bin/python [--methods default patchcore] [--seeds 0 1 2]
    python benchmarks/quality.py --work RESULTS --table

A data set has the layout of MVTec AD (``train/good``, ``test/good``, ``test/KIND``, ``ground_truth``), or a folder
``normal`` and others with anomalies, without masks. The specimen of a normal image is then its name up to the last
underscore, and every third specimen by name, from the second on, is for testing.

The methods of anomalib (PatchCore, PaDiM, U-Flow) run in an environment of their own, see quality_peers.py; all scores
are evaluated here, by the code of this package. Each result (data set, method, seed) is written to the folder RESULTS
and not computed again. Times are CPU times, summed over cores. The tables contain means over seeds and 95 % intervals
of a bootstrap over test images, normal and anomalous ones apart; the same resamples are used for all methods, so that
differences are paired.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nearest_neighbour
from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.evaluation.evaluate import TestImage, find_test_images
from napari_uflow.evaluation.metrics import iou
from napari_uflow.evaluation.pixels import Pixels
from napari_uflow.image.specimen import specimen_of
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.system.devices import choose_device
from napari_uflow.training.regions import read_regions
from napari_uflow.training.train import train
from resampling import Tally, count_pixels, image_metrics, interval, pixel_metrics, resamples

OURS: dict[str, dict[str, Any]] = {
    "default": {},
    "instant": {"training": {"steps": 0, "augmentations": 1}},
    "resnet18": {"model": {"backbone": "resnet18"}},
    "instant-x2": {"model": {"magnification": 2.0}, "training": {"steps": 0, "augmentations": 1}},
    "pyramid": {"model": {"levels": "pyramid", "contrast": 1.0}, "detection": {"heatmap": "published"}},
}
"""Configurations of this package: values of ModelConfig ("model"), TrainingConfig and DetectionConfig, by name."""

ANOMALIB = {"patchcore": "PatchCore", "padim": "PaDiM", "uflow": "anomalib's U-Flow"}
PEERS = {**ANOMALIB, "nearest-neighbour": "nearest neighbour"}
STEPS = 200
ACCEPTED = (0.1, 1.0, 3.0)
SPECIMEN = r"^(.+)_[^_]+$"
IMAGE_RESAMPLES = 1000
PIXEL_RESAMPLES = 200


@dataclass(frozen=True)
class DataSet:
    """Images to train on and to test on."""

    name: str
    train: list[Path]
    test: list[TestImage]
    specimen_pattern: str = ""

    @classmethod
    def find(cls, root: Path) -> DataSet:
        """Find the images of a folder."""
        name = root.name if root.name != "tiles256" else root.parent.name
        if (root / "train" / "good").is_dir():
            return cls(name, find_images(root / "train" / "good"), find_test_images(root))
        normal = find_images(root / "normal")
        specimens = sorted({specimen_of(path.stem, SPECIMEN) for path in normal})
        is_test = {path: specimen_of(path.stem, SPECIMEN) in specimens[1::3] for path in normal}
        test = [TestImage(read_planes(path)[0], "good", None) for path in normal if is_test[path]]
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name != "normal"):
            test += [TestImage(read_planes(path)[0], folder.name, None) for path in find_images(folder)]
        return cls(name, [path for path in normal if not is_test[path]], test, SPECIMEN)

    @property
    def has_masks(self) -> bool:
        """True if the truth is known by pixel."""
        return any(image.truth is not None for image in self.test)

    @property
    def test_files(self) -> list[Path]:
        """Files of the test images."""
        return [Path(str(image.plane.source)) for image in self.test]


@dataclass
class Outcome:
    """What a method says of the test images, in their order."""

    scores: list[float]
    training_s: float
    image_s: float
    maps: Sequence[NDArray[np.float32]]
    scores_nfa: list[float] = field(default_factory=list)
    labels: list[NDArray[np.int32]] = field(default_factory=list)
    found: list[list[int]] = field(default_factory=list)


def run_ours(data: DataSet, name: str, seed: int, options: argparse.Namespace) -> Outcome:
    """Train and test a configuration of this package."""
    values = OURS[name]
    config = ModelConfig(**values.get("model", {}))
    training = TrainingConfig(**{"seed": seed, "specimen_pattern": data.specimen_pattern, **values.get("training", {})})
    detection = DetectionConfig(**values.get("detection", {}))
    weights = options.weights if config.backbone == "resnet18" else None
    began = time.process_time()
    model = train(read_regions(data.train), config, training, weights=weights)
    trained = time.process_time()
    network = model.network(choose_device("auto"))
    results = [detect(model, image.plane, detection, network=network) for image in data.test]
    ended = time.process_time()
    maps = [np.nan_to_num(result.score) for result in results]
    return Outcome(
        [float(heatmap.max()) for heatmap in maps],
        trained - began,
        (ended - trained) / len(results),
        maps,
        scores_nfa=[-result.lowest_log10_nfa for result in results],
        labels=[result.labels for result in results],
        found=[[int(label_mask(r.log10_nfa, math.log10(e)).max()) for e in ACCEPTED] for r in results],
    )


def run_nearest_neighbour(data: DataSet, seed: int, options: argparse.Namespace) -> Outcome:
    """Test the baseline of nearest_neighbour.py with its defaults."""
    began = time.process_time()
    network = nearest_neighbour.load_network(options.weights)
    patches = partial(nearest_neighbour.patches_of, network, margin=32, unit_length=False)
    memory = nearest_neighbour.memory_of(patches, data.train, 4000, seed)
    trained = time.process_time()
    maps = []
    for path in data.test_files:
        image = nearest_neighbour.read_image(path)
        maps.append(nearest_neighbour.score_map(patches(image), memory, tuple(image.shape[1:]), 4.0))
    image_s = (time.process_time() - trained) / len(maps)
    return Outcome([float(heatmap.max()) for heatmap in maps], trained - began, image_s, maps)


def run_anomalib(data: DataSet, method: str, seed: int, options: argparse.Namespace) -> Outcome:
    """Train and test a method of anomalib in its own environment, or read what it wrote there before."""
    if options.anomalib_python is None:
        raise SystemExit(f"{method} needs --anomalib-python")
    output = options.work / data.name / f"{method}-{seed}-maps.npz"
    if not output.exists():
        job = {
            "method": method,
            "seed": seed,
            "weights": str(options.weights.absolute()),
            "train": [str(path.absolute()) for path in data.train],
            "test": [str(path.absolute()) for path in data.test_files],
            "steps": STEPS,
            "maps": data.has_masks,
            "output": str(output.absolute()),
        }
        job_file = output.with_suffix(".job")
        job_file.write_text(json.dumps(job))
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"TQDM_DISABLE": "1"}
        worker = Path(__file__).with_name("quality_peers.py")
        command = [str(options.anomalib_python), "-W", "ignore", str(worker), str(job_file)]
        subprocess.run(command, check=True, env=environment)
        job_file.unlink()
    with np.load(output) as found:
        maps = [found[f"map_{i}"] for i in range(len(data.test))] if data.has_masks else []
        return Outcome(found["scores"].tolist(), float(found["training_s"]), float(found["image_s"]), maps)


def tally_of(data: DataSet, outcome: Outcome) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Return the counts for the bootstrap and the exact metrics."""
    tally: dict[str, NDArray[Any]] = {
        "is_anomalous": np.array([image.is_anomalous for image in data.test]),
        "score": np.array(outcome.scores),
    }
    exact: dict[str, float] = {}
    if outcome.scores_nfa:
        tally |= {"score_nfa": np.array(outcome.scores_nfa)}
        tally |= {"found": np.array(outcome.found), "accepted": np.array(ACCEPTED)}
    if data.has_masks:
        masks = [image.mask() for image in data.test]
        pixels = Pixels.pool(outcome.maps, masks)
        tally |= count_pixels(pixels, outcome.maps, masks)
        exact |= {"pixel AUROC": pixels.auroc(), "AUPRO": pixels.aupro(0.3), "oracle IoU": pixels.best_iou()[0]}
        if outcome.labels:
            pairs = [(labels > 0, mask) for labels, mask in zip(outcome.labels, masks, strict=True)]
            tally["both"] = np.array([np.count_nonzero(found & mask) for found, mask in pairs])
            tally["either"] = np.array([np.count_nonzero(found | mask) for found, mask in pairs])
            exact["mask IoU"] = iou(outcome.labels, masks)
            exact["mask IoU / oracle IoU"] = exact["mask IoU"] / exact["oracle IoU"]
    once = np.ones(len(data.test), np.intp)
    return tally, {**image_metrics(tally, once), **exact}


def run(data: DataSet, method: str, seed: int, options: argparse.Namespace) -> None:
    """Compute one result, unless it is there."""
    file = options.work / data.name / f"{method}-{seed}.json"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if method in OURS:
        outcome = run_ours(data, method, seed, options)
    elif method in ANOMALIB:
        outcome = run_anomalib(data, method, seed, options)
    else:
        outcome = run_nearest_neighbour(data, seed, options)
    tally, metrics = tally_of(data, outcome)
    np.savez_compressed(file.with_suffix(".npz"), **tally)
    result = {
        "method": method,
        "is_peer": method in PEERS,
        "seed": seed,
        "n_train": len(data.train),
        "training_s": outcome.training_s,
        "image_s": outcome.image_s,
        "metrics": metrics,
    }
    file.write_text(json.dumps(result, indent=1) + "\n")
    shown = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    print(f"{data.name}, {method}, seed {seed}: {shown}; {outcome.training_s:.0f} s training", flush=True)


@dataclass(frozen=True)
class Summary:
    """Results of one method on one data set, for all seeds."""

    method: str
    is_peer: bool
    seeds: int
    training_s: float
    image_s: float
    mean: dict[str, float]
    resampled: dict[str, NDArray[np.float64]] = field(repr=False)

    @classmethod
    def read(cls, files: Sequence[Path], data: str) -> Summary:
        """Read the results of some seeds and resample them; the resamples depend on the data set alone."""
        results = [json.loads(file.read_text()) for file in files]
        resampled: dict[str, list[NDArray[np.float64]]] = {}
        for file in files:
            with np.load(file.with_suffix(".npz")) as arrays:
                tally = dict(arrays)
            for name, values in _bootstrap(tally, zlib.crc32(data.encode())).items():
                resampled.setdefault(name, []).append(values)
        return cls(
            results[0]["method"],
            results[0]["is_peer"],
            len(results),
            float(np.mean([result["training_s"] for result in results])),
            float(np.mean([result["image_s"] for result in results])),
            {key: float(np.mean([r["metrics"][key] for r in results])) for key in results[0]["metrics"]},
            {key: np.mean(values, axis=0) for key, values in resampled.items()},
        )

    def cell(self, metric: str, form: str = ".3f") -> str:
        """Return the mean over seeds and its interval."""
        if metric not in self.mean:
            return "-"
        low, high = interval(self.resampled[metric])
        return f"{self.mean[metric]:{form}} [{low:{form}}, {high:{form}}]"


def _bootstrap(tally: Tally, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of every resample."""
    rows: dict[str, list[float]] = {}
    compute: tuple[tuple[Callable[[Tally, NDArray[np.intp]], dict[str, float]], int], ...]
    compute = ((image_metrics, IMAGE_RESAMPLES), (pixel_metrics, PIXEL_RESAMPLES))
    for metrics, n in compute:
        for times in resamples(tally["is_anomalous"], n, seed):
            for name, value in metrics(tally, times).items():
                rows.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in rows.items()}


RANKS = ("image AUROC", "image AUROC by NFA", "pixel AUROC", "AUPRO", "oracle IoU")


def print_tables(work: Path, names: Sequence[str]) -> None:
    """Print Markdown tables of all results, or those of some data sets."""
    folders = [folder for folder in sorted(work.iterdir()) if folder.is_dir() and (not names or folder.name in names)]
    for folder in folders:
        files: dict[str, list[Path]] = {}
        for file in sorted(folder.glob("*.json")):
            if file.with_suffix(".npz").exists():
                files.setdefault(file.stem.rpartition("-")[0], []).append(file)
        if not files:
            continue
        summaries = [Summary.read(some, folder.name) for some in files.values()]
        summaries.sort(key=lambda summary: summary.is_peer)
        first = next(iter(files.values()))[0]
        is_anomalous = np.load(first.with_suffix(".npz"))["is_anomalous"]
        n_train = json.loads(first.read_text())["n_train"]
        n_normal, n_anomalous = np.bincount(is_anomalous, minlength=2)
        print(f"\n**{folder.name}**: {n_train} images to train on; test: {n_normal} normal, {n_anomalous} anomalous.\n")
        ranks = [name for name in RANKS if any(name in summary.mean for summary in summaries)]
        _print_table(
            ["method", "seeds", *ranks, "training", "detection"],
            (
                [
                    PEERS.get(s.method, f"`{s.method}`"),
                    str(s.seeds),
                    *(s.cell(name) for name in ranks),
                    f"{s.training_s:.0f} s",
                    f"{s.image_s:.2f} s/image",
                ]
                for s in summaries
            ),
        )
        _print_masks([summary for summary in summaries if not summary.is_peer])
        _print_differences(summaries, ranks)


def _print_masks(summaries: Sequence[Summary]) -> None:
    if not summaries:
        return
    print("\nMasks at one accepted false alarm per image, and false alarms per normal image (images with any):\n")
    rows = []
    for s in summaries:
        row = [f"`{s.method}`", s.cell("mask IoU"), s.cell("mask IoU / oracle IoU", ".0%")]
        row += [
            f"{s.cell(f'false alarms at {e:g}', '.2f')} ({s.mean[f'normal images with any at {e:g}']:.0%})"
            for e in ACCEPTED
        ]
        rows.append(row)
    _print_table(["configuration", "mask IoU", "of the oracle's", *(f"at {e:g}" for e in ACCEPTED)], rows)


def _print_differences(summaries: Sequence[Summary], ranks: Sequence[str]) -> None:
    """Print the paired differences to the best peer of each metric."""
    peers = [summary for summary in summaries if summary.is_peer]
    ours = [summary for summary in summaries if not summary.is_peer]
    if not peers or not ours:
        return
    print("\nDifference to the best of the other methods (in parentheses):\n")
    rows = []
    for s in ours:
        row = [f"`{s.method}`"]
        for name in ranks:
            key = name.removesuffix(" by NFA")
            best = max(peers, key=lambda peer, key=key: peer.mean[key])
            low, high = interval(s.resampled[name] - best.resampled[key])
            difference = s.mean[name] - best.mean[key]
            row.append(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}] ({PEERS[best.method]})")
        rows.append(row)
    _print_table(["configuration", *ranks], rows)


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def main() -> None:
    methods = [*OURS, *PEERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, help="folders of data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results")
    parser.add_argument("--weights", type=Path, help="safetensors file of timm's resnet18, stem to layer 3")
    parser.add_argument("--anomalib-python", type=Path, help="Python interpreter of an environment with anomalib")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, metavar="METHOD", help=str(methods))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print the tables of the results so far")
    options = parser.parse_args()
    if not options.table:
        if options.weights is None:
            parser.error("--weights is required, except with --table")
        for data in map(DataSet.find, options.roots):
            for method in options.methods:
                for seed in options.seeds:
                    run(data, method, seed, options)
    print_tables(options.work, [DataSet.find(root).name for root in options.roots])


if __name__ == "__main__":
    main()
