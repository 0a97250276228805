"""Resumed trainings: the rest of an interrupted one, and the refinement of a model with regions marked normal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import OutcomeKind
from napari_uflow.training.regions import regions_of_training
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["check_same_images", "check_same_specimens", "learned_by", "refinement_of", "repeated"]

# A refinement has this part of the steps of the first training at this part of its learning rate: the flow should learn
# a little more without forgetting.
_REFINING_STEPS, _REFINING_RATE = 0.25, 0.3
_FEWEST_STEPS = 20
# Tiles of regions marked normal should be this part of the tiles; a few are repeated, up to this many times.
_MARKED_PART, _MOST_REPEATS = 0.1, 20


def refinement_of(model: TrainedModel) -> TrainingConfig:
    """Return the configuration that refines a model.

    Parameters
    ----------
    model : TrainedModel
        The model to refine.

    Returns
    -------
    TrainingConfig
        For :func:`~napari_uflow.training.train.train_steps` with ``init_from=model``: a quarter of the steps, at 0.3
        times the learning rate, of the first training of the model. Refining twice is not shorter than refining once.
    """
    training = model.record.first_training or model.training
    if not training.steps:  # the memory alone takes up what is marked normal
        return training
    steps = min(training.steps, max(_FEWEST_STEPS, round(training.steps * _REFINING_STEPS)))
    return training.replace(
        steps=steps,
        learning_rate=training.learning_rate * _REFINING_RATE,
        check_every=min(training.check_every, max(1, steps // 5)),
        max_tiles=min(training.max_tiles, 10 * steps),
    )


def repeated(marked: Sequence[NormalRegion], n_tiles: int, n_marked_tiles: int) -> list[NormalRegion]:
    """Repeat regions marked normal until their tiles are a tenth of all tiles, each 20 times at most.

    Parameters
    ----------
    marked : sequence of NormalRegion
        The regions.
    n_tiles : int
        Tiles of the other regions.
    n_marked_tiles : int
        Tiles of the regions marked normal, see :func:`~napari_uflow.training.tiles.marked_tiles_of`: one beside the
        grid of positions has up to four.
    """
    n_repeats = round(_MARKED_PART * n_tiles / max(n_marked_tiles, 1))
    return [*marked] * min(max(1, n_repeats), _MOST_REPEATS)


def learned_by(model: TrainedModel) -> frozenset[str]:
    """Return the parts of a refined model that learned the regions marked normal: "flow" and "memory", or none.

    Parameters
    ----------
    model : TrainedModel
        The refined model. Its flow learns nothing without steps, nor from specimens that are held out; without a memory
        nothing else does.
    """
    found = set()
    record = model.record
    has_flow_learned = model.training.steps and record.outcome.kind is not OutcomeKind.NOTHING_LEARNED
    if has_flow_learned and record.n_marked_held_out < max(record.n_marked_normal, 1):
        found.add("flow")
    if model.config.evidence != "likelihood" and len(model.state.get("memory.vectors", ())):
        found.add("memory")
    return frozenset(found)


def check_same_specimens(model: TrainedModel, regions: Sequence[NormalRegion]) -> None:
    """Refuse to resume a training on other images.

    Parameters
    ----------
    model : TrainedModel
        The model to resume from.
    regions : sequence of NormalRegion
        Normal regions to train on.

    Raises
    ------
    ImageError
        If no region comes from a specimen of that training.
    """
    if not regions_of_training(regions, model.record, model.training.specimen_pattern):
        known = sorted(model.record.all_specimens)
        some = ", ".join(f"'{name}'" for name in known[:3])
        raise ImageError(
            f"none of these images took part in the training to resume, which used {some}{' ...' * (len(known) > 3)}: "
            f"choose the images of that training, under the same names"
        )


def check_same_images(model: TrainedModel, regions: Sequence[NormalRegion]) -> None:
    """Refuse to resume a training with other images than all of its own.

    Parameters
    ----------
    model : TrainedModel
        The snapshot to resume from.
    regions : sequence of NormalRegion
        Normal regions to train on.

    Raises
    ------
    ImageError
        If an image of that training is missing, or another one is there.
    """
    record = model.record
    titles = [region.plane.title for region in dict.fromkeys(regions)]
    missing = Counter(record.image_names) - Counter(titles)
    new = Counter(titles) - Counter(record.image_names)
    is_complete = len(record.image_names) == record.n_images  # a record does not name thousands
    if missing or (is_complete and new) or len(titles) != record.n_images:
        example = f", such as '{next(iter(missing or new))}'" if missing or new else ""
        raise ImageError(
            f"the training to resume had {counted(record.n_images, 'image')}, but {len(titles)} are given, and some "
            f"differ{example}: choose the images of that training, under the same names"
        )
