"""The Trust report widget: false alarms on the held-out specimens, and on other images."""

import json
from dataclasses import replace

import numpy as np
import pytest
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent

from napari_uflow import __version__
from napari_uflow._napari.panels.trust import TrustWidget
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.evaluation.trust import EPSILONS, trust_report, trust_steps
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.tiff_writer import write_tiff

WAIT = 60_000


@pytest.fixture
def widget(viewer, tiny_model, qtbot):
    session_of(viewer).set_model(tiny_model, "tiny")
    widget = TrustWidget(viewer)
    widget.planting.setChecked(False)  # for the time it takes
    yield widget
    idle(widget, qtbot)
    if isalive(widget):
        widget.close()
        widget.deleteLater()


def delete_now(widget):
    widget.close()
    widget.deleteLater()
    QCoreApplication.sendPostedEvents(widget, QEvent.Type.DeferredDelete)
    assert not isalive(widget)


def idle(widget, qtbot):
    qtbot.waitUntil(lambda: widget.session.runner.state is State.IDLE, timeout=WAIT)


def column(widget, number):
    return [widget.table.item(row, number).text() for row in range(widget.table.rowCount())]


@pytest.mark.slow
def test_the_report_of_the_held_out_specimens(widget, qtbot, tiny_model):
    assert widget.table.isHidden()
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert widget.session.runner.job.outcome is Outcome.DONE
    report = trust_report(tiny_model)
    assert widget.report.to_dict() == report.to_dict()
    assert [float(text) for text in column(widget, 0)] == list(EPSILONS)
    assert column(widget, 2) == ["-"] * len(EPSILONS)
    assert [text == "yes" for text in column(widget, 3)] == [report.is_guaranteed(e) for e in EPSILONS]
    assert "No number is guaranteed" in widget.text.text()
    assert not widget.image.isHidden()
    assert widget.job_bar.status.text() == ""
    widget.image.resize(300, widget.image.heightForWidth(300))
    pixels = widget.image.grab().toImage()
    assert pixels.height() > pixels.width()


@pytest.mark.slow
def test_other_images_are_counted_and_those_of_the_training_are_told(widget, viewer, qtbot, tiny_model):
    stack = np.stack([fibre_field(seed, shape=(128, 128)).image for seed in (21, 22)])
    new = viewer.add_image(stack, name="new", axis_labels=("specimen", "y", "x"))
    seen = viewer.add_image(fibre_field(0, shape=(128, 128)).image, name="fibres 0")
    assert widget.images.layers() == []
    widget.images.set_layers([new])
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert widget.report.n_new == 2
    assert float(column(widget, 2)[-1]) == pytest.approx(widget.report.new[-1], rel=0.01)
    assert "had a part" not in widget.job_bar.messages.text()
    widget.images.set_layers([new, seen])
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert widget.report.n_new == 3
    assert "1 of the ticked images had a part in the training" in widget.job_bar.messages.text()


@pytest.mark.slow
def test_defects_are_planted_into_the_ticked_images(widget, viewer, qtbot):
    image = viewer.add_image(fibre_field(21, shape=(128, 128)).image, name="new")
    widget.images.set_layers([image])
    widget.planting.setChecked(True)
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert widget.report.sensitivity.sentences()[0] in widget.text.text()
    assert widget.report.n_new == 1


@pytest.mark.slow
def test_images_of_the_training_are_told_by_folder_too(widget, viewer, qtbot, tiny_model, tmp_path):
    record = replace(tiny_model.record, specimens=("mouse/s1", "rat/s1"))
    widget.session.set_model(replace(tiny_model, record=record), "two folders")
    for folder in ("mouse", "cat"):
        (tmp_path / folder).mkdir()
        write_tiff(tmp_path / folder / "s1.tif", fibre_field(0, shape=(128, 128)).image, "YX")
        viewer.open(tmp_path / folder / "s1.tif")
    widget.images.set_layers(list(viewer.layers))
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert "1 of the ticked images had a part in the training" in widget.job_bar.messages.text()


@pytest.mark.slow
def test_a_report_that_comes_after_the_widget_was_closed_is_dropped(widget, qtbot):
    session = widget.session
    widget.job_bar.button.click()
    delete_now(widget)
    with qtbot.captureExceptions() as exceptions:
        qtbot.waitUntil(lambda: session.runner.state is State.IDLE, timeout=WAIT)
    assert not exceptions
    assert session.runner.job.outcome is Outcome.DONE


@pytest.mark.slow
@pytest.mark.parametrize("end", [".png", ".json", ".JSON"])
def test_the_report_is_saved(widget, qtbot, tmp_path, monkeypatch, end):
    path = tmp_path / f"report{end}"
    monkeypatch.setattr(dialogs, "ask_to_save", lambda *args, **kwargs: str(path))
    widget.job_bar.button.click()
    idle(widget, qtbot)
    widget.save_button.click()
    idle(widget, qtbot)
    assert widget.job_bar.status.text() == f"Saved '{path}'."
    if end.lower() == ".json":
        assert json.loads(path.read_text()) == {"napari_uflow": __version__, **widget.report.to_dict()}
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("report*")) == [path]


@pytest.mark.slow
def test_another_model_takes_the_report_away(widget, qtbot, tiny_model):
    widget.job_bar.button.click()
    idle(widget, qtbot)
    widget.session.set_model(replace(tiny_model, calibration=None), "bare")
    assert widget.report is None
    assert widget.table.isHidden()
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert "no calibration" in widget.job_bar.status.text()
    widget.session.set_model(None)
    assert not widget.job_bar.button.isEnabled()


@pytest.mark.slow
def test_a_report_that_comes_late_is_not_shown_for_another_model(widget, qtbot, tiny_model, monkeypatch):
    def slow(*args, **kwargs):
        widget_model_changes.append(True)
        return (yield from trust_steps(*args, **kwargs))

    widget_model_changes = []
    monkeypatch.setattr("napari_uflow.evaluation.trust.trust_steps", slow)
    widget.job_bar.button.click()
    widget.session.set_model(replace(tiny_model), "other")
    idle(widget, qtbot)
    assert widget_model_changes
    assert widget.report is None


def test_drift_is_reported_and_reset(widget, qtbot, watched_model, log_drift, tmp_path):
    path = tmp_path / "watched.safetensors"
    log_drift(watched_model, path)
    widget.session.set_model(watched_model, "watched", path)
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert "Since 'blurred 0' (" in widget.text.text()
    assert not widget.reset_button.isHidden()
    widget.reset_button.click()
    assert widget.reset_button.isHidden()
    widget.job_bar.button.click()
    idle(widget, qtbot)
    assert "No drift: no new specimen in the drift log." in widget.text.text()
    assert widget.reset_button.isHidden()
