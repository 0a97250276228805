"""The Train widget: from normal images to a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_uflow._napari.layers.watch import LayerWatch
from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.parts.loss_plot import LossPlot
from napari_uflow._napari.parts.model_bar import ModelBar
from napari_uflow._napari.parts.new_model import NewModelForm
from napari_uflow._napari.parts.normal_images import NormalImagesForm
from napari_uflow._napari.parts.panel import Panel, as_sentence, push_button, run_later, text_label
from napari_uflow._napari.parts.rescue_bar import RescueBar
from napari_uflow._napari.session import trainings
from napari_uflow._napari.session.estimate import TrainingEstimate, estimate_training, speed_of
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import Session, session_of
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.progress import TrainingPoint
from napari_uflow.training.refine import learned_by
from napari_uflow.training.snapshots import discard
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["TrainWidget"]

_MS_TO_ESTIMATE = 400


class TrainWidget(Panel):
    """Train a model on normal images.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer; napari passes it.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: Session = session_of(napari_viewer)
        self._marked = marked_normal_of(self.session)
        self._estimate: TrainingEstimate | None = None
        self._speed = 1.0  # actual over estimated time of the last run
        self._timer = run_later(self, _MS_TO_ESTIMATE, self.estimate)

        self.rescue = RescueBar()
        self.new_model = NewModelForm()
        watch = LayerWatch(napari_viewer, self)
        self.normal_images = NormalImagesForm(napari_viewer, watch, self._marked, self.new_model.channels)
        self.estimate_label = text_label()
        self.job_bar = JobBar(self.session.runner, "Train", self._start, titles=("Training", "Refining"))
        self.refine_button = push_button(
            "Refine model",
            self.refine,
            "Fine-tune the active model on the images above and the regions marked normal, in about a quarter of the "
            "training time. The current model stays active until the refined one is done.",
        )
        self.plot = LossPlot()
        self.plot.hide()
        self.model_bar = ModelBar(self.session)
        above = (self.rescue, self.normal_images, self.new_model, self.estimate_label, self.job_bar)
        for widget in (*above, self.refine_button, self.plot, self.model_bar):
            self.rows.addWidget(widget)
        self.rows.addStretch()

        if self.job_bar.job is not None:  # this panel was opened during a training
            self._follow(self.job_bar.job)
        self._connect()
        self._refresh()

    def _connect(self) -> None:
        self.rescue.resume_wanted.connect(self.resume)
        self.rescue.use_wanted.connect(self._use_rescued)
        self.normal_images.refused.connect(self.job_bar.refuse)
        for form in (self.normal_images, self.new_model):
            form.changed.connect(self._choice_changed)
        self.model_bar.failed.connect(self.job_bar.warn)
        self._marked.changed.connect(self._refresh)
        self.session.model_changed.connect(self._refresh)
        self.session.model_changed.connect(self._clear_outdated)
        self.session.runner.state_changed.connect(self._refresh)

    # ---- choices and estimate

    def _choice_changed(self) -> None:
        self.job_bar.clear_refusal()
        self._clear_outdated()
        self._timer.start()

    def _clear_outdated(self) -> None:
        """Clear messages about another model or about a training on other images."""
        self.job_bar.are_about(self.session.model, *self.normal_images.images.layers())

    def _refresh(self) -> None:
        self.refine_button.setVisible(len(self._marked) > 0 and self.session.model is not None)
        self.refine_button.setEnabled(self.session.runner.state is State.IDLE)
        self._timer.start()

    def estimate(self) -> None:
        """Show an estimate of the training."""
        if self.session.runner.state is not State.IDLE:
            return
        self._estimate = None
        form = self.new_model
        try:
            self._estimate = estimate_training(
                self.normal_images.regions(), form.model_config(), form.training_config()
            )
        except UFlowError as error:
            self.estimate_label.setText(as_sentence(str(error)))
        else:
            advice = self._estimate.advice()
            self.estimate_label.setText(self._estimate.text(self._speed) + (f"\n{advice}" if advice else ""))
        self.job_bar.set_ready(bool(self.normal_images.images.layers()))

    # ---- a new model

    def _start(self) -> Job:
        images, session = self.normal_images, self.session
        regions, recipe, name = images.regions(), images.recipe(), images.name()
        model, training = self.new_model.model_config(), self.new_model.training_config()
        job = trainings.train(session, recipe, regions, model, training, name=name)
        self._show_training(job)
        job.finished.connect(self._trained)
        estimate, began = self._estimate, time.monotonic()

        def compare(model: Any) -> None:
            n_steps = model.history[-1]["step"] if model.history else 0
            if estimate is not None and n_steps:
                self._speed = speed_of(began, estimate.seconds * n_steps / training.steps)

        job.finished.connect(compare)
        return job

    def _show_training(self, job: Job) -> None:
        self._follow(job)
        job.failed.connect(self.rescue.offer)

    def _follow(self, job: Job) -> None:
        self.plot.clear()
        self.plot.hide()  # until there is a loss: a training without steps has none
        for point in job.points:
            self._draw(point)
        job.training_point.connect(self._draw)

    def _draw(self, point: TrainingPoint) -> None:
        self.plot.add(point.step, point.train_loss, point.holdout_loss, point.is_best)
        if self.plot.isHidden():
            self.plot.show()
            QTimer.singleShot(0, self._bring_plot_into_sight)

    def _bring_plot_into_sight(self) -> None:
        """Scroll to the plot, below the button that stops the training."""
        self.ensureWidgetVisible(self.plot)

    def _trained(self, model: Any) -> None:
        parts = [f"Training finished{trainings.how_it_ended(model)}; the best step was kept."]
        if not model.training.steps:
            parts = ["The model is ready."]
        if model.record.planted is not None:
            parts.append(model.record.planted.sentence())
        self.job_bar.say(" ".join([*parts, "Next: find anomalies with Detect."]))

    # ---- an interrupted training

    def resume(self) -> None:
        """Do the remaining steps of the interrupted training, on the ticked images."""
        self.job_bar.run(self._start_resuming)

    def _rescued(self) -> Path:
        if self.rescue.path is None:
            raise ConfigError("no interrupted training was found")
        return self.rescue.path

    def _start_resuming(self) -> Job:
        path, images = self._rescued(), self.normal_images
        job = trainings.resume(self.session, images.recipe(), images.regions(), path, name=images.name())
        self._show_training(job)
        job.finished.connect(self.rescue.withdraw)
        job.finished.connect(self._trained)
        return job

    def _use_rescued(self) -> None:
        self.job_bar.run(self._start_opening)

    def _start_opening(self) -> Job:
        path = self._rescued()
        job = self.session.start_opening(path, name="recovered model")
        job.finished.connect(lambda _: discard(path))  # even if this widget has been closed
        job.finished.connect(self.rescue.withdraw)
        self.job_bar.say_when_done(job, lambda _: "The recovered model is active; save it to keep it.")
        return job

    # ---- a refinement

    def refine(self) -> None:
        """Fine-tune the active model on the chosen images and the regions marked normal."""
        self.normal_images.with_marked.setChecked(True)
        self.job_bar.run(self._start_refining)

    def refine_as_trained(self) -> None:
        """Choose the training images of the active model and refine it; if they are not open, ask for them."""
        recipe = self.session.recipe
        if recipe is not None and recipe.is_open(self._viewer.layers):
            self.normal_images.choose(recipe)
            self.refine()
            return
        gone = "are no longer open" if recipe is not None else "are unknown, because it was opened from a file"
        self.job_bar.say(
            f"The training images of '{self.session.model_name}' {gone}. Open them, tick them above, and press "
            f"'{self.refine_button.text()}': without them the model would forget its training."
        )

    def _start_refining(self) -> Job:
        images = self.normal_images
        recipe = images.recipe()
        old = recipe.regions()
        marked = images.marked_like(old)
        job = trainings.refine(self.session, recipe, old, marked)
        self._show_training(job)

        def refined(model: Any) -> str:
            n, how = f"{counted(len(marked), 'region')} marked normal", trainings.how_it_ended(model)
            learned = learned_by(model)
            if "flow" in learned or ("memory" in learned and not model.training.steps):
                return f"Refined with {n}{how}. Run Detect again to check."
            if learned:
                return f"Only the memory of the model learned the {n}{how}. Run Detect again to check."
            cause = how or ": it has no memory, and its training has no steps"
            return f"The model did not learn the {n}{cause}. Train a new model with more steps, or with a memory."

        self.job_bar.say_when_done(job, refined)
        return job
