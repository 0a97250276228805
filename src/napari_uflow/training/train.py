"""Training: from normal regions to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ImageError, Stopped
from napari_uflow.image.condition import conditions_of
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.region import NormalRegion, common_channels
from napari_uflow.model.record import OutcomeKind, PlantedOutcome, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import MARGIN, TrainedModel, UFlow
from napari_uflow.model.weights import load_pretrained
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.nfa.calibration import TooFewPositionsError
from napari_uflow.nfa.conformal import specimens_needed
from napari_uflow.progress import Event, Message, Steps, drain, or_stop
from napari_uflow.system.devices import choose_device
from napari_uflow.training.cache import FeatureCaches, TileLists
from napari_uflow.training.calibrate import calibrate_steps, has_enough_positions
from napari_uflow.training.evidence import evidence_steps, scale_steps
from napari_uflow.training.features import fill_cache
from napari_uflow.training.folds import Fold, folds_of, scale_folds_steps, train_folds_steps
from napari_uflow.training.magnification import magnification_steps
from napari_uflow.training.normalise import normalise_steps
from napari_uflow.training.octaves import coarser_steps, octaves_for
from napari_uflow.training.optimise import History, Optimised, optimise
from napari_uflow.training.pixel_size import (
    images_of,
    messages_about_pixel_sizes,
    reference_pixel_size,
    working_regions,
)
from napari_uflow.training.pixel_types import messages_about_pixel_types
from napari_uflow.training.planted import Likelihoods, PlantedFeatures, best_evidence, planted_set, sources_of
from napari_uflow.training.record import record_of
from napari_uflow.training.regions import assign_specimens
from napari_uflow.training.seen import mark_of
from napari_uflow.training.tiles import Split, choose_tiles, regions_of
from napari_uflow.wording import counted

__all__ = ["train", "train_steps"]

T = TypeVar("T")

# Pixels of the images with and without planted defects, over those of all tiles and augmentations.
_PLANTED_PART = 0.4

# Tiles that the scale of a snapshot is fitted to: as quick as a check of the optimiser.
_MEASURED_OF_SNAPSHOT = 40

_NOT_LEARNED = (
    "the regions marked normal are not learned: the model has no memory, and this training has no steps; train a new "
    "model with steps, or with a memory"
)
_HELD_OUT_NOT_LEARNED = (
    "the regions marked normal are not learned: their specimens are held out, where false alarms are counted, and the "
    "model has no memory; train a new model with a memory"
)
_NO_MEMORY = (
    "the model has no memory of normal positions: with one specimen and nothing held out, there is nothing to compare "
    "a normal image with; add images of other specimens, or say which images belong to one (specimen pattern)"
)
_ONLY_HELD_OUT = (
    "stopped: the other specimens are not held out in turn, and false alarms are counted only on {} held out from the "
    "beginning"
)
_TOO_FEW_POSITIONS = "too few normal pixels to calibrate the false-alarm rate; add normal images"


def train(
    regions: Sequence[NormalRegion],
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    init_from: TrainedModel | None = None,
    continues: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> TrainedModel:
    """Train a model on normal regions and return it.

    Parameters
    ----------
    regions, weights, device, init_from, continues
        As in :func:`~napari_uflow.training.train.train_steps`.
    model : ModelConfig, optional
        Parts of the model; by default those of `init_from`, or else the defaults.
    training : TrainingConfig, optional
        Parameters of the training; the defaults without it.
    on_event : callable, optional
        Called with every :class:`~napari_uflow.progress.Message` (warnings among them),
        :class:`~napari_uflow.progress.Progress` and :class:`~napari_uflow.progress.TrainingPoint` (the losses).

    Returns
    -------
    TrainedModel

    Raises
    ------
    UFlowError
        As in :func:`~napari_uflow.training.train.train_steps`.
    """
    model = model or (ModelConfig() if init_from is None else init_from.config)
    training = training or TrainingConfig()
    steps = train_steps(
        regions, model, training, weights=weights, device=device, init_from=init_from, continues=continues
    )
    return drain(steps, on_event)


def train_steps(
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    init_from: TrainedModel | None = None,
    continues: bool = False,
) -> Steps[TrainedModel]:
    """Train a model on normal regions, step by step.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Normal areas. Regions of one specimen are held out together.
    model : ModelConfig
        Parts of the model.
    training : TrainingConfig
        Parameters of the training.
    weights : path, optional
        File or folder of the backbone's pre-trained weights.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    init_from : TrainedModel, optional
        Model whose training is resumed: its weights, brightness range and feature normalisation are kept, and the
        specimens that it held out stay held out. Images are brought to its pixel size. `regions` should contain those
        it was trained on: it forgets the others little by little.
    continues : bool
        `init_from` is a snapshot of this training, or its model when it was stopped: the steps after it are done, the
        history goes on, and what training brought is measured from the beginning.

    Yields
    ------
    Message, Progress, TrainingPoint or Snapshot
        FINISH may be sent at any of them: training then ends with the best model so far. A snapshot, once a minute at
        most, holds that model without its calibration; evidence "auto" is not decided in it.

    Returns
    -------
    TrainedModel
        With the weights that find planted defects best, or of the lowest held-out loss; see
        :class:`~napari_uflow.training.optimise.BestStep`.

    Raises
    ------
    ImageError
        If there is no normal pixel, or the images do not fit together.
    BackboneUnavailableError
        If the backbone's weights cannot be found.
    ConfigError
        If a parameter does not fit another.
    Stopped
        If it was asked to finish before there was a model to keep.
    """
    if not regions:
        raise ImageError("there is nothing to train on: give at least one image or region that is normal")
    run = yield from _prepare(
        regions, model, training, weights=weights, device=device, init_from=init_from, continues=continues
    )
    network, split = run.network, run.split
    with FeatureCaches.open(training.cache_memory * 1e9, network.device) as caches:
        yield from _fill(run, caches)
        if init_from is None:
            yield from normalise_steps(network, caches)
        can_calibrate = has_enough_positions(network, split.for_calibration)
        if not can_calibrate:
            yield from or_stop(Message(_TOO_FEW_POSITIONS, warning=True))
        has_new = init_from is not None and any(tile.region.is_marked_normal for tile in split.train)
        judge = None
        folds = run.folds if can_calibrate else []
        if network.is_joint:
            yield from evidence_steps(
                network,
                caches,
                run.rng,
                can_remember=run.can_remember,
                remembers_held_out=not split.is_divided_by_place,
            )
            if not run.can_remember and network.config.evidence != "likelihood":
                yield from or_stop(Message(_NO_MEMORY, warning=True))
            is_new = init_from is None
            yield from coarser_steps(network, run.working, split, training, run.intensity, is_new=is_new, folds=folds)
            judge = yield from _judge(run)
        optimised = yield from optimise(
            network,
            TileLists(list(caches.train), [tile for tile in caches.holdout if not tile.origin.is_marked_normal]),
            training,
            run.rng,
            partial(_snapshot, run, caches),
            history=run.history_before,
            has_new=has_new,
            planted=None if judge is None else judge.features,
        )
        planted = None if judge is None else (yield from _to_the_end(judge.decide_steps(network)))
        if network.is_joint and network.config.evidence == "auto":
            network.set_evidence("likelihood+memory")
        if network.is_joint and optimised.history:  # of the flow as it is now; it takes a moment
            yield from _to_the_end(scale_steps(network, caches, run.rng, only_likelihood=True))
        if folds:
            folds = yield from _learned_folds(run, caches, folds, optimised)
        if run.n_marked and not (has_new and training.steps) and not (network.is_joint and network.uses_memory):
            yield Message(_NOT_LEARNED if has_new else _HELD_OUT_NOT_LEARNED, warning=True)
    # Not to be stopped: it takes a moment, and the model of a stopped training should be as good as any.
    calibration = (yield from _to_the_end(_calibrate(run, folds))) if can_calibrate else None
    for name, of in _calibrations(calibration).items():
        if of.offset.n_specimens >= specimens_needed(1.0):
            where = f" for the condition '{name}'" if name else ""
            yield Message(
                f"{of.offset.smallest_guaranteed:.2g} false alarms per image or more can be guaranteed{where}, counted "
                f"on {counted(of.offset.n_specimens, 'specimen')}"
            )
    model_so_far = run.model(optimised.history, optimised.outcome)
    return replace(
        model_so_far,
        calibration=calibration,
        record=replace(
            model_so_far.record, planted=planted, folds=tuple(tuple(sorted(fold.specimens)) for fold in folds)
        ),
        folds=tuple(fold.state for fold in folds[1:] if fold.state),
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One training: everything but the features and the weights that it learns."""

    network: UFlow
    training: TrainingConfig
    regions: Sequence[NormalRegion]
    working: Sequence[NormalRegion]
    pixel_size: PixelSize | None
    split: Split
    folds: list[Fold]
    n_marked: int
    intensity: IntensityRange
    marks: frozenset[str]
    backbone_weights: str
    init_from: TrainedModel | None
    continues: bool
    rng: np.random.Generator

    @property
    def history_before(self) -> History:
        """Losses of the part of this training that was done before an interruption."""
        before = self.init_from.history if self.continues and self.init_from is not None else ()
        return tuple(dict(point) for point in before)

    @property
    def n_steps_before(self) -> int:
        """Steps of all trainings of the network before this one."""
        if self.init_from is None:
            return 0
        last = () if self.continues else self.init_from.history
        return self.init_from.record.n_steps_before + int(max((point["step"] for point in last), default=0))

    @property
    def can_remember(self) -> bool:
        """Normal images can be scored by a memory without themselves, and so be compared with new ones."""
        if self.split.holdout or len(self.split.specimens) > 1:
            return True
        return self.network.is_joint and self.network.memory.has_others(self.split.specimens)

    def model(self, history: History, outcome: TrainingOutcome) -> TrainedModel:
        """Return the model with the current weights, without a calibration."""
        network = self.network
        record = record_of(
            self.regions,
            self.split,
            outcome,
            config=network.config,
            marks=self.marks,
            backbone_weights=self.backbone_weights,
            device=network.device,
            init_from=self.init_from,
            continues=self.continues,
            pixel_size=self.pixel_size,
        )
        config = network.config.replace(border=network.border.kind)
        state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
        return TrainedModel(
            config=config,
            training=self.training,
            intensity=self.intensity,
            state=state,
            history=history,
            record=record,
        )


