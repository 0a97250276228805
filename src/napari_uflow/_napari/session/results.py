"""Layers of a result: heatmap, log10 NFA and anomalies on top of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.session.hand_edits import HandEdits, Numbering
from napari_uflow._napari.session.label_history import renumber_history
from napari_uflow._napari.session.layer_detection import LayerDetection, ShownPlane
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.session import Session
from napari_uflow._napari.session.targets import Target
from napari_uflow.system.scratch import allocate_map, release_pages

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["features_of", "relabel", "show_changed", "show_detections", "show_features"]

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
    "'{}' shows another part of the image now: what was painted or erased by hand in the earlier one is gone."
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
    record = _record(target, detections, model_name)
    old = _reusable(viewer, session, target)
    if old is None:
        result = _added(viewer, target, planes, (score, log10_nfa))
    else:
        marked_normal_of(session).detach(old.labels)
        old = old.with_edits()
        result = replace(old, planes=tuple(planes), image_name=target.image_name, image=target.image)
        result.heatmap.data, result.log10_nfa.data = as_shown(score), as_shown(log10_nfa)
        _write_labels(old, result)
        for layer in _layers(result):
            for name, value in target.transform.items():
                setattr(layer, name, value)
    show_features(result)
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

    Layers of earlier results with other shapes are removed, and those with edits by hand in another part of the image.
    """
    from napari.utils.notifications import show_warning

    reusable = None
    for old in [r for r in session.results.values() if _is_same(r, target)]:
        is_lost = bool(old.with_edits().edits) and not _is_in_place(old, target)
        if is_lost:
            show_warning(_EDITS_ARE_LOST.format(old.labels.name))
        elif all(layer in viewer.layers and finest(layer).shape == target.shape for layer in _layers(old)):
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
) -> LayerDetection:
    """Add the three layers of a result."""
    from napari.utils import CyclicLabelColormap

    score, log10_nfa, ids = (as_shown(data) for data in (*maps, _labels(target.shape, planes, HandEdits())))
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


def _is_in_place(result: LayerDetection, target: Target) -> bool:
    """Return whether a result covers the pixels of a target; results of whole layers do if they have its shape."""
    if finest(result.labels).shape != target.shape:
        return False
    of_part = (result.labels.translate, target.transform["translate"])
    return target.scope == "layer" or np.allclose(*of_part)


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
    shape: tuple[int, ...], planes: Sequence[tuple[tuple[int, ...], Detection]], edits: HandEdits
) -> NDArray[np.int32]:
    """Return labels, unique over all planes: those detected from 1 on, then those painted by hand."""
    if _is_one_large(shape):
        return planes[0][1].labels.reshape(shape)
    ids = _stack(shape, len(planes), np.int32(0))
    numbering = Numbering(planes, edits)
    for index, _ in planes:
        ids[index] = numbering.shown(index)
        release_pages(ids)
    return ids


def _write_labels(before: LayerDetection, after: LayerDetection) -> None:
    """Write the labels of a result into its layer, and renumber the label to paint with and what can be undone."""
    layer = after.labels
    old, new = Numbering(before.planes, before.edits), Numbering(after.planes, after.edits)
    selected = int(layer.selected_label)
    layer.data = as_shown(_labels(finest(layer).shape, after.planes, after.edits))
    renumber_history(layer, partial(old.translated, new))
    if selected > old.n_detected:
        layer.selected_label = selected - old.n_detected + new.n_detected


def show_features(result: LayerDetection) -> None:
    """Show the measurements of the regions in the features table of the labels layer."""
    result.labels.features = features_of(result.shown(), result.labels.axis_labels)


def features_of(planes: Sequence[ShownPlane], axis_labels: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the features table of a labels layer: row 0 is the background, each other row a region.

    The background has NaN and None instead of measurements, which napari's status bar leaves out.

    Parameters
    ----------
    planes : sequence of ShownPlane
        The planes of the layer.
    axis_labels : sequence of str
        Axes of the layer; the position on each axis before rows and columns is a column of the table.
    """
    counts = [len(plane.found.regions) for plane in planes]
    labels = np.concatenate([plane.found.regions.label for plane in planes])
    table: dict[str, NDArray[Any]] = {"index": np.concatenate([[0], labels])}
    for axis, name in enumerate(axis_labels[:-2]):
        places = np.repeat([plane.index[axis] for plane in planes], counts)
        column = name if name[:1].isalpha() else f"axis {axis}"
        table[column] = np.array([None, *places.tolist()], dtype=object)
    columns = [plane.found.regions.columns() for plane in planes]
    for name in columns[0]:
        if name == "label":
            continue
        values = np.concatenate([column[name] for column in columns])
        table[name] = (
            np.concatenate([[np.nan], values.astype(np.float64)])  # napari shows a NaN of float32
            if values.dtype.kind == "f"
            else np.array([None, *values.tolist()], dtype=object)
        )
    table["edited"] = np.array([None, *(kind for plane in planes for kind in plane.edited)], dtype=object)
    return table


def relabel(session: Session, result: LayerDetection, false_alarms: float) -> LayerDetection:
    """Find the regions at another number of false alarms in the stored maps; the network is not needed.

    What was painted or erased by hand is kept.

    Parameters
    ----------
    session : Session
        Session that gets the new result.
    result : LayerDetection
        The result.
    false_alarms : float
        Accepted false alarms per image or stack.
    """
    from napari_uflow.detection.detect import resegment

    before = result.with_edits()
    planes = tuple((index, resegment(found, false_alarms)) for index, found in before.planes)
    return show_changed(session, before, replace(before, planes=planes))


def show_changed(session: Session, before: LayerDetection, after: LayerDetection) -> LayerDetection:
    """Show other regions of a result in its layers.

    Parameters
    ----------
    session : Session
        Session that gets the new result.
    before : LayerDetection
        The result as its layers show it, from :meth:`LayerDetection.with_edits`.
    after : LayerDetection
        The same result with other planes and edits.
    """
    from napari_uflow.store.description import description_of

    _write_labels(before, after)
    show_features(after)
    n_marked_normal = sum(found.n_marked_normal for found in after.detections)
    changes = description_of(replace(after.detections[0], n_marked_normal=n_marked_normal))
    for shown in _layers(after):
        shown.metadata["napari_uflow"] = {**shown.metadata.get("napari_uflow", {}), **changes}
    session.set_result(after)
    return after
