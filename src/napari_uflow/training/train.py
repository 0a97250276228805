"""Training: from normal regions to a model."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from napari_uflow import __version__
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.region import NormalRegion, common_channels
from napari_uflow.model.backbone import load_pretrained
from napari_uflow.model.border import border_excess
from napari_uflow.model.energy import energy
from napari_uflow.model.record import EarlierTraining, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.calibrated import Calibration
from napari_uflow.nfa.calibration import FEWEST_POSITIONS, TooFewPositionsError
from napari_uflow.nfa.conformal import ConformalOffset, specimens_needed
from napari_uflow.progress import Event, Message, Progress, Steps, drain, or_stop
from napari_uflow.system.devices import choose_device, memory_for_tiles
from napari_uflow.training.cache import FeatureCache
from napari_uflow.training.calibrate import calibrate_steps, n_positions
from napari_uflow.training.features import fill_cache
from napari_uflow.training.optimise import optimise
from napari_uflow.training.regions import assign_specimens
from napari_uflow.training.tiles import SeenSpecimens, TrainingTile, choose_tiles, regions_of
from napari_uflow.wording import counted

__all__ = ["train", "train_steps"]

T = TypeVar("T")


_TOO_FEW_POSITIONS = (
    "there are too few normal positions to tell how energies are distributed: the number of false alarms will hold "
    "only if the model were perfect; add images"
)


# The border is strange where its corners' energies are so many log_variances above those of the inside; tiles looked at.
_STRANGE_BORDER = 2.5


_MOST_LOOKED_AT = 64

# Names of images that a model's record keeps.
_MOST_NAMES = 1000


def train(
    regions: Sequence[NormalRegion],
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    init_from: TrainedModel | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainedModel:
    """Train a model on normal regions and return it.

    Parameters
    ----------
    regions, weights, device, init_from
        As in :func:`~napari_uflow.training.train.train_steps`.
    model : ModelConfig, optional
        What it is made of; the defaults without it, or what `init_from` is made of.
    training : TrainingConfig, optional
        How it is trained; the defaults without it.
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
    return drain(train_steps(regions, model, training, weights=weights, device=device, init_from=init_from), on_event)


