"""Trainings as jobs: a new model, the rest of an interrupted training, and a refinement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_uflow._napari.session import settings
from napari_uflow._napari.session.autosave import autosaving
from napari_uflow._napari.session.estimate import count_marked_tiles, estimate_training
from napari_uflow._napari.session.job import Job
from napari_uflow._napari.session.recipe import Recipe
from napari_uflow._napari.session.session import Session
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.region import NormalRegion
from napari_uflow.training.refine import check_same_specimens, refinement_of, repeated
from napari_uflow.training.snapshots import discard

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["how_it_ended", "refine", "resume", "train"]

_Plan: TypeAlias = "tuple[ModelConfig, TrainingConfig, TrainedModel | None]"
"""Parameters of a model and of its training, and the model that training resumes from."""


def how_it_ended(model: TrainedModel) -> str:
    """Return the outcome of a training in parentheses, "" if it ran to its last step."""
    remark = model.record.outcome.remark()
    return f" ({remark})" if remark else ""


def train(
    session: Session,
    recipe: Recipe,
    regions: list[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    name: str,
) -> Job:
    """Train a new model.

    Parameters
    ----------
    session : Session
        Session that the model becomes active in, even if the widget has been closed.
    recipe : Recipe
        Layers to train on.
    regions : list of NormalRegion
        Normal regions of these layers, and regions marked normal in results.
    model, training
        Parameters of the model and of its training.
    name : str
        Name of the model.

    Raises
    ------
    JobError
        If a job is running.
    """
    return _run(session, recipe, regions, lambda: (model, training, None), name)


def resume(session: Session, recipe: Recipe, regions: list[NormalRegion], path: Path, *, name: str) -> Job:
    """Do the remaining steps of an interrupted training; its file is deleted at the end.

    Parameters
    ----------
    session, recipe, regions, name
        As in :func:`train`.
    path : Path
        Model file of the interrupted training.
    """
    cache_memory = settings.read_settings().memory_limit

    def plan() -> _Plan:
        from napari_uflow.store.checkpoint import load_model

        start = load_model(path)
        check_same_specimens(start, regions)
        return start.config, start.training.replace(cache_memory=cache_memory), start

    job = _run(session, recipe, regions, plan, name, continues=True)
    job.finished.connect(lambda _: discard(path))  # even if the widget has been closed
    return job


def refine(session: Session, recipe: Recipe, old: list[NormalRegion], marked: Sequence[NormalRegion]) -> Job:
    """Fine-tune the active model, which stays active until the refined one is done.

    Parameters
    ----------
    session, recipe
        As in :func:`train`.
    old : list of NormalRegion
        Normal regions of the layers.
    marked : sequence of NormalRegion
        The regions marked normal in results.

    Raises
    ------
    ConfigError
        If there is no model.
    ImageError
        If no region was marked normal.
    """
    model = session.model
    if model is None:
        raise ConfigError("no model to refine: train one or open a model file")
    if not marked:
        raise ImageError(
            "no region with the channels of the ticked images is marked normal: select a region in Anomalies and press "
            "'Mark normal'"
        )
    training = refinement_of(model).replace(cache_memory=settings.read_settings().memory_limit)
    n_tiles = estimate_training(old, model.config, training).n_tiles
    name = session.model_name
    name = name if name.endswith(" refined") else f"{name} refined"
    regions = [*old, *repeated(marked, n_tiles, count_marked_tiles(marked, model.config))]
    return _run(session, recipe, regions, lambda: (model.config, training, model), name, title="Refining")


def _run(
    session: Session,
    recipe: Recipe,
    regions: list[NormalRegion],
    plan: Callable[[], _Plan],
    name: str,
    *,
    title: str = "Training",
    continues: bool = False,
) -> Job:
    """Start a training; `plan` is called in the worker."""
    chosen = settings.read_settings()
    device, weights = chosen.device, settings.weights_folder()
    folder = settings.data_folder() if chosen.autosave else None

    def steps() -> Any:
        from napari_uflow.training.train import train_steps

        model, training, start = plan()
        run = train_steps(
            regions, model, training, weights=weights, device=device, init_from=start, continues=continues
        )
        return run if folder is None else autosaving(run, folder, name)

    job = session.runner.start(steps, title=title)
    session.take_model_of(job, name, recipe)
    return job
