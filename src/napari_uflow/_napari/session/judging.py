"""Corrections of a result by eye: mark a region normal, and undo that."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.layers.place import place_of
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.results import relabel
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import ImageError

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection
    from napari_uflow.image.plane import Plane
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["mark_normal", "undo_mark_normal"]

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
    found, correction = mark(
        dict(result.shown())[index],
        number,
        place.plane,
        side=_TILE if session.model is None else _side_for(session.model, place.plane),
        specimen=place.specimen,
    )
    _replace_plane(session, result, index, found)
    marked_normal_of(session).add(result.labels, index, correction)


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
    index, correction = last
    _replace_plane(session, result, index, undo(dict(result.planes)[index], correction))
    marked.remove(correction)
    return int(finest(result.labels)[index][correction.rows[0], correction.cols[0]])


def _replace_plane(session: Session, result: LayerDetection, index: tuple[int, ...], found: Detection) -> None:
    """Replace the detection of a plane, in the layers and in the session."""
    finest(result.log10_nfa)[index] = found.log10_nfa
    result.log10_nfa.refresh()
    # the layer owns the memory; the map of the detection is a view
    found = replace(found, log10_nfa=finest(result.log10_nfa)[index])
    planes = tuple((at, found if at == index else other) for at, other in result.planes)
    relabel(session, replace(result, planes=planes), found.false_alarms)