def train_steps(
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    init_from: TrainedModel | None = None,
) -> Steps[TrainedModel]:
    """Train a model on normal regions, step by step.

    Parameters
    ----------
    regions : sequence of NormalRegion
        What is normal. Regions of one field are held out together.
    model : ModelConfig
        What the model is made of.
    training : TrainingConfig
        How it is trained.
    weights : path, optional
        File or folder of the backbone's pre-trained weights.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    init_from : TrainedModel, optional
        A model whose training goes on: its weights, brightness range and feature normalisation are kept, and the fields
        that it held out stay held out. `regions` should be what it was trained on and more; what is not among them is
        forgotten little by little.

    Yields
    ------
    Message, Progress, TrainingPoint or Snapshot
        FINISH may be sent at any of them: training then ends with the best model so far. A snapshot, once a minute at
        most, holds that model without its calibration.

    Returns
    -------
    TrainedModel
        With the weights of the best held-out loss.

    Raises
    ------
    ImageError
        If there is no normal pixel, or the images do not fit together.
    BackboneUnavailableError
        If the backbone's weights cannot be found.
    ConfigError
        If a parameter does not fit another.
    Stopped
        If it was asked to finish before there was anything to keep.
    """
    if not regions:
        raise ImageError("there is nothing to train on: give at least one image or region that is normal")
    torch_device = choose_device(device)
    rng = np.random.default_rng(training.seed)
    n_channels = common_channels(regions)
    if init_from is None:
        network = UFlow(model, n_channels, training.seed)
    else:
        model = _config_to_resume(model, init_from, n_channels)
    yield from or_stop(Message(f"Loading the backbone {model.backbone}"))
    if init_from is None:
        source = load_pretrained(network.backbone, weights)
        network.to(torch_device).eval()
    else:
        network = init_from.network(torch_device, weights)
        source = init_from.record.backbone_weights

    has_new = init_from is not None and any(region.is_marked_normal for region in regions)
    seen_before = None if init_from is None else SeenSpecimens.of(init_from.record)
    known = frozenset[str]() if init_from is None else init_from.record.all_specimens
    regions = assign_specimens(regions, training.specimen_pattern, known)
    train_tiles, holdout_tiles = choose_tiles(regions, network.tile, max(network.strides), training, rng, seen_before)
    specimens = {tile.region.specimen for tile in train_tiles if not tile.region.is_marked_normal}
    holdout_specimens = {tile.region.specimen for tile in holdout_tiles}
    yield from or_stop(
        Message(
            f"{counted(len(train_tiles), 'tile')} from {counted(len(specimens), 'field')} to train on, "
            f"{len(holdout_tiles)} from {len(holdout_specimens)} held out"
        )
    )
    n_missing = 0 if seen_before is None else len(seen_before.trained - specimens)
    if n_missing:
        yield from or_stop(
            Message(
                f"fields that the model was trained on are not among the images ({n_missing}): it will forget them "
                f"little by little; give them again with the new ones",
                warning=True,
            )
        )
    if not holdout_tiles:
        yield from or_stop(
            Message(
                "nothing could be held out: the best step and the false-alarm scale are taken from the training "
                "images themselves and will be too optimistic; add images of other fields",
                warning=True,
            )
        )
    elif len(holdout_specimens) < specimens_needed(1.0) and not specimens & holdout_specimens:
        yield from or_stop(
            Message(
                f"no number of false alarms can be guaranteed with "
                f"{counted(len(holdout_specimens), 'held-out specimen')}: 1 per image takes {specimens_needed(1.0)}, 0.1 takes "
                f"{specimens_needed(0.1)}; add images of other fields, or hold out a larger part"
            )
        )
    elif specimens & holdout_specimens:
        yield from or_stop(
            Message(
                "all images come from one field: a part of it is held out, which hides differences between fields; "
                "add images of other fields",
                warning=True,
            )
        )
    intensity = IntensityRange.fit(regions_of(train_tiles), rng=rng) if init_from is None else init_from.intensity

    limit = training.cache_memory * 1e9
    on_gpu, held_on_gpu = _places_on_gpu(torch_device)
    with FeatureCache(limit, **on_gpu) as train_cache, FeatureCache(limit / 4, **held_on_gpu) as holdout_cache:
        n_augmentations = training.augmentations
        yield from fill_cache(train_cache, network, train_tiles, intensity, n_augmentations, "Computing features")
        yield from fill_cache(holdout_cache, network, holdout_tiles, intensity, 1, "Computing held-out features")
        if train_cache.n_bytes_on_disk:
            yield from or_stop(Message(f"{train_cache.n_bytes_on_disk / 1e9:.1f} GB of features are kept on disk"))
        if model.border == "replicate":
            train_cache.replicate_border(network.strides)
            holdout_cache.replicate_border(network.strides)
        if init_from is None:
            yield from _fit_norm(network, train_cache)
        if init_from is None and model.border == "auto":
            excess = _border_excess(network, train_cache)
            model = model.replace(border="reflect" if excess <= _STRANGE_BORDER else "replicate")
            network.config = model
            if model.border == "replicate":
                train_cache.replicate_border(network.strides)
                holdout_cache.replicate_border(network.strides)
                yield from _fit_norm(network, train_cache, "Fitting the feature normalisation without the border")
            if excess > _STRANGE_BORDER:
                yield from or_stop(
                    Message(
                        f"the corners of the normal images look strange ({excess:.1f} log_variances above the inside): "
                        f"what lies at the border is judged by what is further in"
                    )
                )
        has_calibration = n_positions(holdout_tiles or train_tiles, network) >= FEWEST_POSITIONS
        if not has_calibration:
            yield from or_stop(Message(_TOO_FEW_POSITIONS, warning=True))

        def model_so_far(history: Sequence[dict[str, float]], outcome: TrainingOutcome) -> TrainedModel:
            record = replace(
                _record(regions, train_tiles, holdout_tiles, init_from),
                outcome=outcome,
                backbone_weights=source,
                device=str(torch_device),
            )
            state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
            return TrainedModel(model, training, intensity, state, None, tuple(history), record)

        history, outcome = yield from optimise(
            network, train_cache, holdout_cache, training, rng, model_so_far, has_new=has_new
        )

    calibration: Calibration | None = None
    if has_calibration:
        # Not to be stopped: it takes a moment, and a run that was stopped keeps a model that is as good as it can be.
        try:
            calibration = yield from _to_the_end(calibrate_steps(network, intensity, holdout_tiles or train_tiles))
        except TooFewPositionsError:  # a model without it is worth more than none
            yield from _to_the_end(or_stop(Message(_TOO_FEW_POSITIONS, warning=True)))
        if calibration is not None and not holdout_tiles:  # tested on what it was trained on, nothing can be guaranteed
            calibration = replace(calibration, offset=ConformalOffset(), observed=())
    return replace(model_so_far(history, outcome), calibration=calibration)


