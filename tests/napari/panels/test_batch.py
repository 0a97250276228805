"""The Detect in files widget: the list shows the result of each file, and the written files can be opened."""

import csv
import os
import sys

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_uflow._napari.panels.batch import BatchWidget, found_in_words
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow.batch.mark import is_unfinished
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system.owner import nobody

WAIT = 60_000


@pytest.fixture
def widget(viewer, tiny_model, qtbot):
    session_of(viewer).set_model(tiny_model, "tiny")
    widget = BatchWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image = fibre_field(0, shape=(128, 128)).image.copy()
    image[40:88, 40:88] = np.random.default_rng(0).integers(0, 256, (48, 48))
    write_tiff(folder / "a.tif", image, "YX", pixel_size=(0.5, 0.5), unit="um")
    (folder / "b.tif").write_text("no image")
    write_tiff(folder / "c.tif", np.full((96, 128), 100, np.uint8), "YX")
    return folder


def results(widget):
    return widget.files.results()


def run(widget, qtbot):
    widget.job_bar.button.click()
    runner = widget._session.runner
    with qtbot.waitSignal(runner.job.ended, timeout=WAIT):
        pass
    assert runner.state is State.IDLE


@pytest.mark.slow
def test_a_folder_is_processed(widget, folder, qtbot):
    assert not widget.job_bar.button.isEnabled()
    widget.add([folder])
    assert [path.name for path in widget.paths()] == ["a.tif", "b.tif", "c.tif"]
    assert widget.output.path() == str(folder / "anomalies")
    assert widget.job_bar.button.isEnabled()
    of_a_killed_run = folder / "anomalies" / f".uflow-{nobody()}-01234567-a_labels.tif"
    of_a_killed_run.mkdir(parents=True)
    run(widget, qtbot)
    assert not of_a_killed_run.exists()
    a, b, c = results(widget)
    assert a.endswith(("anomaly", "anomalies"))
    assert b.startswith("cannot be read; ")
    assert c == "no anomalies" or c.endswith(("anomaly", "anomalies"))
    assert widget.files_line.text().startswith("2 images processed, ")
    assert "1 file failed" in widget.files_line.text()
    assert widget.job_bar.messages.isHidden()
    assert (folder / "anomalies" / "overview.png").is_file()
    (plane,) = read_planes(folder / "anomalies" / "a_labels.tif")
    assert plane.pixel_size == pytest.approx((0.5, 0.5))
    with open(folder / "anomalies" / "regions.csv", newline="", encoding="utf-8") as file:
        n = sum(row["plane"] == "a" for row in csv.DictReader(file))
    assert a == f"{n} anomal{'y' if n == 1 else 'ies'}"


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".tif", ".ome.tif", ".OME.TIF"])
def test_a_double_click_opens_image_and_labels(widget, viewer, folder, qtbot, ending):
    path = (folder / "a.tif").rename(folder / f"a{ending}")
    widget.add([path])
    widget.files.tree.itemDoubleClicked.emit(widget.files.tree.topLevelItem(0), 0)
    assert len(viewer.layers) == 1
    viewer.layers.clear()
    run(widget, qtbot)
    widget.files.tree.itemDoubleClicked.emit(widget.files.tree.topLevelItem(0), 0)
    assert [layer.name for layer in viewer.layers][1:] == ["a_labels"]
    assert viewer.layers[1].as_layer_data_tuple()[2] == "labels"


@pytest.mark.slow
def test_stopping_keeps_what_is_done(widget, folder, qtbot):
    for i in range(6):
        write_tiff(folder / f"more {i}.tif", np.full((256, 256), 100 + i, np.uint8), "YX")
    widget.add([folder])
    widget.job_bar.button.click()
    runner = widget._session.runner
    qtbot.waitUntil(lambda: results(widget)[0] == "done", timeout=WAIT)
    with qtbot.waitSignal(runner.job.ended, timeout=WAIT):
        widget.job_bar.button.click()
        assert not widget.job_bar.button.isEnabled()
    assert widget.files_line.text().startswith("Stopped; ")
    assert results(widget)[-1] == "not processed"
    assert not results(widget)[0].startswith("not")
    assert "..." not in results(widget)
    assert widget.files.add_files.isEnabled()
    assert widget.job_bar.button.text() == "Detect in all files"


