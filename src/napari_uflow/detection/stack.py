"""Detection in the planes of a stack, which may share the accepted false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import Event, Progress, Steps, drain, or_stop, within
from napari_uflow.system.devices import choose_device
from napari_uflow.system.scratch import allocate_map, is_large, release_pages

__all__ = ["detect_stack", "detect_stack_steps"]


def detect_stack(
    model: TrainedModel,
    planes: Sequence[Plane],
    config: DetectionConfig | None = None,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Detection]:
    """Detect the anomalies in the planes of a stack.

    Parameters
    ----------
    model, config, device, network, on_event
        As in :func:`~napari_uflow.detect`.
    planes : sequence of Plane
        Planes of a stack, from :func:`~napari_uflow.read_planes` or :func:`~napari_uflow.planes_of`; they share the
        accepted false alarms if `config` counts them per stack.

    Returns
    -------
    list of Detection
        One per plane, with labels from 1 in each; :meth:`Detection.numbered_after` makes them unique.

    Raises
    ------
    ImageError
        If `planes` is not a list of planes, or the number of channels differs from that of the training images.
    """
    config = config or DetectionConfig()
    return drain(detect_stack_steps(model, planes, config, device=device, network=network), on_event)


def detect_stack_steps(
    model: TrainedModel,
    planes: Sequence[Plane],
    config: DetectionConfig,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    done: int = 0,
    total: int | None = None,
) -> Steps[list[Detection]]:
    """Detect the anomalies in the planes of a stack, step by step.

    Parameters
    ----------
    model, planes, config, device, network
        As in :func:`detect_stack`.
    done, total : int
        Planes finished before, and planes in all, if the stack is one of several; the caller then yields the last
        progress event.

    Returns
    -------
    list of Detection
        As in :func:`detect_stack`.

    Raises
    ------
    ImageError
        As in :func:`detect_stack`.
    Stopped
        If the job was asked to finish.
    """
    if not hasattr(planes, "__len__"):
        raise ImageError("a stack must be a list of planes; use detect for a single plane")
    if network is None:
        network = model.network(choose_device(device))
    n_in_all = len(planes) if total is None else total
    found: list[Detection] = []
    store = _StackStore(planes)
    for i, plane in enumerate(planes, start=done):
        steps = detect_steps(model, plane, config, network=network, n_planes=len(planes))
        steps = steps if n_in_all == 1 else within(steps, Progress("Detecting", i, n_in_all))
        found.append(store.put(i - done, (yield from steps)))
    if total is None and n_in_all > 1:
        yield from or_stop(Progress("Detecting", n_in_all, n_in_all))
    return found


class _StackStore:
    """Disk-backed maps of a stack, one file per kind, if they are large together but not each by itself."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._kinds: dict[str, NDArray[Any]] = {}
        shape = (len(planes), *planes[0].shape) if len({plane.shape for plane in planes}) == 1 else ()
        if len(planes) > 1 and shape and is_large(shape, np.float32) and not is_large(shape[1:], np.float32):
            self._kinds = {name: allocate_map(shape, np.float32) for name in ("score", "log10_nfa")}
            self._kinds["labels"] = allocate_map(shape, np.int32)

    def put(self, i: int, found: Detection) -> Detection:
        """Store the maps of plane i and return the detection with views of the stored maps."""
        for name, maps in self._kinds.items():
            maps[i] = getattr(found, name)
            release_pages(maps)
        return replace(found, **{name: maps[i] for name, maps in self._kinds.items()})
