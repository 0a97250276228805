"""The Train widget: from layers and what is normal in them to a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.contributions.normal_area import add_normal_area
from napari_uflow._napari.layers.kinds import is_area, is_image_layer
from napari_uflow._napari.layers.watch import LayerWatch, while_alive
from napari_uflow._napari.parts.channels import ChannelForm, chosen_channels
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.form import ConfigForm
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.layer_choice import LayerBox, LayerChecks
from napari_uflow._napari.parts.loss_plot import LossPlot
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.panel import (
    Panel,
    advanced_section,
    as_sentence,
    heading,
    push_button,
    run_later,
    text_label,
)
from napari_uflow._napari.session.autosave import autosaving, describe, discard, left_behind
from napari_uflow._napari.session.estimate import TrainingEstimate, estimate_training, speed_of
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.known_normal import known_normal_of
from napari_uflow._napari.session.recipe import Recipe
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import Session, session_of
from napari_uflow._napari.session.settings import data_folder, read_settings, weights_folder
from napari_uflow.config import ModelConfig, TrainingConfig, training_preset
from napari_uflow.errors import ConfigError, ImageError, UFlowError
from napari_uflow.image.region import NormalRegion
from napari_uflow.progress import TrainingPoint
from napari_uflow.training.tiles import SeenSpecimens
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

    from napari_uflow.model.uflow import TrainedModel

__all__ = ["TrainWidget", "refining"]

_Plan: TypeAlias = "tuple[ModelConfig, TrainingConfig, TrainedModel | None]"
"""What a model is made of, how it is trained, and the model that the training goes on with."""

_MS_TO_ESTIMATE = 400

# A refinement takes this part of the steps at this part of the learning rate: the flow is to learn a little more, not
# to forget. Regions that were called normal make up a tenth of its tiles, by repetition if they are few.
_REFINING_STEPS, _REFINING_RATE = 0.25, 0.3
_FEWEST_STEPS = 20
_KNOWN_PART, _MOST_COPIES = 0.1, 20

_SPECIMEN_RULES = {
    "told by the axis names": "names",
    "one specimen": "one",
    "a specimen each": "each",
}


def refining(model: TrainedModel) -> TrainingConfig:
    """Return how a model is refined: a part of the steps of the training that it began with, and smaller ones."""
    first = model.provenance.get("first_training")
    training = model.training if first is None else TrainingConfig.from_dict(first)
    steps = min(training.steps, max(_FEWEST_STEPS, round(training.steps * _REFINING_STEPS)))
    return training.replace(
        steps=steps,
        learning_rate=training.learning_rate * _REFINING_RATE,
        check_every=min(training.check_every, max(1, steps // 5)),
        max_tiles=min(training.max_tiles, 10 * steps),
    )


def _how(model: TrainedModel) -> str:
    """Return how a training ended, where it did not run to its last step."""
    outcome = str(model.provenance.get("outcome", "done"))
    return "" if outcome == "done" else f" ({outcome.removeprefix('done: ')})"


def _check_same_specimens(start: TrainedModel, regions: list[NormalRegion]) -> None:
    """Refuse to go on with a training on images that had no part in it."""
    seen = SeenSpecimens.of(start.provenance).seen
    if seen.isdisjoint(region.specimen for region in regions):
        some = ", ".join(f"'{name}'" for name in sorted(seen)[:3])
        raise ImageError(
            f"none of the ticked images had a part in that training, which was on {some}{' ...' * (len(seen) > 3)}: "
            f"open them under these names and tick them"
        )


class TrainWidget(Panel):
    """Choose what is normal, and train a model on it.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer, given by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: Session = session_of(napari_viewer)
        self._estimate: TrainingEstimate | None = None
        self._speed = 1.0  # how much longer the last run took than was said
        self._known = known_normal_of(self.session)
        self._watch = LayerWatch(napari_viewer, self)
        self._timer = run_later(self, _MS_TO_ESTIMATE, self.estimate)

        self._build_images()
        self._build_model()
        self.estimate_label = text_label()
        self.rows.addWidget(self.estimate_label)
        self.job_bar = JobBar(self.session.runner, "Train", self._start, titles=("Training", "Refining"))
        self.rows.addWidget(self.job_bar)
        self.refine_button = push_button(
            "Refine the model",
            self.refine,
            "Train the active model a little more, on the images above and on what was called normal. Takes a "
            "quarter of the time. The model stays as it is until the refined one is done.",
        )
        self.rows.addWidget(self.refine_button)
        self.plot = LossPlot()
        self.plot.hide()
        self.rows.addWidget(self.plot)
        if self.job_bar.job is not None:  # this panel was opened while a training ran
            self._follow(self.job_bar.job)
        self.model_bar = ModelBar(self.session)
        self.model_bar.failed.connect(self.job_bar.warn)
        self.rows.addWidget(self.model_bar)
        self._build_rescue()
        self.rows.addStretch()

        self._watch.changed.connect(self._watch_areas)
        self._known.changed.connect(self._tell_known)
        self.session.model_changed.connect(self._tell_known)
        self.session.runner.state_changed.connect(self._tell_known)
        self._watch_areas()
        self._tell_known()
        self._soon()

    def _build_images(self) -> None:
        self.rows.addWidget(heading("Normal images"))
        self.images = LayerChecks(self._watch, is_image_layer)
        self.images.setToolTip(tooltip("Images to learn from. Every image that is ticked is used, all of its planes."))
        self.images.changed.connect(self._soon)
        self.rows.addWidget(self.images)

        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.normal = LayerBox(self._watch, is_area, "the whole image")
        self.normal.setToolTip(
            tooltip("Only what a labels or shapes layer marks is learned as normal. A flat layer holds for all planes.")
        )
        self.normal.currentIndexChanged.connect(self._soon)
        self.new_area_button = push_button(
            "Paint...",
            self._new_area,
            "Make an empty labels layer on top of the first image that is ticked, ready to paint what is normal.",
        )
        row = QHBoxLayout()
        row.addWidget(self.normal, 1)
        row.addWidget(self.new_area_button)
        form.addRow("Normal is", row)
        self.ignore = LayerBox(self._watch, is_area, "nothing")
        self.ignore.setToolTip(
            tooltip("What a labels or shapes layer marks is not looked at in training: dirt, text, known structures.")
        )
        self.ignore.currentIndexChanged.connect(self._soon)
        form.addRow("Ignore", self.ignore)
        self.specimens = ChoiceBox(_SPECIMEN_RULES)
        self.specimens.setToolTip(
            tooltip(
                "Whether the planes of a stack are one specimen (depth, time) or separate ones. Whole specimens are "
                "held out of training to count false alarms. Told by the axis names: an axis called field, position, "
                "sample, specimen, scene, image or well has a specimen at each place."
            )
        )
        self.specimens.currentIndexChanged.connect(self._soon)
        form.addRow("Planes are", self.specimens)
        self.rows.addLayout(form)
        self.with_known = QCheckBox()
        self.with_known.setChecked(True)
        self.with_known.setToolTip(
            tooltip(
                "Regions that were reported and that you called normal under Anomalies, with their surroundings, are "
                "learned together with the images that are ticked."
            )
        )
        self.with_known.toggled.connect(self._soon)
        self.rows.addWidget(self.with_known)

    def _build_model(self) -> None:
        self.rows.addWidget(heading("New model"))
        self.model_form = ConfigForm(
            ModelConfig, shown=lambda p: p.name in ("backbone", "tile"), labels={"tile": "Tile size"}
        )
        self.model_form.changed.connect(self._soon)
        form = self.model_form.layout()
        self.preset = ChoiceBox({"Fast": "fast", "Balanced": "balanced", "Best": "best"})
        self.preset.set_value("fast")
        self.preset.setToolTip(
            tooltip(
                "Fast tries something out in a minute or two, Balanced is the usual choice for a model to keep, Best "
                "takes its time. Sets the fields under Advanced."
            )
        )
        self.preset.currentIndexChanged.connect(self._take_preset)
        form.insertRow(1, "Preset", self.preset)
        self.rows.addWidget(self.model_form)

        content = QWidget()
        inside = QVBoxLayout(content)
        inside.setContentsMargins(0, 0, 0, 0)
        channel_form = ChannelForm("Up to three channels by number from 0, such as 0, 2. Empty: all of them.")
        self.channels, self.channel_axis = channel_form.channels, channel_form.axis
        self.channels.textChanged.connect(self._soon)
        self.channel_axis.currentIndexChanged.connect(self._soon)
        inside.addLayout(channel_form)
        self.more_model_form = ConfigForm(ModelConfig, shown=lambda p: p.name not in ("backbone", "tile"))
        self.training_form = ConfigForm(TrainingConfig, shown=lambda p: p.name != "specimen_pattern")
        for more in (self.more_model_form, self.training_form):
            more.changed.connect(self._soon)
            inside.addWidget(more)
        self.advanced = advanced_section(content)
        self.rows.addWidget(self.advanced)
        self._take_preset()

    def _build_rescue(self) -> None:
        """Offer the model of a training whose program died."""
        self.rescue = QWidget()
        layout = QVBoxLayout(self.rescue)
        layout.setContentsMargins(0, 0, 0, 0)
        self.rescue_label = text_label()
        buttons = QHBoxLayout()
        resume = "Open the images of that training, tick them below, and press this: the steps that were left are done."
        use = "Take the model as it is, without a guarantee about its false alarms."
        self.resume_button = push_button("Go on", self.resume, resume)
        self.rescue_button = push_button("Use it", self._rescue, use)
        self.discard_button = push_button("Discard", self._discard, "Remove the model that was saved.")
        buttons.addWidget(self.resume_button)
        buttons.addWidget(self.rescue_button)
        buttons.addWidget(self.discard_button)
        layout.addWidget(self.rescue_label)
        layout.addLayout(buttons)
        self.rows.insertWidget(0, self.rescue)
        self._offer_rescue()

    def _offer_rescue(self) -> None:
        """Show the offer where a training was left behind."""
        self._left_behind = left_behind(data_folder())
        self.rescue.setVisible(self._left_behind is not None)
        if self._left_behind is not None:
            what = describe(self._left_behind)
            self.rescue_label.setText(
                f"A training ended before it was done{f' ({what})' if what else ''}, and its best model up to then was "
                f"saved. Open and tick its images and go on with it, or use the model as it is, without a calibration "
                f"of its false alarms."
            )

    def resume(self) -> None:
        """Do the rest of the training that was interrupted, on the images that are ticked."""
        self.job_bar.run(self._start_resuming)

    def _start_resuming(self) -> Job:
        path = self._left_behind
        if path is None:
            raise ConfigError("there is no training that was interrupted")
        regions, cache_memory = self.regions(), read_settings().memory_limit

        def plan() -> _Plan:
            from napari_uflow.store.checkpoint import load_model
            from napari_uflow.training.refine import rest_of_training

            start = load_model(path)
            _check_same_specimens(start, regions)
            return start.config, rest_of_training(start).replace(cache_memory=cache_memory), start

        job = self._run(regions, plan, self._name_of_images(), title="Training")
        job.finished.connect(lambda _: discard(path))  # even if this widget is closed by then
        job.finished.connect(self._hide_rescue)
        job.finished.connect(self._trained)
        return job

    def _rescue(self) -> None:
        self.job_bar.run(self._start_rescue)

    def _start_rescue(self) -> Job:
        path = self._left_behind
        if path is None:
            raise ConfigError("there is no training that was interrupted")
        job = self.session.start_opening(path, name="rescued model")
        job.finished.connect(lambda _: discard(path))
        job.finished.connect(self._hide_rescue)
        job.finished.connect(self._rescued)
        return job

    def _rescued(self) -> None:
        self.job_bar.say("The model is in use; save it to keep it.")

    def _discard(self) -> None:
        if self._left_behind is not None:
            discard(self._left_behind)
        self._hide_rescue()

    def _hide_rescue(self, result: Any = None) -> None:  # noqa: ARG002 - the model of a job comes here
        self._left_behind = None
        self.rescue.hide()

    def model_config(self) -> ModelConfig:
        """Return what the model will be made of."""
        shown = self.model_form.config()
        return self.more_model_form.config().replace(backbone=shown.backbone, tile=shown.tile)

    def training_config(self) -> TrainingConfig:
        """Return how it will be trained."""
        return self.training_form.config()

    def _take_preset(self) -> None:
        preset = training_preset(self.preset.value())
        self.training_form.set_config(preset.replace(cache_memory=read_settings().memory_limit))

    def _new_area(self) -> None:
        images = self.images.layers()
        if not images:
            self.job_bar.refuse("Tick the image whose normal area you want to paint.")
            return
        try:
            layer = add_normal_area(self._viewer, images[0], channel_axis=self.channel_axis.value())
        except UFlowError as error:
            self.job_bar.say(str(error))
            return
        self.normal.set_layer(layer)

    def recipe(self) -> Recipe:
        """Return which layers are chosen, and what is normal in them."""
        return Recipe.of(
            self.images.layers(),
            self.normal.value(),
            self.ignore.value(),
            specimens=self.specimens.value(),
            channel_axis=self.channel_axis.value(),
            channels=chosen_channels(self.channels.text()),
        )

    def regions(self) -> list[NormalRegion]:
        """Return what is normal in the chosen layers, and what was called normal in results.

        Raises
        ------
        ImageError
            If nothing is.
        """
        found = self.recipe().regions()
        return found + (self._known_like(found) if self.with_known.isChecked() else [])

    def _known_like(self, regions: list[NormalRegion]) -> list[NormalRegion]:
        """Return what was called normal in images with as many channels, the only ones that can be learned too."""
        n_channels = regions[0].plane.n_channels
        known = [region for region in self._known.regions if region.plane.n_channels == n_channels]
        n_other = len(self._known) - len(known)
        others = f" ({n_other} in images with other channels cannot be learned with these)" if n_other else ""
        self.with_known.setText(f"and {counted(len(known), 'region')} that you called normal{others}")
        return known

    def _tell_known(self) -> None:
        n = len(self._known)
        self.with_known.setText(f"and {counted(n, 'region')} that you called normal")
        self.with_known.setVisible(n > 0)
        self.refine_button.setVisible(n > 0 and self.session.model is not None)
        self.refine_button.setEnabled(self.session.runner.state is State.IDLE)
        self._soon()

    def _watch_areas(self) -> None:
        for layer in self._watch.layers(is_area):
            for name in ("paint", "set_data", "data"):
                if hasattr(layer.events, name):
                    getattr(layer.events, name).connect(self._soon)
        self._soon()

    @while_alive
    def _soon(self, event: Any = None) -> None:  # noqa: ARG002 - signals of Qt and of napari come here
        self._timer.start()

    def estimate(self) -> None:
        """Say what a training would take."""
        if self.session.runner.state is not State.IDLE:
            return
        self._estimate = None
        try:
            self._estimate = estimate_training(self.regions(), self.model_config(), self.training_config())
        except UFlowError as error:
            self.estimate_label.setText(as_sentence(str(error)))
        else:
            self.job_bar.clear_refusal()
            advice = self._estimate.advice()
            self.estimate_label.setText(self._estimate.text(self._speed) + (f"\n{advice}" if advice else ""))
        self.job_bar.set_ready(bool(self.images.layers()))

    def _start(self) -> Job:
        regions = self.regions()
        model_config, training_config = self.model_config(), self.training_config()
        job = self._run(regions, lambda: (model_config, training_config, None), self._name_of_images())
        job.finished.connect(self._trained)
        estimate, began = self._estimate, time.monotonic()

        def compare(model: Any) -> None:
            n_steps = model.history[-1]["step"] if model.history else 0
            if estimate is not None and n_steps:
                self._speed = speed_of(began, estimate.seconds * n_steps / training_config.steps)

        job.finished.connect(compare)
        return job

    def _name_of_images(self) -> str:
        images = self.images.layers()
        return images[0].name if len(images) == 1 else f"{images[0].name} and {len(images) - 1} more"

    def _run(
        self, regions: list[NormalRegion], plan: Callable[[], _Plan], name: str, *, title: str = "Training"
    ) -> Job:
        """Start a training; how it is done is asked in the worker."""
        settings = read_settings()
        device, weights = settings.device, weights_folder()
        folder = data_folder() if settings.autosave else None

        def steps() -> Any:
            from napari_uflow.training.train import train_steps

            model, training, start = plan()
            run = train_steps(regions, model, training, weights=weights, device=device, init_from=start)
            return run if folder is None else autosaving(run, folder, name)

        recipe = self.recipe()
        job = self.session.runner.start(steps, title=title)
        # The session takes the model, so it arrives even if this widget is closed meanwhile.
        self.session.take_model_of(job, name, recipe)
        self._follow(job)
        job.failed.connect(self._offer_rescue)
        return job

    def _follow(self, job: Job) -> None:
        self.plot.clear()
        self.plot.show()
        for point in job.points:
            self._draw(point)
        job.training_point.connect(self._draw)

    def _draw(self, point: TrainingPoint) -> None:
        self.plot.add(point.step, point.train_loss, point.holdout_loss, point.is_best)

    def _trained(self, model: Any) -> None:
        self.job_bar.say(f"Trained{_how(model)}. The best step is kept. Next: find anomalies with Detect.")

    def refine(self) -> None:
        """Train the active model a little more, on the chosen images and on what was called normal."""
        self.with_known.setChecked(True)
        self.job_bar.run(self._start_refining)

    def refine_as_trained(self) -> None:
        """Choose the layers that the active model was trained on, and refine it; say so where they are gone."""
        recipe = self.session.recipe
        if recipe is not None and recipe.is_open(self._viewer.layers):
            self._choose(recipe)
            self.refine()
            return
        gone = "are no longer open" if recipe is not None else "are not known, because it was opened from a file"
        self.job_bar.say(
            f"The images that '{self.session.model_name}' was trained on {gone}. Open them, tick them above, and press "
            f"'{self.refine_button.text()}': without them it would forget what it knows."
        )

    def _choose(self, recipe: Recipe) -> None:
        self.images.set_layers([ref() for ref in recipe.images])
        self.normal.set_layer(recipe.normal and recipe.normal())
        self.ignore.set_layer(recipe.ignore and recipe.ignore())
        self.specimens.set_value(recipe.specimens)
        self.channel_axis.set_value(recipe.channel_axis)
        self.channels.setText(", ".join(map(str, recipe.channels or ())))

    def _start_refining(self) -> Job:
        model = self.session.model
        if model is None:
            raise ConfigError("there is no model to refine: train one, or open a model file")
        old = self.recipe().regions()
        known = self._known_like(old)
        if not known:
            raise ImageError(
                "nothing like the ticked images was called normal: choose a region in Anomalies and press 'Not an "
                "anomaly'"
            )
        training = refining(model).replace(cache_memory=read_settings().memory_limit)
        n_tiles = estimate_training(old, model.config, training).n_tiles
        n_copies = min(max(1, round(_KNOWN_PART * n_tiles / len(known))), _MOST_COPIES)
        name = self.session.model_name
        name = name if name.endswith(" refined") else f"{name} refined"
        job = self._run([*old, *known * n_copies], lambda: (model.config, training, model), name, title="Refining")

        def refined(model: Any) -> None:
            n = counted(len(known), "region")
            self.job_bar.say(f"Refined with {n} called normal{_how(model)}. Detect again to see what is left.")

        job.finished.connect(refined)
        return job
