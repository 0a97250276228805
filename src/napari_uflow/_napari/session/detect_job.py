"""The job of the Detect widget: many planes of many layers with one network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow._napari.session.results import Target
from napari_uflow.config import DetectionConfig
from napari_uflow.progress import Message, Progress, Steps, or_stop

if TYPE_CHECKING:
    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["detect_targets_steps"]


def detect_targets_steps(
    model: TrainedModel,
    targets: Sequence[Target],
    config: DetectionConfig,
    *,
    device: str = "auto",
    weights: Path | None = None,
) -> Steps[list[list[Detection]]]:
    """Detect in all planes of all targets.

    Parameters
    ----------
    model : TrainedModel
        A trained model.
    targets : sequence of Target
        What to look at.
    config : DetectionConfig
        How to detect.
    device, weights
        As in :func:`~napari_uflow.training.train.train_steps`.

    Returns
    -------
    list of list of Detection
        For each target one detection per plane.

    Raises
    ------
    Stopped
        If it was asked to finish: a stack of which a part was looked at would look clean where it was not.
    """
    from napari_uflow.detection.stack import detect_stack_steps
    from napari_uflow.system.devices import choose_device

    yield from or_stop(Message("Loading the network"))
    network = model.network(choose_device(device), weights)
    total = sum(len(target.planes) for target in targets)
    done = 0
    found: list[list[Detection]] = []
    for target in targets:
        steps = detect_stack_steps(model, target.planes, config, network=network, done=done, total=total)
        found.append((yield from steps))
        done += len(target.planes)
    yield Progress("Detecting", total, total)
    return found
