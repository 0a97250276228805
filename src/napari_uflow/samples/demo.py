"""Demonstration on the built-in sample: from normal images to a table, offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_uflow.batch.output import overview_row, write_detections
from napari_uflow.config import DetectionConfig, ModelConfig, TrainingConfig
from napari_uflow.errors import UFlowError
from napari_uflow.evaluation.evaluate import EvaluationRun, evaluate_steps, find_test_images
from napari_uflow.evaluation.figures import save_figure
from napari_uflow.evaluation.overview import overview
from napari_uflow.samples.dataset import write_fibre_dataset
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.store.model_place import check_model_place
from napari_uflow.store.provenance import check_replaceable
from napari_uflow.store.regions import write_regions
from napari_uflow.store.report import write_report
from napari_uflow.training.regions import read_regions
from napari_uflow.training.train import train_steps

__all__ = ["run_demo"]

_SHAPE = (256, 256)
_N_TRAIN = 72
_N_TEST_GOOD = 12
_N_TEST_DEFECTIVE = 18
# Aligned fibres, as spun onto a rotating drum, with obvious defects: images of randomly oriented fibres are too varied
# for a flow after three minutes of training.
_DRAWING = {"aligned": True, "diameter_px": 5.0, "severity": (0.8, 1.0)}
# No mirrored copies, which would have another direction. The demo takes less than three minutes on two CPU cores.
_TRAINING = {"steps": 80, "batch_size": 6, "augmentations": 1, "check_every": 25, "holdout": 0.25}


def run_demo(output: Path, *, seed: int, device: str, run: Callable[[Any], Any], overwrite: bool = False) -> int:
    """Write the sample, train, detect, evaluate, and write model, maps, tables and an overview.

    Parameters
    ----------
    output : Path
        Folder to write to.
    seed : int
        Seed of the sample data set.
    device : str
        As in :func:`~napari_uflow.training.train.train_steps`.
    run : callable
        Runs a job and returns its result.
    overwrite : bool
        Replace files that are not of an earlier demonstration.

    Returns
    -------
    int
        The exit code, 0.

    Raises
    ------
    OverwriteError
        If there is a file of another origin in the place of a result or among the images of the sample.
    UFlowError
        If a file cannot be written.
    """
    _check(output, overwrite=overwrite)
    data, found = output / "sample", output / "found"
    try:
        found.mkdir(exist_ok=True)
        write_fibre_dataset(
            data,
            n_train=_N_TRAIN,
            n_test_good=_N_TEST_GOOD,
            n_test_defective=_N_TEST_DEFECTIVE,
            shape=_SHAPE,
            seed=seed,
            **_DRAWING,
        )
    except OSError as error:
        raise UFlowError(
            f"the sample cannot be written to '{output}' ({error.strerror or error}); choose another place"
        ) from error
    regions = read_regions(data / "train" / "good")
    training = TrainingConfig.from_dict({**_TRAINING, "seed": seed})
    model = run(train_steps(regions, ModelConfig(), training, device=device))
    save_model(output / "model.safetensors", model, overwrite=overwrite)

    # The demo continues with the model file, as a user would.
    model = load_model(output / "model.safetensors")
    result: EvaluationRun = run(evaluate_steps(model, find_test_images(data), DetectionConfig(), device=device))
    for item in result.images:
        stem = f"{item.image.kind}_{item.image.plane.name}"
        write_detections(found, stem, [item.image.plane], [item.detection])
    write_regions(output / "regions.csv", [item.detection for item in result.images], overwrite=overwrite)
    write_report(output / "evaluation.json", result.to_dict())
    shown: dict[str, int] = {}
    rows = []
    for item in result.images:
        shown[item.image.kind] = shown.get(item.image.kind, 0) + 1
        if shown[item.image.kind] <= 2:
            rows.append(overview_row(item.image.plane, item.detection, item.image.mask(), kind=item.image.kind))
    limits = DetectionConfig().heatmap_limits
    save_figure(overview(rows, score_limits=limits, title="napari-uflow demo"), output / "overview.png")

    print(result.evaluation.as_table("built-in fibre sample"))
    print(f"{'image AUROC, ranked by NFA':<40}{result.image_auroc_nfa:>9.3f}")
    print(f"reliability: {result.images[0].detection.guarantee.text()}")
    print()
    print(f"overview  {output / 'overview.png'}")
    print(f"model     {output / 'model.safetensors'}")
    print(f"maps      {found}{'/'}*_heatmap.tif, *_log10_nfa.tif, *_labels.tif")
    print(f"regions   {output / 'regions.csv'}")
    return 0


def _check(output: Path, *, overwrite: bool) -> None:
    """Raise if a file of another origin would be replaced, or taken for an image of the sample."""
    check_model_place(output / "model.safetensors", overwrite=overwrite)
    places = [output / name for name in ("regions.csv", "evaluation.json", "overview.png")]
    for place in [*places, *(output / "sample").rglob("*.*"), *(output / "found").glob("*.tif")]:
        check_replaceable(place, overwrite=overwrite)
