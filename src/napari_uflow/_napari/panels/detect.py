"""The Detect widget: from a model and layers to heatmaps and anomalies, and the slider of false alarms."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QSlider, QVBoxLayout, QWidget

from napari_uflow._napari.layers.kinds import is_image_layer
from napari_uflow._napari.layers.planes import current_plane, planes_of_layer, visible_part
from napari_uflow._napari.layers.watch import LayerWatch
from napari_uflow._napari.parts.channels import ChannelForm, chosen_channels
from napari_uflow._napari.parts.fields import ChoiceBox, NumberBox, tooltip
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.layer_choice import LayerBox
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.panel import Panel, advanced_section, as_sentence, heading, run_later, text_label
from napari_uflow._napari.session.estimate import estimate_detection, speed_of
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.results import relabel, show_detections
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import Session, session_of
from napari_uflow._napari.session.settings import read_settings, weights_folder
from napari_uflow._napari.session.targets import Target, detect_targets_steps, target_of_planes, target_of_view
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, ImageError, UFlowError
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_uflow.detection.result import Detection

__all__ = ["DetectWidget", "FalseAlarmSlider"]

_SCOPES = {
    "this view (to try)": "view",
    "this slice": "slice",
    "the whole layer": "layer",
    "all selected layers": "selected",
}

_LOWEST, _HIGHEST = 0.001, 10.0
_PER_DECADE = 50
_MS_TO_ESTIMATE = 400
# Pixels that napari's style takes from a spin box for its buttons and borders.
_ROOM_FOR_BUTTONS = 72
# Re-labelling takes milliseconds for a plane; of a large stack it is done when the slider comes to rest.
_MS_AT_LEAST, _MS_AT_MOST = 15, 400


class FalseAlarmSlider(QWidget):
    """A slider and a box for "at most N false alarms per image" or stack, 0.001 to 10 on a logarithmic scale."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(round(math.log10(_LOWEST) * _PER_DECADE), round(math.log10(_HIGHEST) * _PER_DECADE))
        self.slider.setPageStep(_PER_DECADE // 2)
        self.box = NumberBox()
        self.box.setRange(_LOWEST, _HIGHEST)
        self.box.setStepType(NumberBox.StepType.AdaptiveDecimalStepType)
        self.box.setFixedWidth(self.box.fontMetrics().horizontalAdvance("0.001") + _ROOM_FOR_BUTTONS)
        self.count_on("image")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self.box)
        self.changed = self.box.valueChanged
        self.slider.valueChanged.connect(self._slid)
        self.box.valueChanged.connect(self._typed)
        self.set_value(value)

    def count_on(self, counted_on: str) -> None:
        """Say what the number is counted on, "image" or "stack"."""
        help_text = tooltip(
            f"How many false alarms you accept per {counted_on} on average. Fewer: only what is very unlikely in a "
            f"normal {counted_on} is reported. The regions change at once; the network is not needed for it."
        )
        self.slider.setAccessibleName(f"False alarms per {counted_on}")
        self.slider.setToolTip(help_text)
        self.box.setToolTip(help_text)

    def value(self) -> float:
        """Return the number of false alarms."""
        return self.box.value()

    def set_value(self, value: float) -> None:
        """Show a number of false alarms."""
        self.box.setValue(min(max(value, _LOWEST), _HIGHEST))

    def _slid(self, position: int) -> None:
        value = float(f"{10 ** (position / _PER_DECADE):.2g}")
        if round(math.log10(self.box.value()) * _PER_DECADE) != position:
            self.box.setValue(min(max(value, _LOWEST), _HIGHEST))

    def _typed(self, value: float) -> None:
        was_blocked = self.slider.blockSignals(True)
        self.slider.setValue(round(math.log10(value) * _PER_DECADE))
        self.slider.blockSignals(was_blocked)


def _counted_on(found: Detection) -> str:
    return "stack" if found.config.n_sharing(found.n_planes) > 1 else "image"