def _prepare(
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    weights: str | Path | None,
    device: str,
    init_from: TrainedModel | None,
    continues: bool,
) -> Steps[_Run]:
    """Make the network, choose the tiles and tell the user about them."""
    torch_device = choose_device(device)
    rng = np.random.default_rng(training.seed)
    n_channels = common_channels(regions)
    before = None if init_from is None else init_from.record
    known = frozenset[str]() if before is None else before.all_specimens
    regions = assign_specimens(regions, training.specimen_pattern, known)
    if init_from is None:
        network = UFlow(model, n_channels, training.seed)
    else:
        _check_resumable(init_from, model, n_channels)
    yield from or_stop(Message(f"Loading the backbone {model.backbone}"))
    if init_from is None:
        source = load_pretrained(network.backbone, weights)
        network.to(torch_device).eval()
    else:
        source = init_from.record.backbone_weights
        network = init_from.network(torch_device, weights)
    for message in _messages_about_conditions(regions, training.condition_pattern):
        yield from or_stop(message)
    for message in messages_about_pixel_types(regions):
        yield from or_stop(message)
    pixel_size = reference_pixel_size(regions, init_from)
    if not network.config.magnification:
        magnification = 1.0
        if network.is_joint:
            magnification = yield from magnification_steps(network, regions, model, training, pixel_size)
        network.config = network.config.replace(magnification=magnification)
    for message in messages_about_pixel_sizes(regions, network.config, pixel_size, is_of_model=init_from is not None):
        yield from or_stop(message)
    working = working_regions(regions, network.config, pixel_size)
    if not network.config.octaves:
        network.set_octaves(octaves_for(working, network.config))
    split = choose_tiles(working, network.tile, network.align, training, rng, before)
    n_marked = len({region for region in working if region.is_marked_normal})
    folds = folds_of(split, training, init_from)
    for message in _messages_about(split, folds, before, n_marked):
        yield from or_stop(message)
    intensity = IntensityRange.fit(regions_of(split.train), rng=rng) if init_from is None else init_from.intensity
    return _Run(
        network=network,
        training=training,
        regions=regions,
        working=working,
        pixel_size=pixel_size,
        split=split,
        folds=folds,
        n_marked=0 if init_from is None else n_marked,
        intensity=intensity,
        marks=frozenset(mark_of(plane) for plane in images_of(regions)),
        backbone_weights=source,
        init_from=init_from,
        continues=continues,
        rng=rng,
    )


