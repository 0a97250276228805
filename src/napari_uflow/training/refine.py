"""How training continues: after an interruption, or with new normal images."""

from __future__ import annotations

from napari_uflow.config import TrainingConfig
from napari_uflow.model.uflow import TrainedModel

__all__ = ["rest_of_training"]


def rest_of_training(model: TrainedModel) -> TrainingConfig:
    """Return how a training goes on that was interrupted, to be given to `train_steps` with `start`.

    Parameters
    ----------
    model : TrainedModel
        The last snapshot of the interrupted training, or the model of one that was stopped.

    Returns
    -------
    TrainingConfig
        For the steps that are left, with the learning rate that the next step would have had. The optimiser's memory
        of the last gradients is lost; it is built up anew in some ten steps.
    """
    training = model.training
    done = min(int(model.history[-1]["step"]) if model.history else 0, training.steps - 1)
    now = 1 + (training.final_learning_rate - 1) * done / training.steps
    return training.replace(
        steps=training.steps - done,
        learning_rate=max(training.learning_rate * now, 1e-7),
        final_learning_rate=training.final_learning_rate / now,
    )
