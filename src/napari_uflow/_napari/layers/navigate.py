"""Move the view of a viewer to a place in a layer."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

__all__ = ["camera_of", "go_to"]

# A place that covers less or more than these fractions of the canvas is zoomed to a quarter of it; otherwise the zoom
# does not change, for a steady view from one anomaly to the next.
_LEAST, _MOST, _SHOWN = 0.06, 0.6, 1 / 4
_PIXELS_AROUND = 16
_CANVAS = 600


def camera_of(viewer: napari.viewer.Viewer) -> Any:
    """Return the camera: `viewer.scene.camera` from napari 0.9 on."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def go_to(viewer: napari.viewer.Viewer, layer: Layer, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Show a box of a layer: its plane, centred, neither tiny nor cut off.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    layer : Layer
        The layer.
    low, high : (D,) array
        Opposite corners of the box, in pixels of the layer.
    """
    corners = np.array([layer.data_to_world(corner) for corner in product(*zip(low, high, strict=True))])
    centre = np.asarray(layer.data_to_world((low + high) / 2), dtype=float)
    first = viewer.dims.ndim - len(centre)  # a layer with fewer axes is aligned with the last ones
    viewer.dims.set_point([first + axis for axis in range(len(centre))], [float(value) for value in centre])
    shown = [axis - first for axis in viewer.dims.displayed]
    camera = camera_of(viewer)
    camera.center = tuple(float(centre[axis]) if axis >= 0 else 0.0 for axis in shown)
    side = max(float(np.ptp(corners[:, axis])) for axis in shown if axis >= 0)
    pixel = max(float(abs(layer.scale[axis])) for axis in (-2, -1))
    side = max(side, _PIXELS_AROUND * pixel)
    canvas = min(viewer.canvas.size) if hasattr(viewer, "canvas") else _CANVAS
    if not _LEAST * canvas <= side * camera.zoom <= _MOST * canvas:
        camera.zoom = _SHOWN * canvas / side
