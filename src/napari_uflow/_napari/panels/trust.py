"""The Trust report widget: accepted against observed false alarms on normal images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtWidgets import QCheckBox

from napari_uflow._napari.layers.areas import normal_regions
from napari_uflow._napari.layers.kinds import is_image_layer
from napari_uflow._napari.layers.watch import LayerWatch
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.figure_view import FigureView
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.layer_choice import LayerChecks
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.panel import Panel, heading, push_button, text_label
from napari_uflow._napari.parts.trust_table import TrustTable
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.session import session_of
from napari_uflow._napari.session.settings import read_settings, weights_folder
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.progress import Message, Steps, or_stop
from napari_uflow.store.endings import with_ending
from napari_uflow.training.regions import regions_of_training
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_uflow.evaluation.trust import TrustReport
    from napari_uflow.image.region import NormalRegion
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["TrustWidget"]

_HINT = (
    "Compares the accepted number of false alarms with the number observed on normal images: on the specimens held out "
    "of training, and on other normal images ticked above. Drawn defects are planted into these to measure how many of "
    "them are found."
)


class TrustWidget(Panel):
    """Compare accepted with observed false alarms of the active model.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer; napari passes it.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.session = session_of(napari_viewer)
        self.report: TrustReport | None = None
        watch = LayerWatch(napari_viewer, self)
        self.model_bar = ModelBar(self.session)
        self.images = LayerChecks(watch, is_image_layer, ticks_first=False)
        self.images.setToolTip(
            tooltip(
                "Optional: normal images that had no part in the training. Every region reported in them is a false "
                "alarm."
            )
        )
        self.planting = QCheckBox("Plant defects in them")
        self.planting.setChecked(True)
        self.planting.setToolTip(
            tooltip(
                "Draws 60 defects of several kinds and sizes into copies of the ticked images and counts those that "
                "are found. Images that the model was trained on are left out. It takes about a minute; Stop keeps "
                "the rest of the report."
            )
        )
        self.job_bar = JobBar(self.session.runner, "Make report", self._start)
        self.images.changed.connect(self.job_bar.clear)
        self.model_bar.failed.connect(self.job_bar.warn)
        self.text = text_label(_HINT)
        self.table = TrustTable()
        self.image = FigureView()
        self.save_button = push_button("Save report...", self._save, "Save the plots as PNG, or the numbers as JSON.")
        self.reset_button = push_button(
            "Reset drift log",
            self._reset_drift,
            "Begin the test for drift again: images so far no longer count. Only if the cause of the drift is gone; "
            "otherwise train again with recent normal images.",
        )
        self.rows.addWidget(self.model_bar)
        self.rows.addWidget(heading("Other normal images"))
        above = (self.images, self.planting, self.job_bar, self.text, self.reset_button)
        for widget in (*above, self.table, self.image, self.save_button):
            self.rows.addWidget(widget)
        self.rows.addStretch()
        self._model: TrainedModel | None = None
        self.session.model_changed.connect(self._refresh)
        self._clear()

    def _refresh(self) -> None:
        if self.session.model is not self._model:  # saving or renaming keeps the report
            self._clear()

    def _clear(self) -> None:
        self.report, self._model = None, self.session.model
        self.text.setText(_HINT)
        self.job_bar.clear()
        for widget in (self.reset_button, self.table, self.image, self.save_button):
            widget.hide()
        self.job_bar.set_ready(self.session.model is not None)

    def _start(self) -> Job:
        model, recipe = self.session.model, self.session.recipe
        if model is None:
            raise ConfigError("no model: train one or open a model file")
        axis, channels = (None, None) if recipe is None else (recipe.channel_axis, recipe.channels)
        regions: list[NormalRegion] = []
        for layer in self.images.layers():
            regions += normal_regions(layer, channel_axis=axis, channels=channels)
        n_seen = len(regions_of_training(regions, model.record, model.training.specimen_pattern))
        title = self.session.model_name
        planted_into = regions if self.planting.isChecked() else []
        options: dict[str, Any] = {
            "device": read_settings().device,
            "weights": weights_folder(),
            "model_path": self.session.path_of(model),
        }
        job = self.session.runner.start(
            lambda: _report_steps(model, regions, planted_into, title, **options), title="Trust report"
        )

        def show(result: tuple[TrustReport, NDArray[np.uint8]]) -> None:
            if isalive(self) and self.session.model is model:
                self._show(*result)

        job.finished.connect(show)
        if n_seen:
            seen_images = f"{n_seen} of the ticked images had a part in the training, or the name of one that had"
            self.job_bar.warn(f"{seen_images}; those of the training are left out")
        return job

    def _show(self, report: TrustReport, image: NDArray[np.uint8]) -> None:
        from napari_uflow.evaluation.trust import EPSILONS
        from napari_uflow.nfa.conformal import specimens_needed

        self.report = report
        n = report.n_specimens
        lines = [f"The guarantee is based on {counted(n, 'held-out specimen')}."]
        if not report.is_guaranteed(max(EPSILONS)):
            lines = [
                f"No number is guaranteed: {counted(n, 'specimen')} held out, but 1 false alarm per image needs "
                f"{specimens_needed(1)}."
            ]
        if report.n_new:
            lines.append(f"{counted(report.n_new, 'other normal image')} inspected.")
        if report.n_warned:
            lines.append(
                f"{report.n_warned} of them differ from the training images; the guarantee does not apply to these."
            )
        if report.drift is not None:
            lines += report.drift.sentences()
        if report.sensitivity is not None:
            lines += report.sensitivity.sentences()
        self.text.setText(" ".join(lines))
        self.reset_button.setVisible(report.drift is not None and bool(report.drift.since))
        self.table.show_report(report)
        self.image.show_array(image)
        for widget in (self.table, self.image, self.save_button):
            widget.show()

    def _reset_drift(self) -> None:
        from napari_uflow.evaluation.drift import DriftWatch

        model = self.session.model
        path = None if model is None else self.session.path_of(model)
        if model is None or path is None:
            return
        try:
            DriftWatch(model, path).reset()
        except UFlowError as error:
            self.job_bar.warn(str(error))
        else:
            self.reset_button.hide()
            self.job_bar.say("The drift log begins again; make the report again to see it.")

    def _save(self) -> None:
        report, title = self.report, self.session.model_name
        if report is None:
            return
        kinds = "Image (*.png);;Numbers (*.json)"
        answer = dialogs.ask_to_save("Save report", f"{title or 'model'} trust.png", kinds, parent=self)
        if answer:
            self.job_bar.run(lambda: self._start_saving(report, answer, title))

    def _start_saving(self, report: TrustReport, answer: str, title: str) -> Job:
        path = Path(with_ending(answer, (".png", ".json")))
        job = self.session.runner.start(lambda: _saving_steps(report, path, title), title="Saving")
        self.job_bar.say_when_done(job, lambda saved: f"Saved '{saved}'.")
        return job


def _report_steps(
    model: TrainedModel,
    regions: Sequence[NormalRegion],
    planted_into: Sequence[NormalRegion],
    title: str,
    **options: Any,
) -> Steps[tuple[TrustReport, NDArray[np.uint8]]]:
    """Return the report and its figure, an (M, N, 4) uint8 array."""
    from napari_uflow.evaluation.trust import trust_steps

    yield from or_stop(Message("Preparing the report"))
    planes = [region.plane for region in regions]
    report = yield from trust_steps(model, planes, planted_into=planted_into, **options)
    yield Message("Drawing the figure")  # after a stop too: the report may be complete but for the planted defects
    from napari_uflow.evaluation.figures import figure_pixels
    from napari_uflow.evaluation.trust_figure import trust_figure

    return report, figure_pixels(trust_figure(report, title=title, upright=True))


def _saving_steps(report: TrustReport, path: Path, title: str) -> Steps[Path]:
    from napari_uflow.evaluation.figures import save_figure
    from napari_uflow.evaluation.trust_figure import trust_figure

    yield from or_stop(Message("Saving"))
    if path.suffix.lower() == ".json":
        report.save(path)
    else:
        save_figure(trust_figure(report, title=title), path)
    return path