@pytest.mark.slow
def test_the_list_warns_of_a_black_image(widget, folder, qtbot):
    write_tiff(folder / "black.tif", np.zeros((96, 96), np.uint8), "YX")
    widget.add([folder / "a.tif", folder / "black.tif"])
    run(widget, qtbot)
    assert "brightness differs" in widget.files.warnings()[1]
    assert results(widget)[1] == "could not be judged"
    assert widget.files.tree.topLevelItem(1).text(1).startswith("⚠ ")
    assert not widget.files.tree.topLevelItem(0).text(1).startswith("⚠ ")
    assert "brightness" not in widget.files.warnings()[0]
    assert "with a warning; the list shows it." in widget.files_line.text()
    widget.files.clear_results()
    assert widget.files.warnings() == ["", ""]


@pytest.mark.slow
def test_a_stopped_run_is_continued(widget, folder, qtbot):
    for i in range(6):
        write_tiff(folder / f"more {i}.tif", np.full((256, 256), 100 + i, np.uint8), "YX")
    widget.add([folder])
    assert widget.resume.isHidden()
    widget.job_bar.button.click()
    job = widget._session.runner.job
    qtbot.waitUntil(lambda: results(widget)[0] == "done", timeout=WAIT)
    with qtbot.waitSignal(job.ended, timeout=WAIT):
        widget.job_bar.button.click()
    assert is_unfinished(folder / "anomalies")
    assert not widget.resume.isHidden()
    widget.resume.setChecked(True)
    written = (folder / "anomalies" / "a_labels.tif").stat().st_mtime_ns
    run(widget, qtbot)
    assert (folder / "anomalies" / "a_labels.tif").stat().st_mtime_ns == written
    assert widget.files_line.text().startswith("8 images processed, ")
    assert widget.resume.isHidden()


@pytest.mark.slow
def test_results_are_not_taken_for_images(widget, folder, qtbot):
    widget.add([folder / "a.tif"])
    widget.output.box.setText(str(folder))
    run(widget, qtbot)
    widget.add([folder])
    assert [path.name for path in widget.paths()] == ["a.tif", "b.tif", "c.tif"]
    widget.add([folder / "a_labels.tif"])
    assert "is a result of a detection" in widget.job_bar.status.text()


@pytest.mark.slow
def test_a_file_of_others_is_not_replaced(widget, folder, qtbot):
    (folder / "anomalies").mkdir()
    (folder / "anomalies" / "summary.csv").write_text("my own")
    widget.add([folder])
    run(widget, qtbot)
    assert "not a result of this program" in widget.job_bar.status.text()
    assert (folder / "anomalies" / "summary.csv").read_text() == "my own"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_a_name_that_is_not_utf_8(widget, folder, qtbot):
    (folder / "a.tif").rename(folder / os.fsdecode(b"Zelle_\xb5m.tif"))
    widget.add([folder])
    assert widget.files.tree.topLevelItem(0).text(0) in ("Zelle_\\udcb5m.tif", "b.tif")
    run(widget, qtbot)
    assert widget.files_line.text().startswith("2 images processed, ")


@pytest.mark.slow
def test_two_files_of_one_name_are_refused_in_a_sentence(widget, folder, qtbot):
    other = folder / "other"
    other.mkdir()
    write_tiff(other / "a.tif", np.zeros((64, 64), np.uint8), "YX")
    widget.add([folder / "a.tif", other / "a.tif"])
    run(widget, qtbot)
    assert "have the same output files" in widget.job_bar.status.text()
    assert not widget.job_bar.status.isHidden()


