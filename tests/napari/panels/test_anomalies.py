"""The Anomalies widget as a user meets it: review, correct, export."""

import csv
import json
import runpy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QApplication

from napari_uflow._napari.contributions.export import EXPORTS, as_methods_text
from napari_uflow._napari.layers.navigate import camera_of
from napari_uflow._napari.layers.planes import View, current_plane, planes_of_layer
from napari_uflow._napari.panels.anomalies import AnomaliesWidget
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.session import judging
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.results import relabel, show_detections
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.targets import target_of_planes, target_of_view
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff


def drawn():
    """Three grey planes, 160 x 192: noise in two corners of the first, none in the second, one patch in the third."""
    stack = np.full((3, 160, 192), 100, np.uint8)
    rng = np.random.default_rng(0)
    stack[0, :48, :48] = rng.integers(0, 256, (48, 48))
    stack[0, 96:144, 128:176] = rng.integers(0, 256, (48, 48))
    stack[2, 64:112, 32:80] = rng.integers(0, 256, (48, 48))
    return stack


@pytest.fixture(scope="module")
def detections(tiny_model):
    from napari_uflow.image.plane import planes_of

    planes = planes_of(drawn(), "ZYX", name="drawn", pixel_size=(0.5, 0.5), unit="um")
    found = [detect(tiny_model, plane, DetectionConfig(nfa="paper"), device="cpu") for plane in planes]
    assert len(found[0].regions) >= 2
    assert len(found[2].regions) >= 1
    return found


GEOMETRY = {"scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um"), "axis_labels": ("specimen", "y", "x")}


def show(viewer, detections, scope="layer", **options):
    """Add the image and its result; with scope "slice" only of the last plane."""
    image = viewer.add_image(drawn(), name="drawn", **{**GEOMETRY, **options})
    planes = planes_of_layer(image)
    if scope == "slice":
        planes, detections = planes[2:], detections[2:]
    target = target_of_planes(image, planes, scope)
    return show_detections(viewer, session_of(viewer), target, detections, model_name="tiny")


@pytest.fixture
def result(viewer, detections):
    return show(viewer, detections)


@pytest.fixture
def widget(viewer, result, qtbot):
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def numbers(widget):
    return [row.number for row in widget.table.rows()]


@pytest.mark.slow
def test_the_table_lists_all_anomalies_the_most_significant_first(widget, result, detections):
    rows = widget.table.rows()
    assert len(rows) == sum(len(found.regions) for found in detections)
    nfa = [row.values["log10_nfa"] for row in rows]
    assert nfa == sorted(nfa)
    model = widget.table.model()
    titles = [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]
    assert titles == ["#", "specimen", "log10 NFA", "px", "µm²", "Peak", "Mean", "Row", "Col", "Edited"]
    assert widget.table.isColumnHidden(9)
    assert [widget.table.isColumnHidden(i) for i in (3, 4)] == [True, False]  # area in µm²
    for i, row in enumerate(rows):
        texts = [model.index(i, column).data() for column in range(model.columnCount())]
        assert texts[0] == str(row.number)
        assert texts[1] == str(row.index[0])
        inside = result.labels.data[row.index] == row.number
        assert texts[3] == str(np.count_nonzero(inside))
        assert model.index(i, 4).data(Qt.ItemDataRole.ToolTipRole) == f"{np.count_nonzero(inside)} px"
        assert float(texts[4]) == pytest.approx(np.count_nonzero(inside) / 4, rel=0.01)
    n_planes = len({row.index for row in rows})
    expected = f"{len(rows)} anomalies in {n_planes} of 3 planes; 1 false alarm per image accepted."
    assert widget.summary.text() == expected
    widget.table.sortByColumn(3, Qt.SortOrder.DescendingOrder)
    areas = [row.values["area_px"] for row in widget.table.rows()]
    assert areas == sorted(areas, reverse=True)
    widget.table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert [row.index[0] for row in widget.table.rows()] == sorted(row.index[0] for row in rows)


