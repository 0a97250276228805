"""Layers of a result: heatmap, log10 NFA and anomalies on top of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.session import Session
from napari_uflow._napari.session.targets import Target
from napari_uflow.system.scratch import allocate_map, release_pages

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["features_of", "relabel", "show_detections"]

# Keeps held-out normal pixels of the published score, which reach 0.6, dark.
_GAMMA = {"rarity": 1.0, "published": 1.5}
_OUTLINE = (0.0, 0.9, 1.0, 1.0)
"""Colour of the anomalies, found neither in grey images nor in the heatmap."""
_NFA_LIMITS = (-6.0, 2.0)
_LARGEST_PLAIN = 4096
"""Most rows or columns of a single-scale layer. Larger results, which may exceed the textures of a graphics card, are
multiscale layers, which cannot be painted in."""
_COARSEST = 1024
_EDITS_ARE_LOST = (
    "The regions in '{}' were found anew; what was painted or erased by hand is gone. Paint after the last move of the "
    "slider and the last region marked normal."
)


def show_detections(
    viewer: Viewer,
    session: Session,
    target: Target,
    detections: Sequence[Detection],
    *,
    model_name: str,
    model: TrainedModel | None = None,
) -> LayerDetection:
    """Show a detection in layers, or in the layers of an earlier one of the same image and scope.

    Parameters
    ----------
    viewer, session
        Viewer and session that get the result.
    target : Target
        Place of the result.
    detections : sequence of Detection
        One for each plane of the target.
    model_name : str
        Name of the model, for the metadata of the layers.
    model : TrainedModel or None
        The model, for scripts and paragraphs on this result.
    """
    score, log10_nfa, planes = _stacked(target, detections)
    ids, features = _labels(target.shape, planes, target.transform["axis_labels"])
    record = _record(target, detections, model_name)
    old = _reusable(viewer, session, target)
    if old is None:
        result = _added(viewer, target, planes, (score, log10_nfa, ids), features)
    else:
        marked_normal_of(session).detach(old.labels)
        result = replace(old, planes=tuple(planes), image_name=target.image_name, image=target.image)
        for layer, data in zip(_layers(result), (score, log10_nfa, ids), strict=True):
            layer.data = as_shown(data)
            for name, value in target.transform.items():
                setattr(layer, name, value)
        result.labels.features = features
    for layer in _layers(result):
        layer.metadata["napari_uflow"] = dict(record)
    result = replace(result, model=model)
    session.set_result(result)
    viewer.layers.selection.active = result.labels
    _bring_into_view(viewer, result)
    return result


def as_shown(data: NDArray[Any]) -> Any:
    """Return the data of a layer; for large images a pyramid of strided views, which takes no memory."""
    if max(data.shape[-2:]) <= _LARGEST_PLAIN:
        return data
    levels = [data]
    while max(levels[-1].shape[-2:]) > _COARSEST:
        levels.append(levels[-1][..., ::2, ::2])
    return levels


def _is_one_large(shape: tuple[int, ...]) -> bool:
    """Return whether a result is a single plane that is too large to copy."""
    return max(shape[-2:]) > _LARGEST_PLAIN and math.prod(shape[:-2]) == 1


def _stack(shape: tuple[int, ...], n_planes: int, background: Any) -> NDArray[Any]:
    """Return an array for a stack, of the type of `background`, which fills it if planes are missing."""
    array = allocate_map(shape, type(background))
    if n_planes < math.prod(shape[:-2]):
        array.fill(background)
    return array


def _stacked(
    target: Target, detections: Sequence[Detection]
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[tuple[tuple[int, ...], Detection]]]:
    """Return heatmap and NFA of all planes, and the detections with views of them as maps."""
    if _is_one_large(target.shape):
        found = detections[0]
        return found.score.reshape(target.shape), found.log10_nfa.reshape(target.shape), [(target.indices[0], found)]
    score, log10_nfa = (_stack(target.shape, len(detections), np.float32(np.nan)) for _ in range(2))
    planes = []
    for index, found in zip(target.indices, detections, strict=True):
        score[index], log10_nfa[index] = found.score, found.log10_nfa
        # The stacks own the memory; the maps of a detection are views.
        planes.append((index, replace(found, score=score[index], log10_nfa=log10_nfa[index])))
        release_pages(score, log10_nfa)
    return score, log10_nfa, planes


def _layers(result: LayerDetection) -> tuple[Image, Image, Labels]:
    return result.heatmap, result.log10_nfa, result.labels


def _reusable(viewer: Viewer, session: Session, target: Target) -> LayerDetection | None:
    """Return an earlier result whose layers can be reused, because napari needs a second to replace three layers.

    Layers of earlier results with other shapes are removed.
    """
    reusable = None
    for old in [r for r in session.results.values() if _is_same(r, target)]:
        if all(layer in viewer.layers and finest(layer).shape == target.shape for layer in _layers(old)):
            reusable = old
            continue
        for layer in _layers(old):
            if layer in viewer.layers:
                viewer.layers.remove(layer)
    return reusable


def _added(
    viewer: Viewer,
    target: Target,
    planes: Sequence[tuple[tuple[int, ...], Detection]],
    maps: tuple[NDArray[Any], ...],
    features: Mapping[str, Any],
) -> LayerDetection:
    """Add the three layers of a result."""
    from napari.utils import CyclicLabelColormap

    score, log10_nfa, ids = (as_shown(data) for data in maps)
    is_multiscale = isinstance(score, list)
    end = {"view": " (view)", "slice": " (slice)"}.get(target.scope, "")
    config = planes[0][1].config

    def common() -> dict[str, Any]:
        return {"metadata": {"napari_uflow": {}}, **target.transform}  # from the start, so that none counts as an image

    heatmap = viewer.add_image(
        score,
        multiscale=is_multiscale,
        name=f"{target.image_name} heatmap{end}",
        colormap="inferno",
        contrast_limits=config.heatmap_limits,
        blending="additive",
        opacity=0.7,
        gamma=_GAMMA[config.heatmap],
        **common(),
    )
    nfa = viewer.add_image(
        log10_nfa,
        multiscale=is_multiscale,
        name=f"{target.image_name} log10 NFA{end}",
        colormap="viridis",
        contrast_limits=_NFA_LIMITS,
        visible=False,
        **common(),
    )
    labels = viewer.add_labels(
        ids,
        multiscale=is_multiscale,
        colormap=CyclicLabelColormap(colors=[(0, 0, 0, 0), _OUTLINE]),
        opacity=1.0,
        name=f"{target.image_name} anomalies{end}",
        features=features,
        **common(),
    )
    labels.contour = 2
    return LayerDetection(target.image_name, tuple(planes), bare(heatmap), bare(nfa), bare(labels), target.image)


def _bring_into_view(viewer: Viewer, result: LayerDetection) -> None:
    """Move the sliders to the most anomalous plane if they are outside the result, as on a shorter stack."""
    low, high = result.labels.extent.world[:, :-2]
    first = viewer.dims.ndim - result.labels.ndim
    point = np.asarray(viewer.dims.point, dtype=float)[first : first + len(low)]
    step = np.abs(np.asarray(result.labels.scale, dtype=float)[:-2])
    if len(low) and not np.all((point >= low - step / 2) & (point <= high + step / 2)):
        index = min(result.planes, key=lambda item: item[1].lowest_log10_nfa)[0]
        world = np.asarray(result.labels.data_to_world((*index, 0, 0)), dtype=float)[:-2]
        viewer.dims.set_point([first + axis for axis in range(len(world))], world.tolist())


def _is_same(result: LayerDetection, target: Target) -> bool:
    record = result.labels.metadata.get("napari_uflow", {})
    is_image = result.image_name == target.image_name if target.image is None else result.image == target.image
    return is_image and record.get("scope") == target.scope


def _record(target: Target, detections: Sequence[Detection], model_name: str) -> dict[str, Any]:
    """Return the metadata of a layer: model, parameters and versions of the detection."""
    from napari_uflow.store.description import description_of

    return {
        **description_of(detections[0]),
        "image": target.image_name,
        "scope": target.scope,
        "channel_axis": target.channel_axis,
        "channels": None if target.channels is None else list(target.channels),
        "model_name": model_name,
    }


def _labels(
    shape: tuple[int, ...], planes: Sequence[tuple[tuple[int, ...], Detection]], axis_labels: Sequence[str]
) -> tuple[NDArray[np.int32], dict[str, Any]]:
    """Return labels 1 to N, unique over all planes, and their features table."""
    if _is_one_large(shape):
        return planes[0][1].labels.reshape(shape), features_of(planes, axis_labels)
    ids = _stack(shape, len(planes), np.int32(0))
    n = 0
    for index, found in planes:
        ids[index] = found.numbered_after(n).labels
        n += len(found.regions)
        release_pages(ids)
    return ids, features_of(planes, axis_labels)


def features_of(
    planes: Sequence[tuple[tuple[int, ...], Detection]], axis_labels: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return the features table of a labels layer: row 0 is the background, row i the region with label i.

    Parameters
    ----------
    planes : sequence of (tuple of int, Detection)
        Index in the layer, and detection, of each plane.
    axis_labels : sequence of str
        Axes of the layer; the position on each axis before rows and columns is a column of the table.
    """
    counts = [len(found.regions) for _, found in planes]
    total = sum(counts)
    table: dict[str, NDArray[Any]] = {"index": np.arange(total + 1)}
    for axis, name in enumerate(axis_labels[:-2]):
        places = np.repeat([index[axis] for index, _ in planes], counts)
        column = name if name[:1].isalpha() else f"axis {axis}"
        table[column] = np.concatenate([[-1], places]).astype(np.int64)
    columns = [found.regions.columns() for _, found in planes]
    for name in columns[0]:
        if name == "label":
            continue
        values = np.concatenate([column[name] for column in columns])
        background = np.nan if values.dtype.kind == "f" else 0
        table[name] = np.concatenate([np.array([background], values.dtype), values])
    return table