def _check_resumable(init_from: TrainedModel, model: ModelConfig, n_channels: int) -> None:
    """Refuse to resume a model with other channels or other parts; what is left open is that of the model."""
    if n_channels != init_from.n_channels:
        raise ImageError(
            f"the images have {n_channels} channels, but the model was trained on {init_from.n_channels}; choose the "
            f"channels it was trained on"
        )
    if model.border == "auto":
        model = model.replace(border=init_from.config.border)
    if model.evidence == "auto":
        model = model.replace(evidence=init_from.config.evidence)
    if not model.magnification:
        model = model.replace(magnification=init_from.config.magnification)
    model = model.replace(octaves=init_from.config.octaves)  # a training may have left out some that were asked for
    if model != init_from.config:
        mine, its = model.to_dict(), init_from.config.to_dict()
        other = ", ".join(f"{key} {its[key]} (not {mine[key]})" for key in mine if mine[key] != its[key])
        raise ConfigError(
            f"a model can be trained further only with its own parameters: {other}; use these, or train a new model"
        )


def _messages_about_conditions(regions: Sequence[NormalRegion], pattern: str) -> Iterator[Message]:
    """Yield the number of specimens of each condition; regions marked normal, which are not counted, need none.

    Raises
    ------
    ConfigError
        If the pattern does not match an image.
    """
    if not pattern:
        return
    regions = [region for region in regions if not region.is_marked_normal]
    specimens: dict[str, set[str]] = {}
    for region, condition in zip(regions, conditions_of([r.plane for r in regions], pattern), strict=True):
        if condition is None:
            raise ConfigError(f"the condition pattern {pattern!r} does not match '{region.plane.title}' and its folder")
        specimens.setdefault(condition, set()).add(region.specimen)
    each = ", ".join(f"'{name}' ({counted(len(of), 'specimen')})" for name, of in sorted(specimens.items()))
    yield Message(f"{counted(len(specimens), 'condition')}, with a guarantee each: {each}")


