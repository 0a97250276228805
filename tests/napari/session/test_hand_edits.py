"""What was painted and erased by hand stays when the regions are found anew; drawn maps, no network."""

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_uflow._napari.layers.planes import current_plane, planes_of_layer
from napari_uflow._napari.session import judging
from napari_uflow._napari.session.results import relabel, show_detections
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.targets import target_of_planes

SHAPE = (40, 50)


PLANES = [[(10, 10, -5.0), (30, 40, -3.0), (10, 40, 0.5)], [(20, 25, -4.0)]]
"""At 10 false alarms per image the first plane has a third region."""


@pytest.fixture
def viewer():
    """A viewer without a window."""
    return ViewerModel()


@pytest.fixture
def image(viewer):
    return viewer.add_image(np.zeros((2, *SHAPE), np.uint8), name="drawn", axis_labels=("specimen", "y", "x"))


@pytest.fixture
def session(viewer):
    return session_of(viewer)


@pytest.fixture
def detect(viewer, image, hills):
    def detect(planes=PLANES):
        target = target_of_planes(image, planes_of_layer(image), "layer")
        found = [hills(SHAPE, peaks) for peaks in planes]
        return show_detections(viewer, session_of(viewer), target, found, model_name="m")

    return detect


@pytest.fixture
def labels(detect):
    return detect().labels


def paint(labels, where, number):
    """Paint a plane as napari's brush does, of which the history keeps a mask."""
    plane, rows, cols = where
    mask = np.zeros(labels.data.shape, bool)
    mask[plane, rows, cols] = True
    labels.data_setitem(np.nonzero(mask), number)


def move(session, labels, false_alarms):
    """Move the slider."""
    return relabel(session, session.results[labels], false_alarms)


SPOT = (0, slice(20, 24), slice(20, 25))


def test_a_painted_region_stays_and_its_number_is_free(session, labels):
    paint(labels, SPOT, int(labels.data.max()) + 1)
    for false_alarms, n_detected in ((10.0, 4), (1e-4, 2), (1.0, 3)):
        result = move(session, labels, false_alarms)
        assert sum(len(found.regions) for found in result.detections) == n_detected
        number = n_detected + 1
        inside = np.zeros(labels.data.shape, bool)
        inside[SPOT] = True
        np.testing.assert_array_equal(labels.data == number, inside)
        first, second = result.shown()
        assert dict(zip(first.found.regions.label, first.edited, strict=True))[number] == "painted"
        assert set(first.edited) == {"no", "painted"}
        assert set(second.edited) == {"no"}
        assert labels.features.set_index("index").loc[number, "area_px"] == 20


def test_an_extended_region_is_found_again_by_its_most_anomalous_pixel(session, labels):
    number = int(labels.data[0, 30, 40])
    beside = (0, slice(30, 31), slice(20, 41))
    paint(labels, beside, number)
    move(session, labels, 10.0)
    assert np.all(labels.data[beside] == labels.data[0, 30, 40])
    result = move(session, labels, 1e-4)  # without the region; another one is still there
    assert len(result.detections[0].regions) == 1
    assert not result.detections[0].labels[30, 40]
    alone = labels.data[0, 30, 20]
    assert alone > max(found.labels.max() for found in result.detections)
    result = move(session, labels, 1.0)
    assert np.all(labels.data[beside] == labels.data[0, 30, 40])
    shown = result.shown()[0]
    assert dict(zip(shown.found.regions.label, shown.edited, strict=True))[labels.data[0, 30, 40]] == "changed"


def test_erased_pixels_stay_erased(session, labels):
    hole = (0, slice(9, 12), slice(9, 12))
    paint(labels, hole, 0)
    for false_alarms in (10.0, 1e-9, 1.0):  # at the second there is no region to erase in
        move(session, labels, false_alarms)
        assert not labels.data[hole].any()
    assert labels.data[0, 8, 10] > 0