@pytest.mark.slow
def test_all_columns_are_visible_at_the_default_width(make_napari_viewer_proxy, detections):
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1366, 738)
    show(viewer, detections)
    for name in ("Train", "Anomalies"):  # beside a panel that was opened before
        dock, widget = viewer.window.add_plugin_dock_widget("napari-uflow", name, tabify=True)
        dock.show()
        dock.raise_()
        QApplication.processEvents()
    table = widget.table
    assert table.horizontalHeader().length() <= table.viewport().width()
    assert table.columnViewportPosition(8) + table.columnWidth(8) <= table.viewport().width()
    assert widget.widget().width() <= widget.viewport().width()
    assert widget.width() < 500
    table.sortByColumn(7, Qt.SortOrder.DescendingOrder)
    QApplication.processEvents()
    assert table.horizontalHeader().length() <= table.viewport().width()


@pytest.mark.slow
def test_a_click_on_a_row_moves_the_view_to_it(widget, viewer, result, qtbot):
    camera = camera_of(viewer)
    viewer.dims.set_point(0, 1)
    for i, row in enumerate(widget.table.rows()):
        camera.zoom = 0.01
        index = widget.table.model().index(i, 0)
        qtbot.mouseClick(
            widget.table.viewport(), Qt.MouseButton.LeftButton, pos=widget.table.visualRect(index).center()
        )
        assert viewer.dims.current_step[0] == row.index[0]
        rows, cols = np.nonzero(result.labels.data[row.index] == row.number)
        centre = (rows.min() + rows.max()) / 2 * 0.5, (cols.min() + cols.max()) / 2 * 0.5
        assert camera.center[-2:] == pytest.approx(centre)
        assert camera.zoom > 0.1
        assert result.labels.selected_label == row.number
    zoom = camera.zoom  # one that is well seen is not zoomed at
    widget.table.setFocus()
    qtbot.keyClick(widget.table, Qt.Key.Key_Up)
    assert camera.zoom == zoom
    assert result.labels.selected_label == widget.table.rows()[-2].number


@pytest.mark.slow
def test_a_region_picked_in_the_view_finds_its_row(widget, result, viewer):
    center = camera_of(viewer).center
    for number in (2, 1, 3):
        result.labels.selected_label = number
        assert widget.table.current().number == number
    assert camera_of(viewer).center == center  # the user is there already
    result.labels.selected_label = 0
    assert widget.table.current() is None
    assert not widget.judge_bar.mark_button.isEnabled()


@pytest.mark.slow
def test_a_region_marked_normal_is_removed_from_the_result(widget, viewer, result, qtbot, detections):
    session, known = session_of(viewer), marked_normal_of(session_of(viewer))
    n = len(widget.table.rows())
    number = next(row.number for row in widget.table.rows() if row.index == (2,))
    inside = result.labels.data == number
    result.labels.selected_label = number
    with qtbot.waitSignals([known.changed, session.results_changed]):
        widget.judge_bar.mark_button.click()
    assert not result.labels.data[inside].any()
    assert sorted(numbers(widget)) == list(range(1, n))
    assert set(np.unique(result.labels.data)) == set(range(n))
    assert len(result.labels.features) == n
    relabel(session, widget.result, 5.0)
    assert not result.labels.data[inside].any()
    assert (result.log10_nfa.data[inside] > 1).all()
    np.testing.assert_array_equal(result.heatmap.data[2], detections[2].score)

    (normal,) = known.regions
    assert normal.specimen == "drawn specimen=2"
    assert normal.plane.index == {"Z": 2}
    assert normal.normal()[inside[2]].all()
    assert "1 region marked normal" in widget.judge_bar.line.text()
    assert not widget.judge_bar.refine_button.isEnabled()  # there is no model