def _messages_about(
    split: Split, folds: Sequence[Fold], before: TrainingRecord | None, n_marked: int
) -> Iterator[Message]:
    """Yield the size of a split and its consequences for the model.

    Parameters
    ----------
    split : Split
        The tiles.
    folds : sequence of Fold
        Groups of specimens that are held out in turn; empty if only those of the split are.
    before : TrainingRecord or None
        Record of the model that the training is resumed from.
    n_marked : int
        Regions marked normal.
    """
    n_held_out = len(split.holdout_specimens)
    n_counted = len({name for fold in folds for name in fold.specimens}) or n_held_out
    yield Message(
        f"{counted(len(split.train), 'tile')} from {counted(len(split.specimens), 'specimen')} to train on, "
        f"{len(split.holdout)} from {n_held_out} held out"
    )
    if folds:
        yield Message(
            f"Then each of the {counted(n_counted, 'specimen')} is held out in turn, in {len(folds)} groups, so that "
            f"false alarms are counted on all"
        )
        n_known = len(split.specimens | split.holdout_specimens) - n_counted
        if n_known:
            yield Message(
                f"False alarms are not counted on {counted(n_known, 'specimen')} that earlier trainings of this model "
                f"may have learned from"
            )
    n_forgotten = 0 if before is None else len(set(before.specimens) - split.specimens)
    if n_forgotten:
        yield Message(
            f"images of {counted(n_forgotten, 'specimen')} that the model was trained on are missing: it will "
            f"gradually forget them; add those images too",
            warning=True,
        )
    n_used = sum(region.is_marked_normal for region in regions_of((*split.train, *split.holdout)))
    if n_used < n_marked:
        yield Message(
            f"{n_used} of {n_marked} regions marked normal are trained on, drawn at random: more would displace the "
            f"other images",
            warning=True,
        )
    if not split.holdout:
        yield Message(
            "no specimen could be held out: the best step and the false-alarm rate are estimated on the training "
            "images and will be too optimistic; add images of other specimens",
            warning=True,
        )
    elif split.is_divided_by_place:
        yield Message(
            "all images come from one specimen: a part of it is held out, which hides differences between specimens; "
            "add images of other specimens",
            warning=True,
        )
    elif n_counted < specimens_needed(1.0):
        yield Message(
            f"false alarms are only estimated with {counted(n_counted, 'held-out specimen')}; a guarantee of 1 per "
            f"image needs {specimens_needed(1.0)}, of 0.1 per image {specimens_needed(0.1)}: add images of other "
            f"specimens, or hold out a larger part"
        )