class DetectWidget(Panel):
    """Find what is not normal, and choose how many false alarms to accept.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer, given by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: Session = session_of(napari_viewer)
        self._watch = LayerWatch(napari_viewer, self)
        self.model_bar = ModelBar(self.session)
        self.rows.addWidget(self.model_bar)

        self.rows.addWidget(heading("Look at"))
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.image = LayerBox(self._watch, is_image_layer)
        self.image.setToolTip(tooltip("The image to look at."))
        form.addRow("Image", self.image)
        self.scope = ChoiceBox(_SCOPES)
        self.scope.setToolTip(
            tooltip(
                "This view: what the canvas shows of the image, to try a model quickly. This slice: the plane where "
                "the sliders stand. The whole layer: all planes. All selected layers: every image that is selected "
                "in the layer list."
            )
        )
        self.scope.set_value("layer")
        self.scope.currentIndexChanged.connect(self._refresh)
        form.addRow("Part", self.scope)
        self.rows.addLayout(form)
        self._build_advanced()

        self.job_bar = JobBar(self.session.runner, "Detect", self._start, titles=("Detecting",))
        self.model_bar.failed.connect(self.job_bar.warn)
        self.estimate_label = text_label()
        self.rows.addWidget(self.estimate_label)
        self.rows.addWidget(self.job_bar)
        self._speed = 1.0  # how much longer the last run took than was said
        self._estimating = run_later(self, _MS_TO_ESTIMATE, self.estimate)

        self.slider_heading = heading("")
        self.rows.addWidget(self.slider_heading)
        self.slider = FalseAlarmSlider(read_settings().false_alarms)
        self.rows.addWidget(self.slider)
        self.guarantee_label = text_label()
        self.rows.addWidget(self.guarantee_label)
        self.count_label = text_label()
        self.rows.addWidget(self.count_label)
        self.rows.addStretch()

        self._timer = run_later(self, _MS_AT_LEAST, self._relabel)
        self.slider.changed.connect(self._slid)
        self.session.results_changed.connect(self._tell)
        self.session.model_changed.connect(self._refresh)
        self._watch.changed.connect(self._refresh)
        self.form.changed.connect(self._choice_changed)
        self._refresh()
        self._tell()

    def _build_advanced(self) -> None:
        content = QWidget()
        inside = QVBoxLayout(content)
        inside.setContentsMargins(0, 0, 0, 0)
        channel_form = ChannelForm(
            "The channels that the model was trained on, by number from 0, such as 0, 2. Empty: all of them."
        )
        self.channels, self.channel_axis = channel_form.channels, channel_form.axis
        inside.addLayout(channel_form)
        self.form = ConfigForm(DetectionConfig, shown=lambda p: p.advanced, labels={"nfa": "NFA"})
        inside.addWidget(self.form)
        self.advanced = advanced_section(content)
        self.rows.addWidget(self.advanced)

    def detection_config(self) -> DetectionConfig:
        """Return how to detect."""
        return self.form.config().replace(false_alarms=self.slider.value())

    def targets(self) -> list[Target]:
        """Return what to look at, read from the layers.

        Raises
        ------
        ImageError
            If there is nothing to look at.
        """
        scope = self.scope.value()
        axis, channels = self.channel_axis.value(), chosen_channels(self.channels.text())
        if scope == "selected":
            layers = [layer for layer in self._watch.layers(is_image_layer) if layer in self._viewer.layers.selection]
            if not layers:
                raise ImageError("no image is selected in the layer list; select at least one, or look at one layer")
        else:
            layers = [self.image.value()] if self.image.value() is not None else []
            if not layers:
                raise ImageError("there is no image to look at; open one first")
        point = self._viewer.dims.point
        targets = []
        for layer in layers:
            if scope == "view":
                view = visible_part(layer, point, channel_axis=axis, channels=channels)
                targets.append(target_of_view(layer, view, channel_axis=axis, channels=channels))
            elif scope == "slice":
                plane = current_plane(layer, point, channel_axis=axis, channels=channels)
                targets.append(target_of_planes(layer, [plane], "slice", channel_axis=axis, channels=channels))
            else:
                planes = planes_of_layer(layer, channel_axis=axis, channels=channels)
                targets.append(target_of_planes(layer, planes, "layer", channel_axis=axis, channels=channels))
        return targets

    def _start(self) -> Job:
        model = self.session.model
        if model is None:
            raise ConfigError("there is no model yet: train one, or open a model file")
        targets = self.targets()
        config = self.detection_config()
        shapes = [plane.shape for target in targets for plane in target.planes]
        said, began = estimate_detection(shapes, model.config, config.tile).seconds, time.monotonic()
        device, weights = read_settings().device, weights_folder()
        job = self.session.runner.start(
            lambda: detect_targets_steps(model, targets, config, device=device, weights=weights), title="Detecting"
        )
        session, name = self.session, self.session.model_name

        def show(found: Any) -> None:  # by the session's viewer: this widget may be closed by then
            viewer = session.viewer
            if viewer is None:
                return
            for target, detections in zip(targets, found, strict=True):
                show_detections(viewer, session, target, detections, model_name=name)

        def compare(found: Any) -> None:  # noqa: ARG001
            self._speed = speed_of(began, said)

        job.finished.connect(compare)
        job.finished.connect(show)
        job.finished.connect(self._relabel_if_moved)
        return job

    def estimate(self) -> None:
        """Say what a detection would take."""
        model = self.session.model
        text = ""
        if model is not None and self.session.runner.state is State.IDLE:
            try:
                shapes = [plane.shape for target in self.targets() for plane in target.planes]
                text = estimate_detection(shapes, model.config, self.form.config().tile).text(self._speed)
            except UFlowError:  # said when it is tried
                text = ""
        self.estimate_label.setText(text)
        self.estimate_label.setVisible(bool(text))

    def _refresh(self) -> None:
        self._estimating.start()
        self._choice_changed()
        self.image.setEnabled(self.scope.value() != "selected")
        is_image = self.scope.value() == "selected" or self.image.value() is not None
        self.job_bar.set_ready(self.session.model is not None and is_image)
        self.job_bar.clear_refusal()

    def _name_slider(self) -> None:
        """Say what the number at the slider is counted on: in the results that it changes, or in those to come."""
        shown = {_counted_on(result.planes[0][1]) for result in self.session.results.values()}
        counted_on = " or ".join(sorted(shown or {self._next_counted_on()}))
        self.slider_heading.setText(f"At most so many false alarms per {counted_on}")
        self.slider.count_on(counted_on)

    def _next_counted_on(self) -> str:
        """Say what the next detection counts on; a single plane is no stack."""
        counted_on: str = self.form.fields["false_alarms_per"].value
        if counted_on == "image":
            return counted_on
        try:
            return counted_on if any(len(target.planes) > 1 for target in self.targets()) else "image"
        except UFlowError:  # nothing to look at yet
            return counted_on

    def _choice_changed(self) -> None:
        self._name_slider()
        self._tell_guarantee()

    def _slid(self) -> None:
        self._timer.start()
        self._tell_guarantee()

    def _relabel_if_moved(self) -> None:
        """Take over what the slider became while the job ran."""
        self._relabel()

    def _relabel(self) -> None:
        began = time.monotonic()
        wanted = self.slider.value()
        for result in list(self.session.results.values()):
            if any(found.false_alarms != wanted for found in result.detections):
                relabel(self.session, result, wanted)
        took = 1000 * (time.monotonic() - began)
        self._timer.setInterval(int(min(max(_MS_AT_LEAST, 2 * took if took > 50 else 0), _MS_AT_MOST)))

    def _tell(self) -> None:
        lines = []
        for result in self.session.results.values():
            counts = [len(found.regions) for found in result.detections]
            n = sum(counts)
            where = f" in {sum(count > 0 for count in counts)} of {len(counts)} planes" if len(counts) > 1 else ""
            lines.append(f"'{result.labels.name}': {counted(n, 'region')}{where}")
        self.count_label.setText("\n".join(lines))
        self.count_label.setVisible(bool(lines))
        self._choice_changed()

    def _tell_guarantee(self) -> None:
        results = list(self.session.results.values())
        if results:
            found = results[-1].planes[0][1]
            if found.false_alarms == self.slider.value():
                now, later = _counted_on(found), self._next_counted_on()
                text = f" The next detection counts them per {later}." if later != now else ""
                self.guarantee_label.setText(f"{as_sentence(found.guarantee)}.{text}")
            return
        self.guarantee_label.setText("What this number rests on is said here after a detection.")