@pytest.mark.slow
def test_refining_is_left_to_the_train_widget(widget, viewer, tiny_model, qtbot, monkeypatch):
    from napari_uflow._napari.panels.train import TrainWidget

    session = session_of(viewer)
    session.set_model(tiny_model, "tiny")
    assert not widget.judge_bar.refine_button.isEnabled()  # no region is marked normal
    widget.table.choose(0)
    widget.mark_normal()
    assert widget.judge_bar.refine_button.isEnabled()
    widget.judge_bar.refine_button.click()
    _, train = viewer.window.add_plugin_dock_widget("napari-uflow", "Train")
    assert isinstance(train, TrainWidget)
    assert "opened from a file" in train.job_bar.status.text()
    began = []
    monkeypatch.setattr(TrainWidget, "refine", lambda self: began.append(self))
    session.set_model(tiny_model, "tiny", recipe=train.normal_images.recipe())
    widget.judge_bar.refine_button.click()
    assert len(began) == 1
    widget.judge_bar.undo_button.click()
    assert not widget.judge_bar.refine_button.isEnabled()


@pytest.mark.slow
def test_a_changed_result_keeps_the_choice(widget, viewer, result):
    """The regions of the first plane go, so the others get other numbers."""
    last = next(i for i, row in enumerate(widget.table.rows()) if row.index == (2,))
    widget.table.choose(last)
    before, center = widget.table.current(), camera_of(viewer).center
    (index, found), *others = result.planes
    clean = replace(found, log10_nfa=np.full_like(found.log10_nfa, 2.0))
    relabel(session_of(viewer), replace(result, planes=((index, clean), *others)), 1.0)
    after = widget.table.current()
    assert after.number == before.number - len(found.regions)
    assert after.index == before.index
    assert after.values["log10_nfa"] == before.values["log10_nfa"]
    assert result.labels.selected_label == after.number
    assert camera_of(viewer).center == center
    relabel(session_of(viewer), replace(result, planes=((index, clean),)), 1.0)
    assert widget.table.current() is None
    assert widget.summary.text() == "No anomalies; 1 false alarm per image accepted."


@pytest.mark.slow
def test_the_key_does_it_on_the_table_and_on_the_canvas(widget, viewer, result, qtbot):
    n = len(widget.table.rows())
    widget.show()
    widget.table.setFocus()
    widget.table.choose(0)
    widget.table.activateWindow()
    qtbot.waitUntil(lambda: widget.table.hasFocus(), timeout=5000)
    qtbot.keyClick(widget.table, Qt.Key.Key_Delete)
    assert len(widget.table.rows()) == n - 1
    assert widget.table.current() is not None  # the next one, to go on with
    assert result.labels.selected_label == widget.table.current().number
    assert viewer.dims.current_step[0] == widget.table.current().index[0]
    keys = {str(key): action for key, action in result.labels.keymap.items()}
    keys["Backspace"](result.labels)
    assert len(widget.table.rows()) == n - 2


@pytest.mark.slow
def test_undo(widget, viewer, result):
    before = result.labels.data.copy()
    for _ in range(2):
        widget.table.choose(0)
        widget.mark_normal()
    assert len(marked_normal_of(session_of(viewer))) == 2
    widget.judge_bar.undo_button.click()
    widget.judge_bar.undo_button.click()
    np.testing.assert_array_equal(result.labels.data, before)
    assert len(marked_normal_of(session_of(viewer))) == 0
    assert not widget.judge_bar.undo_button.isEnabled()
    assert widget.judge_bar.line.isHidden()


@pytest.mark.slow
def test_regions_stay_marked_normal_after_another_detection(widget, viewer, detections, result):
    widget.table.choose(0)
    widget.mark_normal()
    image = viewer.layers["drawn"]
    target = target_of_planes(image, planes_of_layer(image), "layer")
    again = show_detections(viewer, session_of(viewer), target, detections, model_name="tiny")
    assert again.labels is result.labels
    assert len(widget.table.rows()) == sum(len(found.regions) for found in detections)
    assert len(marked_normal_of(session_of(viewer))) == 1
    assert not widget.judge_bar.undo_button.isEnabled()


