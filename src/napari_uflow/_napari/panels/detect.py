"""The Detect widget: from a model and images to heatmaps and anomalies, and the slider of accepted false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFormLayout

from napari_uflow._napari.layers.kinds import is_image_layer
from napari_uflow._napari.layers.watch import LayerWatch, while_alive
from napari_uflow._napari.parts.channels import ChannelForm
from napari_uflow._napari.parts.false_alarm_slider import FalseAlarmSlider
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.guarantee import in_sentences
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.layer_choice import LayerBox
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.panel import (
    Panel,
    advanced_section,
    as_sentence,
    heading,
    run_later,
    text_label,
)
from napari_uflow._napari.session.detect_model import DetectModel, counted_on
from napari_uflow._napari.session.detect_request import DetectRequest
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import Session, session_of
from napari_uflow._napari.session.settings import read_settings
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["DetectWidget"]

_SCOPES = {
    "current view (quick test)": "view",
    "current slice": "slice",
    "whole layer": "layer",
    "all selected layers": "selected",
}
_MS_TO_ESTIMATE = 400


class DetectWidget(Panel):
    """Detect anomalies, and set the accepted number of false alarms.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer; napari passes it.

    Attributes
    ----------
    state : DetectModel
        State that this widget shows.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: Session = session_of(napari_viewer)
        watch = LayerWatch(napari_viewer, self)
        accepted = read_settings().false_alarms
        self.state = DetectModel(napari_viewer, self.session, false_alarms=accepted, parent=self)

        self.model_bar = ModelBar(self.session)
        self.image = LayerBox(watch, is_image_layer)
        self.image.setToolTip(tooltip("Layer with the image."))
        self.scope = ChoiceBox(_SCOPES)
        self.scope.setToolTip(
            tooltip(
                "Current view: the visible part of the image, to try a model quickly. Current slice: the plane at the "
                "sliders. Whole layer: all planes. All selected layers: all planes of every image selected in the "
                "layer list."
            )
        )
        self.scope.set_value("layer")
        self.channels = ChannelForm(
            "Channels that the model was trained on, by name, or by number from 0, for example 0, 2. Empty: all "
            "channels."
        )
        self.form = ConfigForm(DetectionConfig, shown=lambda p: p.advanced)
        self.job_bar = JobBar(self.session.runner, "Detect", self.state.start, titles=("Detecting",))
        self.estimate_label = text_label()
        self.slider_heading = heading("")
        self.slider = FalseAlarmSlider(accepted)
        self.guarantee_label = text_label()
        self.all_numbers_label = text_label()
        self.count_label = text_label()
        self._lay_out()

        self._estimating = run_later(self, _MS_TO_ESTIMATE, self.estimate)
        self._connect(watch)
        self._ask()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Layer", self.image)
        form.addRow("Part", self.scope)
        self.advanced = advanced_section(self.channels, self.form)

        self.rows.addWidget(self.model_bar)
        self.rows.addWidget(heading("Image to inspect"))
        self.rows.addLayout(form)
        below = (self.advanced, self.estimate_label, self.job_bar)
        labels = (self.guarantee_label, self.all_numbers_label, self.count_label)
        for widget in (*below, self.slider_heading, self.slider, *labels):
            self.rows.addWidget(widget)
        self.rows.addStretch()

    def _connect(self, watch: LayerWatch) -> None:
        self.image.currentIndexChanged.connect(self._ask)
        self.scope.currentIndexChanged.connect(self._ask)
        self.channels.changed.connect(self._ask)
        self.form.changed.connect(self._ask)
        self.slider.changed.connect(self.state.accept)
        self.state.changed.connect(self._show)
        watch.changed.connect(self._ask)
        self.session.model_changed.connect(self._clear_outdated)
        self._viewer.layers.selection.events.active.connect(self._follow_active)
        self._follow_active()
        self.model_bar.failed.connect(self.job_bar.warn)

    @while_alive
    def _follow_active(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        """Choose the image that the user activates or has just opened."""
        layer = self._viewer.layers.selection.active
        if layer is not None and is_image_layer(layer) and self.session.runner.state is State.IDLE:
            self.image.refresh()  # a new layer is active before it is on the list
            self.image.set_layer(layer)

    def _ask(self) -> None:
        """Request what the controls show."""
        self.job_bar.clear_refusal()
        self._clear_outdated()
        config, mistake = self.state.request.config, ""
        try:
            config = self.form.config()
        except ConfigError as error:
            mistake = str(error)
        self.state.ask(
            DetectRequest(
                image=self.image.value(),
                scope=self.scope.value(),
                channel_axis=self.channels.channel_axis(),
                channels=self.channels.chosen(),
                config=config,
                mistake=mistake,
            )
        )

    def _clear_outdated(self) -> None:
        """Clear messages about another model or another image."""
        self.job_bar.are_about(self.session.model, self.image.value())

    def _show(self) -> None:
        """Show the state."""
        state = self.state
        self.image.setEnabled(state.request.scope != "selected")
        self.job_bar.set_ready(state.is_ready)
        self.slider_heading.setText(f"Accepted false alarms per {state.counted_on}")
        self.slider.count_on(state.counted_on)
        self._show_guarantee()
        lines = state.counts()
        self.count_label.setText("\n".join(lines))
        self.count_label.setVisible(bool(lines))
        self._estimating.start()

    def _show_guarantee(self) -> None:
        found = self.state.last_found
        if not found:
            self.guarantee_label.setText("Run a detection to see how reliable this number is.")
            self.all_numbers_label.clear()
        elif found[0].false_alarms == self.state.false_alarms:  # otherwise the slider is moving
            now, later = counted_on(found[0]), self.state.next_counted_on
            text = f" The next detection counts them per {later}." if later != now else ""
            sentences = [in_sentences([of.guarantee for of in found]) + text, as_sentence(self.state.next_to_confirm())]
            self.guarantee_label.setText("\n".join(filter(None, sentences)))
            self.all_numbers_label.setText(as_sentence(self.state.at_all_numbers()))
        self.all_numbers_label.setVisible(bool(self.all_numbers_label.text()))

    def estimate(self) -> None:
        """Show an estimate of the next detection; it does not change during a job."""
        if self.session.runner.state is State.IDLE:
            text = self.state.estimate()
            self.estimate_label.setText(text)
            self.estimate_label.setVisible(bool(text))