@pytest.mark.slow
def test_the_list_is_filled_and_emptied(widget, folder, monkeypatch, qtbot):
    monkeypatch.setattr(dialogs, "ask_for_files", lambda *args, **options: [str(folder / "a.tif")])
    monkeypatch.setattr(dialogs, "ask_for_folder", lambda *args, **options: str(folder))
    widget.files.add_files.click()
    assert len(widget.paths()) == 1
    widget.files.add_folder.click()
    assert [path.name for path in widget.paths()] == ["a.tif", "b.tif", "c.tif"]
    widget.output.choose_button.click()
    assert widget.output.path() == str(folder)
    widget.files.tree.topLevelItem(1).setSelected(True)
    widget.files.remove.click()
    assert [path.name for path in widget.paths()] == ["a.tif", "c.tif"]
    widget.files.remove.click()
    assert widget.paths() == []
    (folder / "empty").mkdir()
    widget.add([folder / "empty"])
    assert "contains no images" in widget.job_bar.status.text()


@pytest.mark.slow
def test_files_are_dropped(widget, folder):
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(folder))])
    event = QDropEvent(
        QPoint(5, 5).toPointF(),
        Qt.DropAction.CopyAction,
        data,
        Qt.MouseButton.LeftButton,
        Qt.KeyboardModifier.NoModifier,
    )
    widget.dropEvent(event)
    assert len(widget.paths()) == 3


@pytest.mark.slow
def test_the_forms_make_one_configuration(widget):
    widget.form.set_config(widget.config().replace(false_alarms=0.01))
    widget.advanced.set_config(widget.config().replace(nfa="paper", tile=512))
    config = widget.config()
    assert (config.false_alarms, config.nfa, config.tile) == (0.01, "paper", 512)


@pytest.mark.slow
def test_channels_and_axes_are_passed_on(widget, folder, qtbot):
    image = fibre_field(0, shape=(112, 128)).image
    write_tiff(folder / "d.tif", np.stack([np.zeros_like(image), image]), "ZYX")
    widget.add([folder / "d.tif"])
    widget.file_axes.axes.setText("cyx")
    widget.file_axes.channels.setText("1")
    run(widget, qtbot)
    assert widget.files_line.text().startswith("1 image processed")
    (plane,) = read_planes(folder / "anomalies" / "d_labels.tif")
    assert plane.shape == (112, 128)
    widget.file_axes.channels.setText("7")
    run(widget, qtbot)
    assert "channel" in results(widget)[0]
    widget.file_axes.series.setText("macro image")
    run(widget, qtbot)
    assert "no series 'macro image'" in results(widget)[0]


@pytest.mark.slow
def test_it_needs_a_model(viewer, folder, qtbot):
    widget = BatchWidget(viewer)
    qtbot.addWidget(widget)
    widget.add([folder])
    assert not widget.job_bar.button.isEnabled()
    assert "No model" in widget.model_bar.label.text()


@pytest.mark.parametrize("change", ["files", "folder", pytest.param("model", marks=pytest.mark.slow)])
def test_messages_about_another_run_are_cleared(viewer, folder, tmp_path, qtbot, request, change):
    widget = BatchWidget(viewer)
    qtbot.addWidget(widget)
    widget.add([folder / "a.tif"])
    widget._tell("1 image processed, 0 anomalies.")
    widget.job_bar.warn("of this run")
    widget.open_output.show()
    widget.files.set_result(0, "no anomalies")
    widget.form.changed.emit()  # which the next run will have
    assert not widget.files_line.isHidden()
    if change == "files":
        widget.add([folder / "b.tif"])
    elif change == "folder":
        widget.output.box.setText(str(tmp_path / "other"))
    else:
        session_of(viewer).set_model(request.getfixturevalue("tiny_model"), "other")
    assert widget.files_line.isHidden()
    assert widget.job_bar.messages.isHidden()
    assert widget.open_output.isHidden()


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((0, 1, 0), "no anomalies"),
        ((0, 1, 1), "could not be judged"),
        ((0, 3, 2), "2 of 3 planes not judged"),
        ((2, 3, 2), "2 anomalies"),
    ],
)
def test_what_could_not_be_judged_is_not_free_of_anomalies(counts, text):
    assert found_in_words(*counts) == text


def test_files_are_added_to_the_drift_log(widget, folder, qtbot, watched_model, tmp_path):
    widget._session.set_model(watched_model, "watched", tmp_path / "watched.safetensors")
    widget.add([folder / "a.tif"])
    run(widget, qtbot)
    assert (tmp_path / "watched.drift.jsonl").read_text().count('"image": "a"') == 1