@pytest.mark.slow
def test_a_result_of_one_slice(viewer, detections, qtbot):
    result = show(viewer, detections, "slice")
    viewer.dims.set_point(0, 0)
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    assert widget.table.isColumnHidden(1)
    widget.table.choose(0)
    assert viewer.dims.current_step[0] == 2
    widget.mark_normal()
    (normal,) = marked_normal_of(session_of(viewer)).regions
    assert normal.plane.index == {"Z": 2}
    assert widget.result.labels is result.labels


@pytest.mark.slow
def test_a_result_of_a_part_of_a_plane(viewer, detections, tiny_model, tmp_path, qtbot, monkeypatch):
    image = viewer.add_image(drawn(), name="drawn", **GEOMETRY)
    plane = planes_of_layer(image)[2]
    window = Window(32, 16, 112, 96)
    part = replace(plane, data=plane.data[2][window.slices()], axes="YX", index={})
    found = detect(tiny_model, part, DetectionConfig(nfa="paper"), device="cpu")
    target = target_of_view(image, View(part, window, (2,)))
    result = show_detections(viewer, session_of(viewer), target, [found], model_name="tiny")
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    widget.table.choose(0)
    row = widget.table.current()
    assert viewer.dims.current_step[0] == 2
    centre = [(row.values[f"first_{a}"] + row.values[f"stop_{a}"] - 1) / 2 for a in ("row", "col")]
    expected = [(value + start) / 2 for value, start in zip(centre, (32, 16), strict=True)]
    assert camera_of(viewer).center[-2:] == pytest.approx(expected)

    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / "a"))
    widget.export_bar.export("geojson")
    feature = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"][row.number - 1]
    assert feature["geometry"]["plane"]["z"] == 2
    rings = feature["geometry"]["coordinates"]
    corners = np.array(rings[0] if feature["geometry"]["type"] == "Polygon" else rings[0][0])
    assert corners[:, 0].min() >= 16 + row.values["first_col"]
    assert corners[:, 1].min() >= 32 + row.values["first_row"]
    widget.export_bar.copy_python.trigger()
    script = QApplication.clipboard().text()
    assert "# Only a part of the image was processed in napari" in script
    assert "for i in [2]]" in script

    widget.mark_normal()
    (normal,) = marked_normal_of(session_of(viewer)).regions
    np.testing.assert_array_equal(normal.plane.read(), part.read())
    assert normal.specimen == "drawn specimen=2"
    assert widget.result.labels is result.labels


@pytest.mark.slow
def test_the_widget_follows_the_results(viewer, detections, qtbot):
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    assert "No result yet" in widget.summary.text()
    assert not widget.export_bar.export_button.isEnabled()
    result = show(viewer, detections)
    assert len(widget.table.rows()) >= 3
    other = show(viewer, detections, "slice")
    assert widget.result.labels is other.labels
    viewer.layers.selection.active = result.labels
    assert widget.result.labels is result.labels
    relabel(session_of(viewer), widget.result, 1e-12)
    assert len(widget.table.rows()) == len(np.unique(result.labels.data)) - 1
    viewer.layers.remove(result.labels)
    assert widget.result.labels is other.labels
    viewer.layers.clear()
    assert widget.table.rows() == []
    assert widget.results.count() == 0


@pytest.mark.slow
def test_a_closed_widget_does_nothing_more(viewer, result):
    dock, widget = viewer.window.add_plugin_dock_widget("napari-uflow", "Anomalies")
    result.labels.selected_label = 3
    assert widget.table.current().number == 3
    keys = {str(key): action for key, action in result.labels.keymap.items()}
    viewer.window.remove_dock_widget(dock)
    del dock, widget
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    QApplication.processEvents()
    before = result.labels.data.copy()
    result.labels.selected_label = 2
    keys["Delete"](result.labels)
    viewer.layers.selection.active = None
    viewer.layers.selection.active = result.labels
    relabel(session_of(viewer), session_of(viewer).result_of(result.labels), 1.0)
    np.testing.assert_array_equal(result.labels.data, before)


