"""The Detect in files widget: from files of images to TIFF, CSV and an overview."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices, QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QCheckBox

from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.file_axes import FileAxesForm
from napari_uflow._napari.parts.file_list import FileList
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.output_folder import OutputFolder
from napari_uflow._napari.parts.panel import Panel, advanced_section, as_sentence, heading, push_button, text_label
from napari_uflow._napari.session.job import Job, Running
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.settings import read_settings, weights_folder
from napari_uflow.batch.mark import is_unfinished
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError
from napari_uflow.progress import Message
from napari_uflow.store.files import stem_of
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_uflow.batch.results import BatchSummary

__all__ = ["BatchWidget", "found_in_words"]

_NOW = "..."


class BatchWidget(Panel):
    """Detect anomalies in many files with the active model, and write the results to a folder.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer; napari passes it.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.setAcceptDrops(True)
        self._session = session_of(napari_viewer)
        self._is_running = False
        self._written: dict[Path, Path] = {}  # output folder of each processed file

        self.model_bar = ModelBar(self._session)
        self.files = FileList()
        self.output = OutputFolder(
            "For each image NAME: NAME_heatmap.tif, NAME_log10_nfa.tif and NAME_labels.tif, with pixel size and axes. "
            "For all images: regions.csv, summary.csv and overview.png. The folder is created if needed."
        )
        self.resume = QCheckBox("Continue the unfinished run in this folder")
        self.resume.setToolTip(
            tooltip(
                "Keep the images that were finished before the run was stopped, and do the rest. Otherwise all are new."
            )
        )
        self.form = ConfigForm(DetectionConfig, shown=lambda parameter: not parameter.advanced)
        self.form.set_config(DetectionConfig(false_alarms=read_settings().false_alarms))
        self.advanced = ConfigForm(DetectionConfig, shown=lambda parameter: parameter.advanced)
        self.file_axes = FileAxesForm()
        self.job_bar = JobBar(self._session.runner, "Detect in all files", self._start, shows=self._is_of_all)
        self.files_line = text_label()
        self.files_line.hide()
        self.open_output = push_button("Open output folder", self._show_folder)
        self.open_output.hide()
        self._lay_out()
        self._connect()
        self._refresh()

    def _lay_out(self) -> None:
        self.rows.addWidget(self.model_bar)
        self.rows.addWidget(heading("Images"))
        self.rows.addWidget(self.files, 1)
        below = (
            heading("Output folder"),
            self.output,
            self.resume,
            heading("Detection"),
            self.form,
            advanced_section(self.file_axes, self.advanced),
        )
        for widget in (*below, self.job_bar, self.files_line, self.open_output):
            self.rows.addWidget(widget)

    def _connect(self) -> None:
        self.files.added.connect(self.output.propose)
        self.files.changed.connect(self._choice_changed)
        self.files.refused.connect(self.job_bar.refuse)
        self.files.opened.connect(self._open)
        for part in (self.output, self.form, self.file_axes, self.advanced):
            part.changed.connect(self._choice_changed)
        self.model_bar.failed.connect(self.job_bar.refuse)
        self._session.model_changed.connect(self._clear_outdated)
        self._session.model_changed.connect(self._refresh)

    # ---- choices

    def paths(self) -> list[Path]:
        """Return the files on the list."""
        return self.files.paths()

    def add(self, paths: Sequence[str | Path]) -> None:
        """Add files, and the images of folders, to the list."""
        self.files.add(paths)

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:  # noqa: N802 - Qt's name
        """Accept files."""
        self.files.take_drag(event)

    def dropEvent(self, event: QDropEvent | None) -> None:  # noqa: N802
        """Add dropped files and folders to the list."""
        self.files.take_drop(event)

    def config(self) -> DetectionConfig:
        """Return the parameters of the detection."""
        advanced = self.advanced.config().to_dict()
        return DetectionConfig.from_dict(
            {**advanced, **{name: self.form.config().to_dict()[name] for name in self.form.fields}}
        )

    def _choice_changed(self) -> None:
        self.job_bar.clear_refusal()
        self._clear_outdated()
        self._refresh()

    def _clear_outdated(self) -> None:
        """Clear messages about other files, another folder or another model."""
        if self.job_bar.are_about(self._session.model, self.output.path(), *self.paths()) and not self._is_running:
            self._tell("")
            self.open_output.hide()

    def _refresh(self) -> None:
        is_ready = self._session.model is not None and bool(self.paths()) and bool(self.output.path())
        self.job_bar.set_ready(is_ready)
        self.files.set_frozen(self._is_running)
        self.file_axes.set_enabled(not self._is_running)
        for widget in (self.output, self.resume, self.form, self.advanced):
            widget.setEnabled(not self._is_running)
        can_resume = bool(self.output.path()) and is_unfinished(self.output.path())
        self.resume.setVisible(can_resume and not self._is_running)

    # ---- the job

    def _start(self) -> Job:
        model, paths, output, config = self._session.model, self.paths(), self.output.path(), self.config()
        device, weights = read_settings().device, weights_folder()
        resume = self.resume.isChecked() and is_unfinished(output)
        reading: dict[str, Any] = {
            "channels": self.file_axes.chosen_channels(),
            "axes": self.file_axes.chosen_axes(),
            "series": self.file_axes.chosen_series(),
        }
        if model is None:
            raise ConfigError("no model: train one or open a model file")
        options: dict[str, Any] = {"device": device, "weights": weights, "model_path": self._session.path_of(model)}

        def make_steps() -> Any:
            from napari_uflow.batch.files import detect_files_steps

            return detect_files_steps(model, paths, output, config, resume=resume, **options, **reading)

        job = self._session.runner.start(make_steps, title="Detecting in files")
        self.files.clear_results()
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
        """Mark the files that are done."""
        results = self.files.results()
        if running.total != len(results):  # progress within a single image
            return
        for i in range(running.done):
            if results[i] in ("", _NOW):
                self.files.set_result(i, "done")
        if running.done < running.total and not results[running.done]:
            self.files.set_result(running.done, _NOW)

    def _file_of(self, message: Message) -> int | None:
        """Return the position of the file that a message is about, or None."""
        return next((i for i, path in enumerate(self.paths()) if path == message.source), None)

    def _is_of_all(self, message: Message) -> bool:
        """Return whether a message is about all files; the list shows messages about one."""
        return self._file_of(message) is None

    def _hear(self, message: Message) -> None:
        i = self._file_of(message)
        if i is not None and message.warning and self.files.results()[i] in ("", _NOW):
            self.files.set_result(i, _without_path(message.text, self.paths()[i]))

    def _show_summary(self, summary: BatchSummary) -> None:
        counts = zip(summary.n_regions_by_file, summary.n_planes_by_file, summary.n_unjudged_by_file, strict=True)
        found = dict(zip(map(Path, summary.done), counts, strict=True))
        failed = {Path(path): reason for path, reason in summary.failed}
        warnings = {Path(path): reason for path, reason in summary.warnings}
        for i, path in enumerate(self.paths()):
            if path in found:
                self._written[path] = Path(self.output.path())
                text = found_in_words(*found[path])
            else:
                text = _without_path(failed[path], path) if path in failed else "not processed"
            self.files.set_result(i, text, warnings.get(path, ""))
        self._tell(_in_words(summary))
        self.open_output.setVisible(bool(summary.done))

    def _end(self) -> None:
        self._is_running = False
        self._refresh()

    # ---- results

    def _show_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(self.output.path()))

    def _open(self, path: Path) -> None:
        """Open an image with its labels, if there are any."""
        viewer = self._session.viewer
        if viewer is None:
            return
        try:
            viewer.open(path, plugin="napari")
            if path in self._written:
                labels = self._written[path] / f"{stem_of(path)}_labels.tif"
                if labels.is_file():
                    viewer.open(labels, plugin="napari", layer_type="labels")
        except Exception as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
            self._tell(f"'{path.name}' cannot be opened: {first_line}")

    def _tell(self, text: str) -> None:
        self.files_line.setText(text)
        self.files_line.setVisible(bool(text))