def test_undo_and_redo_act_on_the_strokes_after_a_move_of_the_slider(session, labels):
    before = labels.data.copy()
    paint(labels, SPOT, 50)
    paint(labels, (0, slice(9, 12), slice(9, 12)), 0)
    move(session, labels, 10.0)
    with_both = labels.data.copy()
    labels.undo()
    assert labels.data[0, 10, 10] == with_both[0, 8, 10]
    labels.undo()
    assert not session.results[labels].with_edits().edits
    labels.redo()
    labels.redo()
    np.testing.assert_array_equal(labels.data, with_both)
    labels.undo()
    labels.undo()
    move(session, labels, 1.0)
    np.testing.assert_array_equal(labels.data, before)


def test_the_brush_and_its_undo(session, labels):
    labels.brush_size = 5
    labels.selected_label = 60
    labels.paint([0, 20, 30], 60)
    painted = labels.data == 60
    move(session, labels, 10.0)
    assert labels.selected_label == 61  # one more region was detected
    np.testing.assert_array_equal(labels.data == 61, painted)
    labels.undo()
    assert not labels.data[painted].any()


def test_edits_are_discarded_and_restored_by_undo(session, labels):
    before = labels.data.copy()
    paint(labels, SPOT, 50)
    paint(labels, (1, slice(20, 21), slice(20, 30)), 0)
    move(session, labels, 10.0)
    edited = labels.data.copy()
    judging.discard_edits(session, session.results[labels])
    assert not session.results[labels].is_edited
    assert list(labels.features["edited"])[1:] == ["no"] * 4
    labels.undo()
    np.testing.assert_array_equal(labels.data, edited)
    move(session, labels, 1.0)
    assert (labels.data[SPOT] == 50).all()
    labels.undo()  # the stroke of the eraser
    assert session.results[labels].with_edits().edits
    judging.discard_edits(session, session.results[labels])
    move(session, labels, 1.0)
    np.testing.assert_array_equal(labels.data, before)


@pytest.mark.parametrize("is_painted", [True, False])
def test_marking_normal_keeps_the_other_edits(viewer, session, labels, is_painted):
    paint(labels, SPOT, 50)
    paint(labels, (0, slice(9, 12), slice(9, 12)), 0)
    number = 50 if is_painted else int(labels.data[0, 30, 40])
    place = SPOT if is_painted else (0, 30, 40)
    before = labels.data.copy()
    judging.mark_normal(session, viewer, session.results[labels], (0,), number)
    assert not labels.data[place].any()
    assert not labels.data[0, 10, 10]
    assert labels.data[SPOT].all() != is_painted
    move(session, labels, 10.0)
    assert not np.any(labels.data[place])
    move(session, labels, 1.0)
    restored = judging.undo_mark_normal(session, session.results[labels])
    np.testing.assert_array_equal(labels.data, before)
    assert restored == number


def test_another_detection_in_the_image_keeps_the_edits(detect, labels):
    paint(labels, SPOT, 50)
    result = detect([PLANES[1], PLANES[1]])
    assert result.labels is labels
    assert (labels.data[SPOT] == 49).all()  # one region fewer was detected
    assert result.is_edited


def test_edits_in_another_slice_are_not_taken_over(viewer, session, image, hills, monkeypatch):
    told = []
    monkeypatch.setattr("napari.utils.notifications.show_warning", told.append)

    def detect_slice(i):
        viewer.dims.set_point(0, i)
        target = target_of_planes(image, [current_plane(image, viewer.dims.point)], "slice")
        return show_detections(viewer, session, target, [hills(SHAPE, PLANES[0])], model_name="m")

    first = detect_slice(0)
    assert detect_slice(1).labels is first.labels
    paint(first.labels, SPOT, 50)
    assert not told
    other = detect_slice(0)
    assert len(told) == 1
    assert other.labels is not first.labels
    assert not other.is_edited
    assert first.labels not in viewer.layers


def test_the_status_bar_says_nothing_about_the_background(session, labels):
    assert "nan" not in labels.get_status((0, 0, 0), world=True)["value"]
    inside = labels.get_status((0, 10, 10), world=True)["value"]
    assert "area_px: 81" in inside
    assert labels.get_status((0, 0, 0), world=True)["value"] == "0"
    paint(labels, (0, slice(None), slice(18, 50)), 9)
    move(session, labels, 1.0)
    assert "specimen: 0, log10_nfa: -3, area_px: 1280," in labels.get_status((0, 0, 40), world=True)["value"]
