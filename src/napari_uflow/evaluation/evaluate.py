"""Evaluation of a model on images with known masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ImageError
from napari_uflow.evaluation.metrics import auroc
from napari_uflow.evaluation.summary import Evaluation, evaluate_maps
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import Progress, Steps, within
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.system.devices import choose_device

__all__ = ["EvaluatedImage", "EvaluationRun", "TestImage", "evaluate_steps", "find_test_images"]

_NORMAL_KIND = "good"


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
            If the shapes of mask and image differ.
        """
        if self.truth is None:
            return np.zeros(self.plane.shape, dtype=bool)
        mask: NDArray[np.bool_] = read_planes(self.truth)[0].read().max(axis=0) > 0
        if mask.shape != self.plane.shape:
            raise ImageError(
                f"the mask '{self.truth}' has {mask.shape[0]} x {mask.shape[1]} pixels, but its image has "
                f"{self.plane.shape[0]} x {self.plane.shape[1]}"
            )
        return mask


@dataclass(frozen=True, eq=False)
class EvaluatedImage:
    """Test image and its detection."""

    image: TestImage
    detection: Detection = field(repr=False)


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
    """

    evaluation: Evaluation
    image_auroc_nfa: float
    images: tuple[EvaluatedImage, ...] = field(repr=False)

    def to_dict(self) -> dict[str, int | float | None]:
        """Return all metrics by name, with None for NaN, for JSON."""
        by_nfa = None if math.isnan(self.image_auroc_nfa) else self.image_auroc_nfa
        return {**self.evaluation.to_dict(), "image_auroc_nfa": by_nfa}


def find_test_images(
    root: str | Path,
    *,
    channels: Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
) -> list[TestImage]:
    """Find the test images of a data set.

    Parameters
    ----------
    root : path
        Folder with ``test/good/*``, ``test/KIND/*`` and ``ground_truth/KIND/NAME_mask.png`` (or ``NAME.png``, or TIFF);
        without a folder ``test``, the folder that contains ``good`` and ``KIND``.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.

    Raises
    ------
    ImageError
        If there is no image.
    """
    root = Path(root)
    test = root / "test" if (root / "test").is_dir() else root
    truth = test.parent / "ground_truth"
    images = []
    kinds = sorted(folder for folder in test.iterdir() if folder.is_dir()) if test.is_dir() else []
    for folder in kinds:
        for path in find_images(folder):
            mask = None
            if folder.name != _NORMAL_KIND:
                names = [f"{path.stem}{part}{end}" for part in ("_mask", "") for end in (".png", ".tif", ".tiff")]
                mask = next((truth / folder.name / n for n in names if (truth / folder.name / n).is_file()), None)
            planes = read_planes(path, channels=channels, axes=axes, series=series)
            if len(planes) != 1:
                raise ImageError(f"'{path}' is a stack of {len(planes)} planes; test images must be single planes")
            images.append(TestImage(planes[0], folder.name, mask))
    if not images:
        raise ImageError(
            f"no test image in '{root}': it must contain test/good, test/KIND and ground_truth/KIND, where KIND "
            f"is a kind of anomaly"
        )
    return images


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
    return EvaluationRun(evaluation, by_nfa, tuple(done))