@pytest.mark.slow
def test_an_image_is_known_by_itself_and_not_by_its_name(widget, viewer):
    image = viewer.layers["drawn"]
    image.name = "another name"
    viewer.add_image(np.zeros_like(image.data), name="drawn", metadata={})
    widget.table.choose(0)
    widget.mark_normal()
    (normal,) = marked_normal_of(session_of(viewer)).regions
    assert normal.plane.data is image.data


@pytest.mark.slow
def test_corrections_by_eye_are_recorded(widget, viewer, tiny_model):
    session = session_of(viewer)
    (result,) = session.results.values()
    for _ in range(2):
        widget.table.choose(0)
        widget.mark_normal()
    (result,) = session.results.values()
    assert result.labels.metadata["napari_uflow"]["n_marked_normal"] == 2
    session.set_model(tiny_model, "model")
    assert "2 reported regions were judged normal by eye" in as_methods_text(result, session)


@pytest.mark.slow
def test_a_closed_image_is_an_error(widget, viewer):
    viewer.layers.remove("drawn")
    n = len(widget.table.rows())
    widget.table.choose(0)
    widget.mark_normal()
    assert widget.status.text().startswith("The image 'drawn' is no longer open")
    assert len(widget.table.rows()) == n


@pytest.fixture
def export(widget, tmp_path, monkeypatch):
    def answer(kind):
        asked = []
        monkeypatch.setattr(
            dialogs, "ask_to_save", lambda title, name, kinds, parent=None: asked.append(name) or str(tmp_path / name)
        )
        widget.export_bar.export_actions[kind].trigger()
        assert asked == ["drawn" + EXPORTS[kind][1]]
        assert widget.status.text() == f"Saved '{tmp_path / asked[0]}'."
        return tmp_path / asked[0]

    return answer


@pytest.mark.slow
def test_the_table_is_exported_with_the_numbers_of_the_layer(widget, export, result):
    with open(export("csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == sorted(numbers(widget))
    for row in rows:
        assert np.count_nonzero(result.labels.data == int(row["label"])) == int(row["area_px"])


@pytest.mark.slow
def test_outlines_are_exported_with_their_planes(export, result):
    features = json.loads(export("geojson").read_text(encoding="utf-8"))["features"]
    for number, feature in enumerate(features, start=1):
        plane = feature["geometry"].get("plane", {"z": 0})["z"]
        assert (result.labels.data[plane] == number).any()
        rings = feature["geometry"]["coordinates"]
        corners = np.array(rings[0] if feature["geometry"]["type"] == "Polygon" else rings[0][0])
        rows, cols = np.nonzero(result.labels.data[plane] == number)
        assert corners[:, 0].min() >= cols.min()
        assert corners[:, 1].max() <= rows.max() + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "mask", "heatmap"])
def test_layers_are_exported_with_pixel_size(kind, export, result):
    planes = read_planes(export(kind))
    written = np.stack([plane.read()[0] for plane in planes])
    expected = {
        "labels": result.labels.data,
        "mask": np.where(result.labels.data > 0, 255, 0),
        "heatmap": result.heatmap.data,
    }[kind]
    np.testing.assert_array_equal(written, expected)
    assert planes[0].pixel_size == pytest.approx((0.5, 0.5))
    assert planes[0].unit == "um"


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_an_error(widget, tmp_path, monkeypatch):
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / "none" / "a.csv"))
    widget.export_bar.export("csv")
    assert "cannot be written: there is no folder" in widget.status.text()
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: "")
    widget.export_bar.export("csv")


@pytest.mark.slow
def test_the_script_in_the_clipboard_runs(viewer, detections, tiny_model_file, tmp_path, qtbot, monkeypatch):
    path = tmp_path / "stack.tif"
    write_tiff(path, drawn(), "ZYX", pixel_size=(0.5, 0.5), unit="um")
    session = session_of(viewer)
    session.open_model(tiny_model_file)
    (found,) = [replace(d, provenance=replace(d.provenance, source=str(path))) for d in detections[2:]]
    show(viewer, [*detections[:2], found], "slice")
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    widget.export_bar.copy_python.trigger()
    assert widget.status.text() == "Script copied to the clipboard."
    script = QApplication.clipboard().text()
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (again,) = runpy.run_path("script.py")["detections"]
    np.testing.assert_array_equal(again.labels, found.labels)


