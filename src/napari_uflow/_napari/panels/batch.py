"""Detect in many files: images in, TIFF, CSV and an overview out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.channels import channels_box, chosen_channels
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.panel import Panel, advanced_section, heading, push_button, text_label
from napari_uflow._napari.session.job import Job, Running
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.settings import read_settings, weights_folder
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.progress import Message
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_uflow.batch.files import BatchSummary

__all__ = ["BatchWidget"]

_NOW = "..."
_PATH, _DONE = Qt.ItemDataRole.UserRole, Qt.ItemDataRole.UserRole + 1


class BatchWidget(Panel):
    """Detect in many files with the current model and write the results to a folder.

    Parameters
    ----------
    napari_viewer : Viewer
        The window whose model is used.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._session = session_of(napari_viewer)
        self._is_running = False
        self.setAcceptDrops(True)

        self.model_bar = ModelBar(self._session)
        self.files = QTreeWidget()
        self.files.setHeaderLabels(["File", "Result"])
        self.files.setRootIsDecorated(False)
        self.files.setUniformRowHeights(True)
        self.files.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.files.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.files.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Interactive)
        self.files.header().setStretchLastSection(True)
        self.files.setColumnWidth(0, 150)
        self.files.setMinimumHeight(150)
        self.files.setToolTip(
            tooltip("Drop files and folders here. A double click opens an image, with what was found in it.")
        )
        self.files.itemDoubleClicked.connect(self._open_row)

        self.add_files = push_button("Add files...", self._ask_for_files)
        self.add_folder = push_button("Add folder...", self._ask_for_folder)
        self.remove = push_button(
            "Remove", self._remove, "Take the selected files off the list, or all of them where none is selected."
        )

        self.output = QLineEdit()
        self.output.setPlaceholderText("folder")
        self.output.setToolTip(
            tooltip(
                "For each image NAME: NAME_heatmap.tif, NAME_log10_nfa.tif and NAME_labels.tif with pixel size and "
                "axes; for all of them regions.csv, summary.csv and overview.png. The folder is made if it is missing."
            )
        )
        self.output.textChanged.connect(self._refresh)
        self.choose_output = push_button("Choose...", self._ask_for_output)

        self.form = ConfigForm(DetectionConfig, shown=lambda parameter: not parameter.advanced)
        self.form.set_config(DetectionConfig(false_alarms=read_settings().false_alarms))
        self.advanced = ConfigForm(DetectionConfig, shown=lambda parameter: parameter.advanced)
        self.channels = channels_box(
            "The channels that the model was trained on, by number from 0, such as 0, 2, or by name. Empty: all."
        )
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("as the file says")
        self.axes.setToolTip(
            tooltip(
                "One letter for each axis of the files, such as ZYX or CYX, where what a file says of them is wrong: Y "
                "rows, X columns, C channels, S colours, Z depth, T time."
            )
        )
        file_form = QFormLayout()
        file_form.addRow("Channels", self.channels)
        file_form.addRow("Axes", self.axes)
        content = QWidget()
        inside = QVBoxLayout(content)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.addLayout(file_form)
        inside.addWidget(self.advanced)
        collapsed = advanced_section(content)

        self.job_bar = JobBar(self._session.runner, "Detect in all files", self._start, tells=self._is_of_all)
        self.files_line = text_label()
        self.files_line.hide()
        self.open_output = push_button("Show the folder", self._show_folder)
        self.open_output.hide()

        self.rows.addWidget(self.model_bar)
        self.rows.addWidget(heading("Images"))
        self.rows.addWidget(self.files, 1)
        self.rows.addLayout(_in_a_row(self.add_files, self.add_folder, self.remove))
        self.rows.addWidget(heading("Results go to"))
        self.rows.addLayout(_in_a_row(self.output, self.choose_output))
        self.rows.addWidget(heading("Detection"))
        self.rows.addWidget(self.form)
        self.rows.addWidget(collapsed)
        self.rows.addWidget(self.job_bar)
        self.rows.addWidget(self.files_line)
        self.rows.addWidget(self.open_output)

        self.model_bar.failed.connect(self.job_bar.say)
        self._session.model_changed.connect(self._refresh)
        self._refresh()

    # ---- the list of files

    def paths(self) -> list[Path]:
        """Return the files on the list, in order."""
        return [Path(item.data(0, _PATH)) for item in self._items()]

    def add(self, paths: Sequence[str | Path]) -> None:
        """Put files, and the images of folders, on the list; those on it already stay once."""
        from napari_uflow.store.images import find_images

        known = set(self.paths())
        try:
            found = find_images(list(paths))
        except UFlowError as error:
            self.job_bar.say(str(error))
            return
        for path in found:
            if path not in known:
                item = QTreeWidgetItem([path.name, ""])
                item.setData(0, _PATH, str(path))
                item.setToolTip(0, str(path))
                self.files.addTopLevelItem(item)
        if found and not self.output.text():
            self.output.setText(str(found[0].parent / "anomalies"))
        self.job_bar.say("")
        self._refresh()

    def _items(self) -> list[QTreeWidgetItem]:
        items = (self.files.topLevelItem(i) for i in range(self.files.topLevelItemCount()))
        return [item for item in items if item is not None]

    def _ask_for_files(self) -> None:
        paths = dialogs.ask_for_files("Images to look at", parent=self)
        if paths:
            self.add(paths)

    def _ask_for_folder(self) -> None:
        path = dialogs.ask_for_folder("Folder of images to look at", parent=self)
        if path:
            self.add([path])

    def _ask_for_output(self) -> None:
        path = dialogs.ask_for_folder("Folder for the results", parent=self)
        if path:
            self.output.setText(path)

    def _remove(self) -> None:
        for item in self.files.selectedItems() or self._items():
            self.files.takeTopLevelItem(self.files.indexOfTopLevelItem(item))
        self._refresh()

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:  # noqa: N802 - Qt's name
        """Take files."""
        if event is not None and event.mimeData().hasUrls() and self.add_files.isEnabled():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:  # noqa: N802
        """Put dropped files and folders on the list."""
        if event is not None:
            self.add([url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()])
            event.acceptProposedAction()

    # ---- the job

    def config(self) -> DetectionConfig:
        """Return how to detect."""
        advanced = self.advanced.config().to_dict()
        return DetectionConfig.from_dict(
            {**advanced, **{name: self.form.config().to_dict()[name] for name in self.form.fields}}
        )

    def _start(self) -> Job:
        model, paths, output, config = self._session.model, self.paths(), self.output.text().strip(), self.config()
        device, weights = read_settings().device, weights_folder()
        channels, axes = chosen_channels(self.channels.text()), self.axes.text().strip().upper() or None
        if model is None:
            raise ConfigError("there is no model: train one, or open a model file")

        def make_steps() -> Any:
            from napari_uflow.batch.files import detect_files_steps

            return detect_files_steps(
                model, paths, output, config, channels=channels, axes=axes, device=device, weights=weights
            )

        job = self._session.runner.start(make_steps, title="Detecting in files")
        for item in self._items():
            self._set_result(item, "")
        self._is_running = True
        job.progress.connect(self._show_progress)
        job.message.connect(self._hear)
        job.finished.connect(self._show_summary)
        job.ended.connect(self._end)
        self.files_line.setText("")
        self.open_output.hide()
        self._refresh()
        return job

    def _show_progress(self, running: Running) -> None:
        """Mark the files that are done; the bar tells of the time left."""
        items = self._items()
        if running.total != len(items):  # the parts of a single image
            return
        for item in items[: running.done]:
            if item.text(1) in ("", _NOW):
                self._set_result(item, "done")
        if running.done < running.total and not items[running.done].text(1):
            self._set_result(items[running.done], _NOW)

    def _item_of(self, message: Message) -> QTreeWidgetItem | None:
        """Return the file that a message is about."""
        return next((item for item in self._items() if message.text.startswith(f"{item.text(0)}: ")), None)

    def _is_of_all(self, message: Message) -> bool:
        """Return whether a message is not about one file: those stand in the list."""
        return self._item_of(message) is None

    def _hear(self, message: Message) -> None:
        item = self._item_of(message)
        if item is not None and message.warning and item.text(1) in ("", _NOW):
            reason = message.text.removeprefix(f"{item.text(0)}: ")
            self._set_result(item, _without_path(reason, item.data(0, _PATH)))

    def _show_summary(self, summary: BatchSummary) -> None:
        found = dict(zip(map(str, summary.done), summary.n_regions_by_file, strict=True))
        failed = {str(path): reason for path, reason in summary.failed}
        for item in self._items():
            path = item.data(0, _PATH)
            if path in found:
                item.setData(0, _DONE, self.output.text().strip())
                self._set_result(
                    item, counted(found[path], "anomaly", "anomalies") if found[path] else "nothing unusual"
                )
            elif path in failed:
                self._set_result(item, _without_path(failed[path], path))
            else:
                self._set_result(item, "not looked at")
        self._tell(_in_words(summary))
        self.open_output.setVisible(bool(summary.done))

    def _end(self) -> None:
        self._is_running = False
        self._refresh()

    def _set_result(self, item: QTreeWidgetItem, text: str) -> None:
        item.setText(1, text)
        item.setToolTip(1, tooltip(text) if text else "")

    # ---- afterwards

    def _show_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self.output.text().strip()))

    def _open_row(self, item: QTreeWidgetItem) -> None:
        """Open an image with the labels that were written for it."""
        viewer = self._session.viewer
        if viewer is None:
            return
        path = Path(item.data(0, _PATH))
        folder = item.data(0, _DONE)
        try:
            viewer.open(path, plugin="napari")
            if folder:
                labels = Path(folder) / f"{path.stem.removesuffix('.ome')}_labels.tif"
                if labels.is_file():
                    viewer.open(labels, plugin="napari", layer_type="labels")
        except Exception as error:
            self._tell(
                f"'{path.name}' cannot be opened: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
            )

    # ---- what can be done now

    def _tell(self, text: str) -> None:
        self.files_line.setText(text)
        self.files_line.setVisible(bool(text))

    def _refresh(self, *_: object) -> None:
        is_ready = self._session.model is not None and bool(self._items()) and bool(self.output.text().strip())
        self.job_bar.set_ready(is_ready)
        inputs = (self.add_files, self.add_folder, self.remove, self.output, self.choose_output)
        for widget in (*inputs, self.channels, self.axes, self.form, self.advanced):
            widget.setEnabled(not self._is_running)


def _in_a_row(*widgets: QWidget) -> QHBoxLayout:
    layout = QHBoxLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return layout


def _without_path(reason: str, path: str) -> str:
    """Return why a file failed, without its name: that stands beside it."""
    return reason.removeprefix(f"'{path}' ")


def _in_words(summary: BatchSummary) -> str:
    """Say what became of a batch."""
    texts = []
    if summary.was_stopped:
        texts.append("Stopped; what was done is kept.")
    if summary.done:
        is_flat = summary.n_planes == len(summary.done)
        noun = ("image", "pictures") if is_flat else ("plane", "planes")
        where = f" in {summary.n_anomalous_planes} of {counted(summary.n_planes, *noun)}" if summary.n_regions else ""
        texts.append(
            f"{counted(len(summary.done), 'image', 'images')} looked at, "
            f"{counted(summary.n_regions, 'anomaly', 'anomalies')}{where}."
        )
    if summary.failed:
        texts.append(f"{counted(len(summary.failed), 'file', 'files')} failed; the list says why.")
    return " ".join(texts) or "Nothing was looked at."