def relabel(session: Session, result: LayerDetection, false_alarms: float) -> LayerDetection:
    """Find the regions at another number of false alarms in the stored maps; the network is not needed.

    Parameters
    ----------
    session : Session
        Session that gets the new result.
    result : LayerDetection
        The result.
    false_alarms : float
        Accepted false alarms per image or stack.
    """
    from napari.utils.notifications import show_warning

    from napari_uflow.detection.detect import resegment
    from napari_uflow.store.description import description_of

    before = session.results.get(bare(result.labels))
    if before is not None and before.is_edited:
        show_warning(_EDITS_ARE_LOST.format(result.labels.name))
    planes = tuple((index, resegment(found, false_alarms)) for index, found in result.planes)
    layer = result.labels
    ids, features = _labels(finest(layer).shape, planes, layer.axis_labels)
    layer.data = as_shown(ids)
    layer.features = features
    n_marked_normal = sum(found.n_marked_normal for _, found in planes)
    changes = description_of(replace(planes[0][1], n_marked_normal=n_marked_normal))
    for shown in (result.heatmap, result.log10_nfa, layer):
        shown.metadata["napari_uflow"] = {**shown.metadata.get("napari_uflow", {}), **changes}
    changed = replace(result, planes=planes)
    session.set_result(changed)
    return changed