@pytest.mark.slow
def test_the_paragraph_in_the_clipboard(widget, viewer, tiny_model):
    widget.export_bar.copy_methods.trigger()
    assert "no model" in widget.status.text().lower()
    session_of(viewer).set_model(tiny_model, "tiny")
    widget.export_bar.copy_methods.trigger()
    text = QApplication.clipboard().text()
    assert "10.1007/s10851-024-01193-y" in text
    assert "as in the cited paper" in text


def settled(widget, qtbot):
    """Wait until the table has followed a stroke of the brush."""
    with qtbot.waitSignal(widget._link.edited, timeout=5000):
        pass


def areas(widget):
    return {row.number: row.values["area_px"] for row in widget.table.rows()}


@pytest.mark.slow
def test_painted_and_erased_regions_are_in_the_table_and_in_the_exports(widget, result, export, qtbot):
    first = min(numbers(widget))
    labels = result.labels
    before = areas(widget)
    labels.data_setitem(np.nonzero(labels.data == first), 0)
    new = 100
    labels.data_setitem((np.full(12, 1), np.repeat([20, 21], 6), np.tile(np.arange(30, 36), 2)), new)
    settled(widget, qtbot)
    shown, n_pixels = np.unique(labels.data[labels.data > 0], return_counts=True)
    assert areas(widget) == dict(zip(shown, n_pixels, strict=True))
    assert (first in shown, new in shown, areas(widget)[new]) == (False, True, 12)
    row = next(row for row in widget.table.rows() if row.number == new)
    assert row.index == (1,)
    assert (row.values["centroid_row"], row.values["centroid_col"]) == (20.5, 32.5)
    assert row.values["peak_score"] == pytest.approx(np.nanmax(result.heatmap.data[1, 20:22, 30:36]))
    with open(export("csv"), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["label"]): int(row["area_px"]) for row in rows} == areas(widget)
    by_hand = {int(row["label"]) for row in rows if row["is_edited"] == "1"}
    assert new in by_hand
    assert len(by_hand) < len(rows)
    features = json.loads(export("geojson").read_text(encoding="utf-8"))["features"]
    drawn_by_hand = next(f for f in features if f["properties"]["name"].endswith(f" {new}"))
    assert drawn_by_hand["geometry"]["plane"]["z"] == 1
    assert drawn_by_hand["properties"]["measurements"]["Edited by hand"] == 1
    assert sum("Edited by hand" in f["properties"]["measurements"] for f in features) == len(by_hand)
    assert drawn_by_hand["geometry"]["coordinates"] == [[[30, 20], [36, 20], [36, 22], [30, 22], [30, 20]]]
    assert len(features) == len(rows)
    labels.undo()
    labels.undo()
    settled(widget, qtbot)
    assert areas(widget) == before


