"""Every specimen held out in turn: the networks that were trained without each group of specimens, the folds.

False alarms are counted on specimens that a network has not seen. With few images, those held out are too few for a
guarantee, and those trained on are as good: each is scored by a network that was trained without its group. All share
the backbone and its features, which are computed once, and the memory, which leaves the specimen out that is scored;
only the normalisation and the flow are fitted again. The first fold consists of the specimens held out of the training
of the model itself.

References
----------
R. F. Barber, E. J. Candès, A. Ramdas, R. J. Tibshirani (2021). Predictive inference with the jackknife+. The Annals of
Statistics 49. https://doi.org/10.1214/20-AOS1965 (CV+).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from napari_uflow.config import TrainingConfig
from napari_uflow.model.info import at_size
from napari_uflow.model.uflow import Sample, TrainedModel, UFlow
from napari_uflow.progress import Steps, phase_steps
from napari_uflow.training.cache import CachedTile, FeatureCaches, TileSets
from napari_uflow.training.evidence import MOST_MEASURED, remembered_tiles, samples_of, some_of
from napari_uflow.training.normalise import fit_norm_steps
from napari_uflow.training.optimise import repeat_steps
from napari_uflow.training.tiles import Split, choose_groups

__all__ = ["Fold", "folds_of", "scale_folds_steps", "train_folds_steps"]

# Stream of random numbers of a fold, less its number.
_RANDOM = 21


@dataclass(eq=False)
class Fold:
    """Specimens, and what a network learns without them.

    Attributes
    ----------
    number : int
        Number of the fold, from 1.
    specimens : frozenset of str
        Specimens that are held out.
    state : dict of str to Tensor
        Normalisation and flow of the network trained without them; what is missing is as in the network trained
        without the first fold.
    is_new : bool
        The state is to be learned from the beginning.
    """

    number: int
    specimens: frozenset[str]
    state: dict[str, Tensor] = field(default_factory=dict)
    is_new: bool = False

    def state_of_octave(self, depth: int) -> dict[str, Tensor]:
        """Return the weights for the network of an octave, under their names there; 0 is the finest."""
        prefix = "coarser." * depth
        return {
            key.removeprefix(prefix): value
            for key, value in self.state.items()
            if key.startswith((f"{prefix}norm.", f"{prefix}flow."))
        }

    def tiles(self, caches: TileSets, repeats: int = 1) -> list[CachedTile]:
        """Return the tiles to train on without the specimens.

        Parameters
        ----------
        caches : TileSets
            Features of the tiles of a training.
        repeats : int
            Times that tiles held out by the model itself count: they have no augmented copies.
        """
        train, holdout = (
            [tile for tile in of if tile.origin.specimen not in self.specimens] for of in (caches.train, caches.holdout)
        )
        return train + repeats * holdout

    def normalise_steps(self, network: UFlow, caches: TileSets, depth: int = 0, repeats: int = 1) -> Steps[None]:
        """Fit the normalisation of an octave if the fold is new; the network stays as it is.

        Parameters
        ----------
        network : UFlow
            The network of the octave.
        caches : TileSets
            Features of the tiles of the training, in this octave.
        depth : int
            Halvings of the size.
        repeats : int
            As for :meth:`tiles`.
        """
        if not self.is_new:
            return
        phase = at_size(f"Fitting the normalisation without group {self.number}", depth)
        with network.with_state(network.part_state("norm")):
            yield from fit_norm_steps(network, self.tiles(caches, repeats), phase)
            fitted = network.part_state("norm")
        self.state |= {"coarser." * depth + key: value for key, value in fitted.items()}


def folds_of(split: Split, training: TrainingConfig, init_from: TrainedModel | None = None) -> list[Fold]:
    """Return the folds of a training; none if only the specimens of the split are held out.

    Parameters
    ----------
    split, training
        As for :func:`~napari_uflow.training.tiles.choose_groups`.
    init_from : TrainedModel, optional
        Model whose training is resumed: its specimens stay in their groups if it has their networks.
    """
    states = () if init_from is None else init_from.folds
    groups = choose_groups(split, training, init_from.record if init_from is not None and states else None)
    if not groups or not states:
        return [Fold(i, group, is_new=i > 1) for i, group in enumerate(groups, start=1)]
    known = zip(groups, ({}, *states), strict=True)
    return [Fold(i, group, dict(state)) for i, (group, state) in enumerate(known, start=1)]


def train_folds_steps(
    network: UFlow,
    caches: TileSets,
    training: TrainingConfig,
    folds: Sequence[Fold],
    *,
    n_best: int,
    n_done: int,
    n_before: int = 0,
) -> Steps[None]:
    """Train the networks of all folds but the first as that of the model was trained; the network stays as it is.

    Together they take no more steps than that training took.

    Parameters
    ----------
    network : UFlow
        The trained network.
    caches : TileSets
        Features of the tiles of the training.
    training : TrainingConfig
        Its parameters.
    folds : sequence of Fold
        Their states are completed.
    n_best, n_done : int
        Step of the training that was kept, and steps that it took.
    n_before : int
        Steps of all trainings before this one, which a new fold makes up for.
    """
    repeats = training.augmentations
    for fold in folds[1:]:
        yield from fold.normalise_steps(network, caches, repeats=repeats)
        if fold.is_new:
            fresh = UFlow(
                network.config.replace(octaves=1), network.n_channels, training.seed, backbone=network.backbone
            )
            fold.state |= fresh.part_state("flow")
        wanted, most = n_best, n_done
        if fold.is_new:
            wanted, most = wanted + n_before, most + n_before
        n_steps = min(wanted, -(-most // (len(folds) - 1)))
        if not n_steps:
            continue
        # the learning rate falls as far as it did
        config = training.replace(steps=max(n_steps, round(max(training.steps, wanted) * n_steps / wanted)))
        rng = np.random.default_rng((training.seed, _RANDOM + fold.number))
        phase = f"Training without group {fold.number} of {len(folds)}"
        with network.with_state(fold.state_of_octave(0)):
            yield from repeat_steps(network, fold.tiles(caches, repeats), config, rng, n_steps, phase)
            fold.state |= network.part_state("flow")


def scale_folds_steps(
    network: UFlow, caches: FeatureCaches, folds: Sequence[Fold], rng: np.random.Generator, depth: int = 0
) -> Steps[None]:
    """Fit the scale of the likelihood to images of all folds, each scored by a network that was trained without it.

    Parameters
    ----------
    network : UFlow
        Its scale is fitted.
    caches : FeatureCaches
        Features of the tiles.
    folds : sequence of Fold
        All folds of the training; nothing is done without any.
    rng : Generator
        Draws tiles if there are many.
    depth : int
        Octave of the network.
    """
    if not folds:
        return
    train, holdout = remembered_tiles(caches.train, caches.holdout)
    of_images = [tile for tile in train + holdout if not tile.cached.origin.is_marked_normal]
    tiles = some_of(of_images, MOST_MEASURED, rng)

    def samples() -> Iterator[Sample]:
        for fold in folds:
            with network.with_state(fold.state_of_octave(depth)):
                yield from samples_of(network, [t for t in tiles if t.cached.origin.specimen in fold.specimens])

    phase = at_size("Measuring specimens held out in turn", depth)
    yield from phase_steps(network.fit_scale(samples, only_likelihood=True), phase)
