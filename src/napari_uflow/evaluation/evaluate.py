"""Evaluation of a model on images with known masks."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ImageError
from napari_uflow.evaluation.metrics import auroc, iou, regions_found
from napari_uflow.evaluation.summary import Evaluation, evaluate_maps
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import Message, Progress, Steps, or_stop, within
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.store.masks import MaskFolder, read_masks
from napari_uflow.store.provenance import left_out_text, without_results
from napari_uflow.system.devices import choose_device
from napari_uflow.wording import counted

__all__ = ["EvaluatedImage", "EvaluationRun", "TestImage", "evaluate_steps", "find_test_images"]

logger = logging.getLogger(__name__)

_NORMAL_KIND = "good"
# Names in a message.
_MOST_NAMES = 5


@dataclass(frozen=True, eq=False)
class TestImage:
    """Image with a known mask.

    Attributes
    ----------
    plane : Plane
        Image.
    kind : str
        "good", or the kind of anomaly (name of the folder).
    truth : Path or None
        File of the mask; None for a normal image, or an anomalous one without a mask.
    """

    __test__ = False  # not a test class for pytest

    plane: Plane
    kind: str
    truth: Path | None

    @property
    def is_anomalous(self) -> bool:
        """True if the image has an anomaly."""
        return self.kind != _NORMAL_KIND

    def mask(self) -> NDArray[np.bool_]:
        """Read the true mask (M, N) bool; all False if there is none.

        Raises
        ------
        ImageError
            If the mask cannot be read, or does not fit the image.
        """
        if self.truth is None:
            return np.zeros(self.plane.shape, dtype=bool)
        return read_masks(self.truth, [self.plane])[0][:, :]


@dataclass(frozen=True, eq=False)
class EvaluatedImage:
    """Test image and its detection."""

    image: TestImage
    detection: Detection = field(repr=False)

    def row(self) -> tuple[object, ...]:
        """Return the row of the image in a table with `EVALUATION_COLUMNS`; "" for what is not known without a mask."""
        found, mask = self.detection, self.image.mask()
        score = np.fmax.reduce(found.score, axis=None)
        truth: tuple[object, ...] = ("", "", "")
        if mask.any():
            n_found, n_true = regions_found([found.labels], [mask])
            truth = (n_true, n_found, f"{iou([found.labels], [mask]):.6g}")
        return (
            Path(self.image.plane.source or self.image.plane.name).name,
            self.image.kind,
            "yes" if mask.any() else "no",
            len(found.regions),
            f"{found.lowest_log10_nfa:.6g}",
            f"{score:.6g}",
            *truth,
        )


@dataclass(frozen=True, eq=False)
class EvaluationRun:
    """Result of an evaluation.

    Attributes
    ----------
    evaluation : Evaluation
        All metrics; `image_auroc` ranks images by the maximum of the heatmap.
    image_auroc_nfa : float
        Area under the ROC curve, 0 to 1, with images ranked by the lowest NFA of their regions.
    images : tuple of EvaluatedImage
        Every image with its detection.
    without_mask : tuple of TestImage
        Anomalous images without a mask, or with an empty one: only the numbers per image count them.
    """

    evaluation: Evaluation
    image_auroc_nfa: float
    images: tuple[EvaluatedImage, ...] = field(repr=False)
    without_mask: tuple[TestImage, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, int | float | None]:
        """Return all metrics by name, with None for NaN, for JSON."""
        by_nfa = None if math.isnan(self.image_auroc_nfa) else self.image_auroc_nfa
        return {**self.evaluation.to_dict(), "image_auroc_nfa": by_nfa, "n_without_mask": len(self.without_mask)}


def find_test_images(
    root: str | Path,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
    report: Callable[[str], None] = logger.warning,
) -> list[TestImage]:
    """Find the test images of a data set.

    Parameters
    ----------
    root : path
        Folder with ``test/good/*``, ``test/KIND/*`` and ``ground_truth/KIND/NAME_mask.png`` (or ``NAME.png``, or any
        other kind of image); without a folder ``test``, the folder that contains ``good`` and ``KIND``.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.
    report : callable
        Is told of results of a detection among the images, which are left out; by default they are logged.

    Raises
    ------
    ImageError
        If there is no image, one is a stack, or one has several masks.
    ConfigError
        If all files are results of a detection.
    """
    root = Path(root)
    test = root / "test" if os.path.isdir(root / "test") else root
    truth = test.parent / "ground_truth"
    kinds = sorted(folder for folder in test.iterdir() if folder.is_dir()) if os.path.isdir(test) else []
    found = {path: folder.name for folder in kinds for path in find_images(folder)}
    paths, results = without_results(list(found))
    if results:
        report(left_out_text(results))
    masks = {kind: MaskFolder(truth / kind) for kind in set(found.values()) if _has_masks(truth, kind)}
    images = []
    for path in paths:
        kind = found[path]
        planes = read_planes(path, channels=channels, axes=axes, series=series)
        if len(planes) != 1:
            raise ImageError(f"'{path}' is a stack of {len(planes)} planes; test images must be single planes")
        images.append(TestImage(planes[0], kind, masks[kind].find(path) if kind in masks else None))
    if not images:
        raise ImageError(
            f"no test image in '{root}': it must contain test/good, test/KIND and ground_truth/KIND, where KIND "
            f"is a kind of anomaly"
        )
    return images


def _has_masks(truth: Path, kind: str) -> bool:
    return kind != _NORMAL_KIND and (truth / kind).is_dir()


def evaluate_steps(
    model: TrainedModel,
    images: Sequence[TestImage],
    config: DetectionConfig,
    *,
    device: str = "auto",
    weights: str | Path | None = None,
) -> Steps[EvaluationRun]:
    """Detect in images with known masks and compute all metrics.

    Parameters
    ----------
    model : TrainedModel
        Trained model.
    images : sequence of TestImage
        Images to evaluate.
    config : DetectionConfig
        Parameters of the detection.
    device : str
        As in :func:`~napari_uflow.detection.detect.detect_steps`.
    weights : path, optional
        Weights of the backbone, for a model file without them.

    Yields
    ------
    Message or Progress
        The answer FINISH ends the evaluation without a result.

    Returns
    -------
    EvaluationRun
    """
    # Before the work: a mask that does not fit ends it.
    without = [image for image in images if image.is_anomalous and not image.mask().any()]
    if without:
        text = _without_mask(without, sum(image.is_anomalous for image in images))
        yield from or_stop(Message(text, warning=True))
    network = model.network(choose_device(device), weights)
    done: list[EvaluatedImage] = []
    for i, image in enumerate(images):
        steps = detect_steps(model, image.plane, config, network=network)
        found = yield from within(steps, Progress("Evaluating", i, len(images)))
        done.append(EvaluatedImage(image, found))
    yield Progress("Evaluating", len(images), len(images))
    scores = [np.nan_to_num(item.detection.score) for item in done]
    is_anomalous = [item.image.is_anomalous for item in done]
    evaluation = evaluate_maps(
        scores,
        [item.image.mask() for item in done],
        [item.detection.labels for item in done],
        is_anomalous=is_anomalous,
    )
    by_nfa = auroc([-item.detection.lowest_log10_nfa for item in done], is_anomalous)
    return EvaluationRun(evaluation, by_nfa, tuple(done), tuple(without))


def _without_mask(images: Sequence[TestImage], n_anomalous: int) -> str:
    """Return which anomalous images have no mask, and what that means."""
    names = [f"{image.kind}/{Path(image.plane.source or image.plane.name).name}" for image in images[:_MOST_NAMES]]
    more = f" and {len(images) - _MOST_NAMES} more" if len(images) > _MOST_NAMES else ""
    return (
        f"{len(images)} of {counted(n_anomalous, 'anomalous image')} without a mask, or with an empty one "
        f"({', '.join(names)}{more}): the numbers of pixels and regions leave them out"
    )