@pytest.mark.slow
def test_edits_are_kept_shown_exported_and_discarded(widget, viewer, result, export, qtbot):
    session, labels = session_of(viewer), result.labels
    before = areas(widget)
    assert widget.judge_bar.discard_button.isHidden()
    labels.brush_size = 6
    new = int(labels.data.max()) + 1
    labels.selected_label = new
    labels.paint([1, 20, 30], new)  # in a region that fills the plane
    labels.data_setitem(np.nonzero(labels.data == 1), 2)
    settled(widget, qtbot)
    assert not widget.judge_bar.discard_button.isHidden()
    assert "(3 edited by hand)" in widget.summary.text()
    assert not widget.table.isColumnHidden(9)
    for false_alarms in (10.0, 1.0):
        relabel(session, session.results[labels], false_alarms)
    kinds = {row.number: row.edited for row in widget.table.rows()}
    assert (kinds[2], kinds[new]) == ("changed", "painted")
    assert sorted(kinds.values()) == ["changed", "changed", *["no"] * (len(kinds) - 3), "painted"]
    with open(export("csv"), newline="", encoding="utf-8") as file:
        rows = {int(row["label"]): row for row in csv.DictReader(file)}
    assert {number: row["is_edited"] == "1" for number, row in rows.items()} == {
        number: kind != "no" for number, kind in kinds.items()
    }
    assert {number: int(row["area_px"]) for number, row in rows.items()} == areas(widget)
    widget.judge_bar.discard_button.click()
    assert areas(widget) == before
    assert widget.judge_bar.discard_button.isHidden()
    assert widget.table.isColumnHidden(9)
    with open(export("csv"), newline="", encoding="utf-8") as file:
        assert {row["is_edited"] for row in csv.DictReader(file)} == {"0"}


@pytest.mark.slow
def test_a_painted_region_can_be_marked_normal(widget, result, viewer, qtbot):
    result.labels.data_setitem((np.full(4, 1), np.array([20, 20, 21, 21]), np.array([30, 31, 30, 31])), 100)
    settled(widget, qtbot)
    widget.table.follow(100)
    widget.mark_normal()
    (region,) = marked_normal_of(session_of(viewer)).regions
    assert region.plane.index == {"Z": 1}
    assert 100 not in numbers(widget)


@pytest.mark.slow
def test_what_was_copied_is_of_the_model_that_found_it(
    viewer, detections, tiny_model, tiny_pyramid, tiny_model_file, tmp_path, qtbot
):
    session = session_of(viewer)
    session.open_model(tiny_model_file)
    made_by = session.model
    image = viewer.add_image(drawn(), name="drawn", **GEOMETRY)
    target = target_of_planes(image, planes_of_layer(image), "layer")
    show_detections(viewer, session, target, detections, model_name="tiny", model=made_by)
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)

    def copied(action):
        action.trigger()
        return QApplication.clipboard().text()

    script, paragraph = copied(widget.export_bar.copy_python), copied(widget.export_bar.copy_methods)
    assert repr(str(tiny_model_file)) in script
    session.set_model(tiny_pyramid, "refined")
    assert copied(widget.export_bar.copy_python) == script
    assert copied(widget.export_bar.copy_methods) == paragraph
    session.save_model(tmp_path / "refined")
    assert copied(widget.export_bar.copy_python) == script
    session.set_model(made_by, "copy")
    session.save_model(tmp_path / "copy")
    assert repr(str(tmp_path / "copy.safetensors")) in copied(widget.export_bar.copy_python)
    session.set_model(tiny_pyramid, "refined")
    session.save_model(tmp_path / "copy.safetensors")  # in its place
    assert "The model was not saved" in copied(widget.export_bar.copy_python)


@pytest.mark.slow
def test_what_was_copied_says_that_regions_were_edited(widget, result, viewer, tiny_model):
    session_of(viewer).set_model(tiny_model, "tiny")
    for action in (widget.export_bar.copy_python, widget.export_bar.copy_methods):
        action.trigger()
        assert "by hand" not in QApplication.clipboard().text()
    result.labels.data[0] = 0
    for action in (widget.export_bar.copy_python, widget.export_bar.copy_methods):
        action.trigger()
        assert "by hand" in QApplication.clipboard().text()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "ending"), [("csv", ".csv"), ("geojson", ".geojson"), ("labels", ".tif")])
