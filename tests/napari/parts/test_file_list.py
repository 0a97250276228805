"""The list of files: results and warnings can be read whatever the width of their columns."""

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHeaderView

from napari_uflow._napari.parts.file_list import FileList
from napari_uflow.store.tiff_writer import write_tiff

WARNING = "the guarantee does not apply here: the brightness differs from that of the normal images"


@pytest.fixture
def files(qtbot, tmp_path):
    for name in ("a.tif", "black.tif"):
        write_tiff(tmp_path / name, [[0, 0], [0, 0]], "YX")
    files = FileList()
    qtbot.addWidget(files)
    files.add([tmp_path])
    return files


def test_a_result_with_a_warning_has_a_sign_and_the_whole_text(files):
    files.set_result(0, "no anomalies")
    files.set_result(1, "could not be judged", WARNING)
    plain, warned = (files.tree.topLevelItem(i) for i in range(2))
    assert plain.text(1) == "no anomalies"
    assert warned.text(1) == "⚠ could not be judged"
    assert files.results() == ["no anomalies", "could not be judged"]
    assert WARNING in warned.toolTip(1)
    assert WARNING in warned.toolTip(2)
    assert files.warning_line.isHidden()
    files.tree.setCurrentItem(warned)
    assert files.warning_line.text() == f"⚠ black.tif: {WARNING}."
    files.tree.setCurrentItem(plain)
    assert files.warning_line.isHidden()
    files.tree.setCurrentItem(warned)
    files.clear_results()
    assert files.warning_line.isHidden()


def test_columns_can_be_resized_and_are_shortened_in_the_middle(files):
    header = files.tree.header()
    assert {header.sectionResizeMode(i) for i in range(3)} == {QHeaderView.ResizeMode.Interactive}
    assert files.tree.textElideMode() == Qt.TextElideMode.ElideMiddle
    text = "⚠ could not be judged"
    assert header.sectionSize(1) > files.fontMetrics().horizontalAdvance(text)
