"""The whole workflow of a user, with mouse and keyboard events in a visible window."""

import csv
import json

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_uflow._napari.contributions import samples
from napari_uflow._napari.layers.navigate import camera_of
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.store.images import read_planes

WAIT = 60_000


def canvas_of(viewer):
    """The widget that vispy draws on."""
    (canvas,) = [w for w in QApplication.allWidgets() if type(w).__name__ == "CanvasBackendDesktop" and w.isVisible()]
    assert isinstance(canvas, QWidget)
    return canvas


def drag(canvas, places):
    """Press the left button, move over some places, and let go."""
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton

    def send(kind, place, button, buttons):
        at = QPointF(place)
        event = QMouseEvent(
            kind, at, QPointF(canvas.mapToGlobal(place)), button, buttons, Qt.KeyboardModifier.NoModifier
        )
        QApplication.sendEvent(canvas, event)
        QApplication.processEvents()

    send(QEvent.Type.MouseMove, places[0], none, none)
    send(QEvent.Type.MouseButtonPress, places[0], left, left)
    for place in places[1:]:
        send(QEvent.Type.MouseMove, place, none, left)
    send(QEvent.Type.MouseButtonRelease, places[-1], left, none)


@pytest.fixture
def click(qtbot):
    def press(widget, pos=None):
        qtbot.mouseClick(widget, Qt.MouseButton.LeftButton, pos=pos or widget.rect().center())

    return press


@pytest.mark.slow
def test_from_the_sample_to_files(make_napari_viewer_proxy, qtbot, click, monkeypatch, tmp_path):
    monkeypatch.setattr(samples, "_SHAPE", (160, 160))
    monkeypatch.setattr(samples, "_N_NORMAL", 8)
    monkeypatch.setattr(samples, "_N_DEFECTIVE", 2)
    monkeypatch.setattr(samples, "_N_CLEAN", 1)
    viewer = make_napari_viewer_proxy(show=True)
    viewer.window.resize(1300, 900)
    session = session_of(viewer)
    runner = session.runner

    def open_widget(name):
        dock, widget = viewer.window.add_plugin_dock_widget("napari-uflow", name, tabify=True)
        dock.show()
        dock.raise_()
        QApplication.processEvents()
        return widget

    def wait_for_the_job():
        qtbot.waitUntil(lambda: runner.state is State.IDLE, timeout=WAIT)

    # open the sample, and paint a normal area
    viewer.open_sample("napari-uflow", "normal_fibres")
    train = open_widget("Train")
    click(train.normal_images.new_area_button)
    area = viewer.layers["Fibres, normal, normal area"]
    specimen = viewer.dims.current_step[0]
    assert not area.data.any()
    area.brush_size = 60
    canvas = canvas_of(viewer)
    middle = canvas.rect().center()
    drag(canvas, [middle + QPoint(dx, dy) for dy in (-120, -40, 40, 120) for dx in (-120, 0, 120)])
    painted = area.data > 0
    assert painted[specimen].mean() > 0.3
    assert painted.sum() == painted[specimen].sum()
    train.new_model.model_form.fields["tile"].value = 64
    train.new_model.more_model_form.fields["flow_steps"].value = 2
    for name, value in {"steps": 100_000, "patience": 10_000, "batch_size": 4, "check_every": 2}.items():
        train.new_model.training_form.fields[name].value = value
    qtbot.waitUntil(lambda: "Trains on" in train.estimate_label.text())
    assert "one part of the specimen" in train.estimate_label.text()

    # train on it, and stop
    click(train.job_bar.button)
    qtbot.waitUntil(lambda: len(train.plot.points) > 0, timeout=WAIT)
    click(train.job_bar.button)
    assert train.job_bar.button.text() == "Stopping..."
    wait_for_the_job()
    assert runner.job.outcome is Outcome.STOPPED
    assert train.job_bar.status.text().startswith("Training finished (stopped at step")
    first = session.model

    # train on the whole images
    train.normal_images.normal.setFocus()
    qtbot.keyClick(train.normal_images.normal, Qt.Key.Key_Home)
    assert train.normal_images.normal.value() is None
    train.new_model.training_form.fields["steps"].value = 6
    click(train.job_bar.button)
    wait_for_the_job()
    assert runner.job.outcome is Outcome.DONE
    assert session.model is not first
    assert "8 specimens held out" in train.model_bar.label.text()

    # detect, and move the slider
    viewer.open_sample("napari-uflow", "defective_fibres")
    detect = open_widget("Detect")
    assert detect.image.value().name == "Fibres, with defects"
    click(detect.job_bar.button)
    wait_for_the_job()
    (result,) = session.results.values()
    labels = result.labels
    assert labels.data.shape == viewer.layers["Fibres, with defects"].data.shape
    counts = {1.0: len(np.unique(labels.data))}
    slider = detect.slider.slider
    slider.setFocus()
    for key, value in ((Qt.Key.Key_Home, 0.001), (Qt.Key.Key_End, 10.0)):
        qtbot.keyClick(slider, key)
        qtbot.waitUntil(lambda value=value: labels.metadata["napari_uflow"]["detection"]["false_alarms"] == value)
        counts[value] = len(np.unique(labels.data))
    assert counts[0.001] <= counts[1.0] <= counts[10.0]
    assert counts[10.0] > 2
    assert detect.guarantee_label.text().startswith("On average, at most 10 false alarms per normal image")

    # go through the table
    anomalies = open_widget("Anomalies")
    table = anomalies.table
    n = len(table.rows())
    assert n == counts[10.0] - 1
    row = table.rows()[n - 1]
    camera = camera_of(viewer)
    before = tuple(camera.center)
    table.scrollToBottom()
    click(table.viewport(), table.visualRect(table.model().index(n - 1, 0)).center())
    assert table.current() == row
    assert tuple(camera.center) != before
    assert viewer.dims.current_step[0] == row.index[0]
    inside = labels.data == row.number
    click(anomalies.judge_bar.mark_button)
    assert not labels.data[inside].any()
    assert len(table.rows()) == n - 1
    click(anomalies.judge_bar.refine_button)
    assert runner.job.title == "Refining"
    wait_for_the_job()
    assert session.model_name == "Fibres, normal refined"

    # export, and read the files back
    open_widget("Anomalies")
    for kind, name in (("labels", "a.tif"), ("csv", "a.csv"), ("geojson", "a.geojson")):
        monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, name=name, **options: str(tmp_path / name))
        anomalies.export_bar.export_actions[kind].trigger()
        assert anomalies.status.text() == f"Saved '{tmp_path / name}'."
    planes = read_planes(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.stack([plane.read()[0] for plane in planes]), labels.data)
    assert planes[0].pixel_size == pytest.approx((0.09, 0.09))
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == n - 1
    assert len(json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))["features"]) == n - 1