def _fill(run: _Run, caches: FeatureCaches) -> Steps[None]:
    """Compute the features of all tiles, with the border as far as it is decided."""
    network, split = run.network, run.split
    n_augmentations = run.training.augmentations
    flat = yield from fill_cache(
        caches.train, network, split.train, run.intensity, n_augmentations, "Computing features"
    )
    flat += yield from fill_cache(
        caches.holdout, network, split.holdout, run.intensity, 1, "Computing held-out features"
    )
    if flat:
        n_images = len({tile.region.plane.title for tile in (*split.train, *split.holdout)})
        text = (
            f"{len(flat)} of {counted(n_images, 'image')} without any structure, such as '{flat[0]}' (black, "
            f"overexposed or empty): the model learns that this is normal; leave such images out"
        )
        yield from or_stop(Message(text, warning=True))
    if caches.train.n_bytes_on_disk:
        yield from or_stop(Message(f"{caches.train.n_bytes_on_disk / 1e9:.1f} GB of features are kept on disk"))
    caches.apply_border(network.border, network.strides)


@dataclass(frozen=True)
class _Judge:
    """Planted defects, and the evidence of the untrained flow on them; it chooses the kinds of evidence if asked to.

    The untrained flow is None if it is not known, since the training was interrupted and had begun with another model.
    """

    features: PlantedFeatures
    untrained: Likelihoods | None
    chooses_evidence: bool

    def decide_steps(self, network: UFlow) -> Steps[PlantedOutcome]:
        """Choose the evidence of a trained network, and tell what it finds."""
        trained = self.features.likelihoods(network)
        if self.chooses_evidence:
            evidence = best_evidence(self.features, trained)
            network.set_evidence(evidence)
            if evidence != "likelihood+memory":
                yield Message(f"The {evidence} alone finds planted defects clearly better than with the other evidence")
        evidence = network.config.evidence
        untrained = self.untrained or trained
        after, before = (self.features.maxima(x, evidence) for x in (trained, untrained))
        difference = after.versus(before)
        found = PlantedOutcome(
            n_defects=self.features.n_defects,
            n_tiles=self.features.n_tiles,
            n_found=after.n_found,
            n_found_untrained=before.n_found,
            merit=after.merit,
            merit_untrained=before.merit,
            error=difference.error if math.isfinite(difference.error) else None,
        )
        is_without_gain = not found.is_better and not np.array_equal(trained.planted, untrained.planted)
        where = " (at full size alone)" * (network.coarser is not None)
        yield Message(f"Planted defects{where}: {found.text()}" + "; training brought no clear gain" * is_without_gain)
        return found


