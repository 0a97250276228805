"""Corrections of a result by eye: mark a region normal, undo that, and discard edits by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.layers.place import place_of
from napari_uflow._napari.session.hand_edits import HandEdits, Numbering
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.results import show_changed, show_features
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import ImageError

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_uflow.detection.corrections import Correction
    from napari_uflow.detection.result import Detection
    from napari_uflow.image.plane import Plane
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["discard_edits", "mark_normal", "undo_mark_normal"]

_TILE = 256
"""Side of the surroundings to train on, in pixels, without a model to take it from."""


def mark_normal(session: Session, viewer: Viewer, result: LayerDetection, index: tuple[int, ...], number: int) -> None:
    """Remove a region from a result, and keep it with its surroundings to train on.

    Parameters
    ----------
    session, viewer
        Session and viewer of the result.
    result : LayerDetection
        The result.
    index : tuple of int
        Plane of the region.
    number : int
        Label of the region in the labels layer.

    Raises
    ------
    ImageError
        If the image was closed or changed.
    """
    from napari_uflow.detection.corrections import mark_normal as mark

    image = result.image_in(bare(viewer))
    if image is None:
        raise ImageError(f"the image '{result.image_name}' is no longer open: open it and run Detect again")
    place = place_of(image, result.labels, index)
    before = result.with_edits()
    found, correction = mark(
        next(plane.found for plane in before.shown() if plane.index == index),
        number,
        place.plane,
        side=_TILE if session.model is None else _side_for(session.model, place.plane),
        specimen=place.specimen,
    )
    keys = before.edits.of(index, found.labels.size)
    pixels = _pixels(found, correction)
    removed = keys[pixels]
    keys[pixels] = -1
    _replace_plane(session, before, index, found, before.edits.with_plane(index, keys))
    marked_normal_of(session).add(result.labels, index, correction, removed)


def _side_for(model: TrainedModel, plane: Plane) -> int:
    """Return the pixels of an image that are as wide as a training tile, as the network sees it."""
    from napari_uflow.detection.magnification import magnification_of

    return max(1, int(model.config.tile / magnification_of(model, plane)))


def undo_mark_normal(session: Session, result: LayerDetection) -> int | None:
    """Restore the region marked normal last in a result.

    Returns
    -------
    int or None
        Label of the region in the labels layer; None if there was none to restore.
    """
    from napari_uflow.detection.corrections import undo_mark_normal as undo

    marked = marked_normal_of(session)
    last = marked.last_of(result.labels)
    if last is None:
        return None
    before = result.with_edits()
    index, correction = last.index, last.correction
    found = undo(dict(before.planes)[index], correction)
    keys = before.edits.of(index, found.labels.size)
    pixels = _pixels(found, correction)
    keys[pixels] = np.where(keys[pixels] < 0, last.keys, keys[pixels])
    _replace_plane(session, before, index, found, before.edits.with_plane(index, keys))
    marked.remove(correction)
    return int(finest(result.labels)[index][correction.rows[0], correction.cols[0]])


def discard_edits(session: Session, result: LayerDetection) -> None:
    """Show the regions as they were detected; napari's undo restores what was painted and erased by hand."""
    layer, plain = result.labels, Numbering(result.planes, HandEdits())
    with layer.block_history():
        for index, _ in result.planes:
            detected = plain.detected(index)
            rows, cols = np.nonzero(layer.data[index] != detected)
            layer.data_setitem((*(np.full(len(rows), i) for i in index), rows, cols), detected[rows, cols])
    plain_result = replace(result, edits=HandEdits())
    show_features(plain_result)
    session.set_result(plain_result)


def _pixels(found: Detection, correction: Correction) -> NDArray[np.int64]:
    """Return the row-major positions of the pixels of a correction."""
    return np.ravel_multi_index((correction.rows, correction.cols), found.labels.shape)


def _replace_plane(
    session: Session, before: LayerDetection, index: tuple[int, ...], found: Detection, edits: HandEdits
) -> None:
    """Replace the detection of a plane and the edits, in the layers and in the session."""
    finest(before.log10_nfa)[index] = found.log10_nfa
    before.log10_nfa.refresh()
    # the layer owns the memory; the map of the detection is a view
    found = replace(found, log10_nfa=finest(before.log10_nfa)[index])
    planes = tuple((at, found if at == index else other) for at, other in before.planes)
    show_changed(session, before, replace(before, planes=planes, edits=edits))