def test_a_file_for_which_no_dialog_asked_is_not_replaced(widget, tmp_path, monkeypatch, kind, ending):
    mine = tmp_path / f"mine{ending}"
    mine.write_text("my own")
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / "mine"))
    widget.export_bar.export(kind)
    assert "not a result of this program" in widget.status.text()
    assert mine.read_text() == "my own"
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(mine))  # for which it did
    widget.export_bar.export(kind)
    assert mine.read_bytes() != b"my own"


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(EXPORTS))
def test_a_result_never_replaces_its_image(viewer, detections, tmp_path, qtbot, monkeypatch, kind):
    path = tmp_path / "drawn.tif"
    write_tiff(path, drawn(), "ZYX")
    before = path.read_bytes()
    found = [replace(d, provenance=replace(d.provenance, source=str(path))) for d in detections]
    show(viewer, found)
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    asked = tmp_path / f"link.{kind if kind in ('csv', 'geojson') else 'tif'}"
    asked.hardlink_to(path)
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(asked))
    widget.export_bar.export(kind)
    assert "one of the images" in widget.status.text()
    assert asked.samefile(path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_channels_before_the_stack(viewer, detections, qtbot):
    stack = np.stack([drawn(), drawn()])
    image = viewer.add_image(stack, name="two", axis_labels=("c", "specimen", "y", "x"))
    plane = current_plane(image, viewer.dims.point, channels=[1])
    target = target_of_planes(image, planes_of_layer(image, channels=[1]), "layer", channels=[1])
    result = show_detections(viewer, session_of(viewer), target, detections, model_name="tiny")
    assert result.labels.metadata["napari_uflow"]["channels"] == [1]
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    widget.table.choose(0)
    row = widget.table.current()
    widget.mark_normal()
    (normal,) = marked_normal_of(session_of(viewer)).regions
    assert normal.plane.channels == plane.channels == (1,)
    assert normal.plane.index == {"Z": row.index[-1]}


@pytest.mark.slow
def test_the_widgets_are_light_to_import():
    modules = (
        "panels.anomalies",
        "panels.batch",
        "contributions.io",
        "contributions.export",
        "parts.dialogs",
        "session.marked_normal",
        "layers.navigate",
    )
    names = ", ".join(f"napari_uflow._napari.{name}" for name in modules)
    code = f"import sys; import {names}; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


@pytest.fixture
def simple(viewer, hills, qtbot):
    """The widget with a result of two planes that no network made."""
    image = viewer.add_image(np.zeros((2, 40, 50), np.uint8), name="simple", axis_labels=("specimen", "y", "x"))
    found = [hills((40, 50), [(10, 10, -5.0)]), hills((40, 50), [])]
    target = target_of_planes(image, planes_of_layer(image), "layer")
    show_detections(viewer, session_of(viewer), target, found, model_name="none")
    widget = AnomaliesWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize(("kind", "name"), [("csv", "x.json"), ("geojson", "x.csv"), ("labels", "x.png")])
def test_the_ending_of_another_kind_of_file_is_refused(simple, tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / name))
    simple.export_bar.export(kind)
    assert "has the ending of another kind of file" in simple.status.text()
    assert not list(tmp_path.iterdir())


def test_a_message_about_earlier_regions_is_cleared(simple, viewer, tmp_path, monkeypatch):
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **options: str(tmp_path / "x.csv"))
    simple.export_bar.export("csv")
    assert simple.status.text().startswith("Saved")
    session = session_of(viewer)
    relabel(session, session.results[simple.result.labels], 10.0)
    assert simple.status.isHidden()


def test_an_image_that_could_not_be_judged_is_not_called_free_of_anomalies(simple, viewer):
    session = session_of(viewer)
    result = simple.result

    def void(*planes):
        changed = [
            (index, replace(found, guarantee=replace(found.guarantee, caveats=(Caveat.BRIGHTNESS,) * (i in planes))))
            for i, (index, found) in enumerate(result.planes)
        ]
        session.set_result(replace(result, planes=tuple(changed)))
        return simple.summary.text()

    assert void() == "1 anomaly in 1 of 2 planes; 1 false alarm per image accepted."
    assert void(1) == f"{void()} ⚠ 1 of 2 planes could not be judged; Detect says why."
    judging.mark_normal(session, viewer, result, (0,), 1)
    result = simple.result
    assert void() == "No anomalies; 1 false alarm per image accepted."
    assert void(0, 1) == "⚠ 2 of 2 planes could not be judged; Detect says why."
