"""Train and evaluate on data sets with known masks; prints one Markdown row per run.

Layout of a data set: ``train/good``, ``test/good``, ``test/KIND``, ``ground_truth/KIND/NAME_mask.png``. Example, two
backbones and two normalisations:

    python benchmarks/real_data.py DATASET --backbones scattering resnet18 --norms whiten map \
        --weights resnet18.safetensors --output evaluation -- --steps 300 --learning-rate 0.002

Flags after ``--`` are passed to ``napari-uflow train``.
"""

import argparse
import sys
import time
from pathlib import Path

from napari_uflow.cli import main as napari_uflow
from napari_uflow.config import DetectionConfig
from napari_uflow.evaluation.evaluate import EvaluationRun, evaluate_steps, find_test_images
from napari_uflow.progress import drain
from napari_uflow.store.checkpoint import load_model

COLUMNS = {
    "image AUROC": "image_auroc",
    "by NFA": "image_auroc_nfa",
    "pixel AUROC": "pixel_auroc",
    "AUPRO": "aupro",
    "IoU": "iou",
    "oracle IoU": "oracle_iou",
    "regions detected": "region_recall",
    "false alarms / normal image": "false_alarms_per_image",
    "normal images with any": "fraction_with_false_alarm",
}


def main() -> int:
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="+", type=Path, help="folders of data sets")
    parser.add_argument("--backbones", nargs="+", default=["scattering"])
    parser.add_argument("--norms", nargs="+", default=["whiten"])
    parser.add_argument("--weights", type=Path, help="weights of the backbones that need some")
    parser.add_argument("--output", type=Path, default=Path("evaluation"), help="folder for models and figures")
    options = parser.parse_args(arguments[:split])
    print("| data | backbone | norm | " + " | ".join(COLUMNS) + " | training | detection |")
    print("|---" * (len(COLUMNS) + 5) + "|")
    for root in options.roots:
        for backbone in options.backbones:
            for norm in options.norms:
                _run(root, backbone, norm, options, arguments[split + 1 :])
    return 0


def _run(root: Path, backbone: str, norm: str, options: argparse.Namespace, flags: list[str]) -> None:
    name = root.name if root.name != "tiles256" else root.parent.name
    folder = options.output / f"{name}-{backbone}-{norm}"
    model = folder / "model.safetensors"
    weights = ["--weights", str(options.weights)] if options.weights and backbone != "scattering" else []
    command = ["train", str(root / "train" / "good"), "-o", str(model), "--backbone", backbone, "--feature-norm", norm]
    start = time.perf_counter()
    if napari_uflow([*command, *weights, *flags]) != 0:
        raise SystemExit(f"training failed: {' '.join(command)}")
    trained = time.perf_counter() - start
    start = time.perf_counter()
    images = find_test_images(root, channels=[0])
    run: EvaluationRun = drain(evaluate_steps(load_model(model), images, DetectionConfig()))
    detected = (time.perf_counter() - start) / len(images)
    if napari_uflow(["evaluate", str(model), str(root), "-o", str(folder), "--channels", "0"]) != 0:
        raise SystemExit("evaluation failed")
    numbers = run.to_dict()
    cells = [f"{numbers[key]:.3f}" for key in COLUMNS.values()]
    row = [name, backbone, norm, *cells, f"{trained:.0f} s", f"{detected:.2f} s/image"]
    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