def _without_path(reason: str, path: Path) -> str:
    """Return the reason of a failure without the file name, which is beside it."""
    return reason.removeprefix(f"'{path}' ")


def found_in_words(n_regions: int, n_planes: int, n_unjudged: int) -> str:
    """Return the result of a file; an image that could not be judged is not called free of anomalies."""
    if n_regions:
        return counted(n_regions, "anomaly", "anomalies")
    if not n_unjudged:
        return "no anomalies"
    return "could not be judged" if n_unjudged == n_planes else f"{n_unjudged} of {n_planes} planes not judged"


def _in_words(summary: BatchSummary) -> str:
    """Return the summary of a batch in words."""
    texts = []
    if summary.was_stopped:
        texts.append("Stopped; finished files are kept.")
    if summary.done:
        is_flat = summary.n_planes == len(summary.done)
        noun = ("image", "images") if is_flat else ("plane", "planes")
        where = f" in {summary.n_anomalous_planes} of {counted(summary.n_planes, *noun)}" if summary.n_regions else ""
        texts.append(
            f"{counted(len(summary.done), 'image', 'images')} processed, "
            f"{counted(summary.n_regions, 'anomaly', 'anomalies')}{where}."
        )
    if summary.failed:
        texts.append(f"{counted(len(summary.failed), 'file', 'files')} failed; the list shows why.")
    if summary.warnings:
        texts.append(f"{counted(len(summary.warnings), 'file', 'files')} with a warning; the list shows it.")
    if summary.to_confirm:
        texts.append(as_sentence(summary.to_confirm))
    return " ".join(texts) or "No file was processed."
