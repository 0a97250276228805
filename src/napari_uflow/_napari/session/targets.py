"""Targets of a detection: the planes of a layer and the place of their results; and the job that detects in them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_uflow._napari.layers.axes import bare, frame_of
from napari_uflow._napari.layers.planes import View
from napari_uflow._napari.layers.transform import output_transform
from napari_uflow.config import DetectionConfig
from napari_uflow.image.plane import Plane
from napari_uflow.progress import Message, Progress, Steps, or_stop

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["Target", "detect_targets_steps", "target_of_planes", "target_of_view"]


@dataclass(frozen=True)
class Target:
    """Planes of an image layer and the place of their results; without the layer, which may be closed meanwhile.

    Attributes
    ----------
    image_name : str
        Name of the image layer.
    scope : str
        Part of the image; a new result of the same scope replaces the old one.
    planes : tuple of Plane
        The planes.
    indices : tuple of tuple of int
        Index of each plane in the result, without rows and columns.
    shape : tuple of int
        Shape of the result.
    transform : dict
        Layer attributes that align the result with the image.
    channel_axis, channels
        Channels, as :func:`~napari_uflow._napari.layers.planes.planes_of_layer` takes them.
    image : weak reference
        The layer, which may be renamed.
    """

    image_name: str
    scope: str
    planes: tuple[Plane, ...]
    indices: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    transform: Mapping[str, Any] = field(repr=False)
    channel_axis: int | None = None
    channels: tuple[int | str, ...] | None = None
    image: weakref.ref[Image] | None = field(default=None, repr=False, compare=False)


def _channels_and_layer(
    layer: Image, channel_axis: int | None, channels: Sequence[int | str] | None
) -> tuple[int | None, tuple[int | str, ...] | None, weakref.ref[Image]]:
    """Return the last three entries of a target: channel axis, channels and layer."""
    return channel_axis, None if channels is None else tuple(channels), weakref.ref(bare(layer))


def target_of_planes(
    layer: Image,
    planes: Sequence[Plane],
    scope: str,
    *,
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
) -> Target:
    """Return the target of planes of a layer: all of them, or one."""
    frame = frame_of(layer, channel_axis)
    rest = _channels_and_layer(layer, channel_axis, channels)
    places = [frame.index_of(plane) for plane in planes]
    if len(planes) == 1 and math.prod(frame.shape[:-2]) > 1:
        flat = (0,) * (len(frame.shape) - 2)
        shape = (*(1 for _ in flat), *frame.shape[-2:])
        transform = output_transform(layer, channel_axis=channel_axis, index=places[0])
        return Target(layer.name, scope, tuple(planes), (flat,), shape, transform, *rest)
    transform = output_transform(layer, channel_axis=channel_axis)
    return Target(layer.name, scope, tuple(planes), tuple(places), frame.shape, transform, *rest)


def target_of_view(
    layer: Image, view: View, *, channel_axis: int | None = None, channels: Sequence[int | str] | None = None
) -> Target:
    """Return the target of the visible part of a layer."""
    offset = (view.window.row, view.window.col)
    flat = (0,) * len(view.index)
    transform = output_transform(layer, channel_axis=channel_axis, offset=offset, index=view.index)
    shape = (*(1 for _ in flat), *view.plane.shape)
    rest = _channels_and_layer(layer, channel_axis, channels)
    return Target(layer.name, "view", (view.plane,), (flat,), shape, transform, *rest)


def detect_targets_steps(
    model: TrainedModel,
    targets: Sequence[Target],
    config: DetectionConfig,
    *,
    device: str = "auto",
    weights: Path | None = None,
    model_path: Path | None = None,
) -> Steps[list[list[Detection]]]:
    """Detect in all planes of all targets.

    Parameters
    ----------
    model : TrainedModel
        A trained model.
    targets : sequence of Target
        The targets.
    config : DetectionConfig
        Parameters of the detection.
    device, weights
        As in :func:`~napari_uflow.training.train.train_steps`.
    model_path : Path or None
        File of the model, for the drift log beside it; None for a model without one. A view of an image is not logged.

    Returns
    -------
    list of list of Detection
        For each target one detection per plane.

    Raises
    ------
    Stopped
        If it was asked to finish: an incomplete stack would look clean in its unprocessed planes.
    """
    from napari_uflow.detection.stack import detect_stack_steps
    from napari_uflow.evaluation.drift import DriftWatch
    from napari_uflow.system.devices import choose_device

    yield from or_stop(Message("Loading the model"))
    network = model.network(choose_device(device), weights)
    watch = None if model_path is None else DriftWatch(model, model_path)
    total = sum(len(target.planes) for target in targets)
    done = 0
    found: list[list[Detection]] = []
    for target in targets:
        steps = detect_stack_steps(model, target.planes, config, network=network, done=done, total=total)
        detections = yield from steps
        if watch is not None:
            is_view = target.scope == "view"
            detections, messages = watch.withdraw(detections) if is_view else watch.observe(target.planes, detections)
            yield from messages
        found.append(detections)
        done += len(target.planes)
    yield Progress("Detecting", total, total)
    return found