def _learned_folds(run: _Run, caches: FeatureCaches, folds: list[Fold], optimised: Optimised) -> Steps[list[Fold]]:
    """Train the networks of the folds; return none if it is stopped: false alarms are then counted as in a split."""
    network = run.network
    try:
        if optimised.outcome.kind is OutcomeKind.STOPPED:
            raise Stopped
        if not network.is_joint or network.uses_likelihood:
            yield from train_folds_steps(
                network,
                caches,
                run.training,
                folds,
                n_best=optimised.best_step,
                n_done=int(optimised.history[-1]["step"]) if optimised.history else 0,
                n_before=run.n_steps_before,
            )
    except Stopped:
        yield Message(_ONLY_HELD_OUT.format(counted(len(run.split.holdout_specimens), "specimen")), warning=True)
        return []
    if network.is_joint:
        yield from _to_the_end(scale_folds_steps(network, caches, folds, run.rng))
    return folds


def _snapshot(run: _Run, caches: FeatureCaches, history: History, outcome: TrainingOutcome) -> TrainedModel:
    """Return the model with the current weights, and with the scale of their likelihood."""
    if run.network.is_joint:
        # A generator of its own: the time of a snapshot must not change the training.
        rng = np.random.default_rng((run.training.seed, 4))
        drain(scale_steps(run.network, caches, rng, only_likelihood=True, most=_MEASURED_OF_SNAPSHOT))
    return run.model(history, outcome)


def _judge(run: _Run) -> Steps[_Judge | None]:
    """Plant defects and compute their features; None if there are too few images or pixels for it."""
    network, training = run.network, run.training
    rng = np.random.default_rng((training.seed, 3))
    tile_pixels = (network.tile + 2 * MARGIN) ** 2
    n_tiles = len(run.split.train) * training.augmentations + len(run.split.holdout)
    most = _PLANTED_PART * n_tiles * tile_pixels / max(1.0, network.config.magnification) ** 2
    sources = sources_of(
        run.regions,
        run.working,
        run.split,
        network,
        rng,
        min_normal=training.min_normal,
        most_pixels=most / 2,
    )
    planted = planted_set(sources, run.intensity.span, training.seed, most_pixels=most)
    if planted is None:
        return None
    phase = "Computing features of planted defects"
    features = yield from PlantedFeatures.compute_steps(network, planted, run.intensity, phase)
    if features is None:
        return None
    return _Judge(features, _untrained(run, features), network.config.evidence == "auto")


def _untrained(run: _Run, features: PlantedFeatures) -> Likelihoods | None:
    """Return the evidence of the flow that the whole training began with."""
    network, before = run.network, run.init_from
    if before is None or not run.continues:
        return features.likelihoods(network)
    if before.record.began_with is not None:
        return None
    with network.with_state(UFlow(before.config, before.n_channels, run.training.seed).part_state("flow")):
        return features.likelihoods(network)


def _calibrate(run: _Run, folds: Sequence[Fold]) -> Steps[Calibration | None]:
    """Calibrate on the images of all folds, or on the held-out tiles.

    Or else on the training tiles, without a guarantee, if none are held out. Places of specimens that were trained on
    guarantee nothing, either.
    """
    split = run.split
    counted_on = frozenset[str]().union(*(fold.specimens for fold in folds))
    tiles = [t for t in split.of_images if t.region.specimen in counted_on] if folds else split.for_calibration
    by_place = split.is_divided_by_place
    try:
        calibration = yield from calibrate_steps(
            run.network,
            run.intensity,
            tiles,
            only_tiles=by_place,
            folds=folds,
            condition_pattern=run.training.condition_pattern,
        )
    except TooFewPositionsError:  # the model is useful without a calibration
        yield from or_stop(Message(_TOO_FEW_POSITIONS, warning=True))
        return None
    return calibration if split.holdout and not by_place else calibration.without_guarantee()


def _calibrations(calibration: Calibration | None) -> Mapping[str, Calibration]:
    """Return the calibration of each condition; "" for a single one."""
    return {} if calibration is None else calibration.conditions or {"": calibration}


def _to_the_end(steps: Steps[T]) -> Steps[T]:
    """Run a job to its end, whatever the answers."""
    try:
        event = next(steps)
        while True:
            yield event
            event = steps.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
