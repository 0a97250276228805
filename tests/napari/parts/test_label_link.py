"""A click on a region in the canvas picks it; a drag pans the view."""

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks
from qtpy.QtWidgets import QWidget

from napari_uflow._napari.parts.label_link import LabelLink


class Mouse:
    """Event of the mouse at a pixel of a canvas on which a pixel of the image is 10 wide."""

    def __init__(self, kind, row, col):
        self.type, self.position, self.pos = kind, (row, col), np.array([10 * col, 10 * row])
        self.view_direction, self.dims_displayed = None, [0, 1]
        self.modifiers, self.button, self.handled, self.is_dragging = (), 1, False, kind == "mouse_move"


@pytest.fixture(params=[False, True])
def layer(request):
    data = np.zeros((20, 20), np.int32)
    data[2:6, 2:6], data[10:14, 10:14] = 1, 2
    layer = ViewerModel().add_labels([data, data[::2, ::2]] if request.param else data, multiscale=request.param)
    layer.mode = "pan_zoom"
    return layer


@pytest.fixture
def picked(qtbot, layer):
    widget = QWidget()
    qtbot.addWidget(widget)
    widget.show()
    link = LabelLink(widget, ())
    picked = []
    link.picked.connect(picked.append)
    link.follow(layer)
    yield picked
    n = len(layer.mouse_drag_callbacks)
    link.follow(None)
    assert len(layer.mouse_drag_callbacks) == n - 1


def drag(layer, start, stop):
    for call, kind, place in (
        (mouse_press_callbacks, "mouse_press", start),
        (mouse_move_callbacks, "mouse_move", stop),
        (mouse_release_callbacks, "mouse_release", stop),
    ):
        call(layer, ReadOnlyWrapper(Mouse(kind, *place), exceptions=("handled",)))


def test_a_click_picks_a_region(layer, picked):
    drag(layer, (11, 11), (11.2, 11))
    assert picked == [2]
    assert layer.selected_label == 2
    drag(layer, (8, 8), (8, 8))
    assert picked == [2]


def test_a_drag_picks_none(layer, picked):
    drag(layer, (11, 11), (4, 4))
    assert picked == []


def test_a_stroke_of_the_brush_picks_none(layer, picked):
    if not layer.multiscale:  # in which napari does not paint
        layer.mode = "paint"
        drag(layer, (8, 8), (8, 8))
        assert layer.data[8, 8] == layer.selected_label
        layer.selected_label = 2
        picked.clear()
        drag(layer, (4, 4), (4, 4))
        assert picked == []
