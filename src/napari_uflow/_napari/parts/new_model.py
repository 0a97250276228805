"""Form of a new model: backbone, preset, tile size, and all other parameters under Advanced."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_uflow._napari.parts.channels import ChannelForm
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.panel import advanced_section, heading
from napari_uflow._napari.session.settings import read_settings
from napari_uflow.config import ModelConfig, TrainingConfig, training_preset

__all__ = ["NewModelForm"]

_SHOWN = ("backbone", "tile")


class NewModelForm(QWidget):
    """Choose the parameters of a new model and of its training.

    Signals
    -------
    changed
        A parameter changed.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.model_form = ConfigForm(ModelConfig, shown=lambda p: p.name in _SHOWN)
        self.preset = ChoiceBox({"Instant": "instant", "Fast": "fast", "Balanced": "balanced", "Best": "best"})
        self.preset.set_value("fast")
        self.preset.setToolTip(
            tooltip(
                "Instant: seconds, for a first look: a Gaussian and a memory of normal positions. Fast and Balanced "
                "train the flow, in a minute or a few. Best: several times longer. "
                "The preset sets the parameters under Advanced."
            )
        )
        self.preset.currentIndexChanged.connect(self._apply_preset)
        self.model_form.layout().insertRow(1, "Preset", self.preset)
        self.channels = ChannelForm(
            "Up to three channels by name, or by number from 0, for example 0, 2. Empty: all channels."
        )
        self.more_model_form = ConfigForm(ModelConfig, shown=lambda p: p.name not in _SHOWN)
        self.training_form = ConfigForm(TrainingConfig)

        self.advanced = advanced_section(self.channels, self.more_model_form, self.training_form)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (heading("New model"), self.model_form, self.advanced):
            layout.addWidget(widget)
        for part in (self.model_form, self.channels, self.more_model_form, self.training_form):
            part.changed.connect(self.changed)
        self._apply_preset()

    def model_config(self) -> ModelConfig:
        """Return the parameters of the model."""
        shown = self.model_form.config()
        return self.more_model_form.config().replace(**{name: getattr(shown, name) for name in _SHOWN})

    def training_config(self) -> TrainingConfig:
        """Return the parameters of the training."""
        return self.training_form.config()

    def set_configs(self, model: ModelConfig, training: TrainingConfig) -> None:
        """Show other parameters."""
        for form in (self.model_form, self.more_model_form):
            form.set_config(model)
        self.training_form.set_config(training)

    def _apply_preset(self) -> None:
        preset = training_preset(self.preset.value())
        self.training_form.set_config(preset.replace(cache_memory=read_settings().memory_limit))