def _places_on_gpu(device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the caches of training and held-out tiles get of a GPU's memory; nothing where there is none."""
    if device.type != "cuda":
        return {}, {}
    room = memory_for_tiles(device)
    return {"device": device, "device_limit": 0.8 * room}, {"device": device, "device_limit": 0.2 * room}


def _config_to_resume(model: ModelConfig, init_from: TrainedModel, n_channels: int) -> ModelConfig:
    """Return the configuration of a model whose training goes on; refuse another one."""
    if n_channels != init_from.n_channels:
        raise ImageError(
            f"the images have {n_channels} channels, but the model was trained on {init_from.n_channels}; choose the "
            f"channels it was trained on ('Channels' under Advanced, or --channels)"
        )
    if model.border == "auto":
        model = model.replace(border=init_from.config.border)
    if model != init_from.config:
        mine, its = model.to_dict(), init_from.config.to_dict()
        other = ", ".join(f"{key} {its[key]} (not {mine[key]})" for key in mine if mine[key] != its[key])
        raise ConfigError(f"training can go on only with what the model is made of: {other}; or train a new model")
    return model


def _record(
    regions: Sequence[NormalRegion],
    train_tiles: Sequence[TrainingTile],
    holdout_tiles: Sequence[TrainingTile],
    init_from: TrainedModel | None,
) -> TrainingRecord:
    """Return the record of a training that ends now."""
    distinct = list(dict.fromkeys(regions))
    planes = [region.plane for region in distinct]
    specimens = {tile.region.specimen for tile in train_tiles if not tile.region.is_marked_normal}
    first_training, resumed_from = None, None
    if init_from is not None:
        first_training = init_from.record.first_training or init_from.training
        specimens |= set(init_from.record.specimens)
        n_steps = int(max((point["step"] for point in init_from.history), default=0))
        resumed_from = EarlierTraining(init_from.record.date, n_steps, init_from.record.resumed_from)
    return TrainingRecord(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        n_images=len(planes),
        image_names=tuple(plane.title for plane in planes[:_MOST_NAMES]),
        specimens=tuple(sorted(specimens)),
        holdout_specimens=tuple(sorted({tile.region.specimen for tile in holdout_tiles})),
        n_tiles=len(train_tiles),
        n_holdout_tiles=len(holdout_tiles),
        n_marked_normal=sum(region.is_marked_normal for region in distinct),
        pixel_size=next((plane.pixel_size for plane in planes if plane.pixel_size), None),
        unit=next((plane.unit for plane in planes if plane.unit), None),
        versions={
            "napari-uflow": __version__,
            "torch": torch.__version__,
            "timm": version("timm"),
            "FrEIA": version("FrEIA"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        first_training=first_training,
        resumed_from=resumed_from,
    )


def _fit_norm(network: UFlow, cache: FeatureCache, phase: str = "Fitting the feature normalisation") -> Steps[None]:
    """Fit the statistics of all levels."""
    for level, stride in enumerate(network.strides):
        yield from or_stop(Progress(phase, level, len(network.strides)))
        try:
            network.norm.fit(level, lambda level=level: _samples(cache, level))  # type: ignore[misc]
        except ValueError as error:
            raise ImageError(
                f"no cell of {stride} x {stride} pixels is normal throughout: mark larger parts as normal, without "
                f"small holes"
            ) from error
    yield from or_stop(Progress(phase, len(network.strides), len(network.strides)))


@torch.no_grad()
def _border_excess(network: UFlow, cache: FeatureCache) -> float:
    """Return how much stranger the images' corners look than their inside, on the level where it is most.

    That of their borders where no tile has a corner that is normal; NaN where none has a border either.
    """
    device = network.device
    chosen = np.unique(np.linspace(0, len(cache) - 1, min(len(cache), _MOST_LOOKED_AT)).astype(int))
    tiles = [cache[int(i)] for i in chosen]
    of_corners: list[float] = []
    of_borders: list[float] = []
    for level, stride in enumerate(network.strides):
        seen = []
        for tile in tiles:
            if tile.frame is not None:
                x = network.norm.level(level, tile.features[level][None].float().to(device))
                seen.append((energy(x)[0].cpu(), tile.is_normal[level], tile.frame))
        for corners, of_levels in ((True, of_corners), (False, of_borders)):
            found = [border_excess(*one, stride, corners=corners) for one in seen]
            known = [value for value in found if math.isfinite(value)]
            if known:
                of_levels.append(float(np.mean(known)))
    return max(of_corners or of_borders, default=math.nan)


def _samples(cache: FeatureCache, level: int) -> Iterator[tuple[Tensor, Tensor]]:
    for i in range(len(cache)):
        tile = cache[i]
        yield tile.features[level][None].float(), tile.is_normal[level][None]


def _to_the_end(steps: Steps[T]) -> Steps[T]:
    """Run a job that is not told when it should finish."""
    try:
        event = next(steps)
        while True:
            yield event
            event = steps.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
