"""Training: from normal regions to a model."""

from __future__ import annotations

import datetime
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from napari_uflow import __version__
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.devices import choose_device, free_memory, is_out_of_memory, memory_for_tiles
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.evidence import all_in_cells, evidence_steps
from napari_uflow.features import fill_cache
from napari_uflow.image import IntensityRange, NormalRegion, Window, common_channels
from napari_uflow.model.backbone import load_pretrained
from napari_uflow.model.border import border_excess, hold_mask
from napari_uflow.model.cache import FeatureCache
from napari_uflow.model.energy import energy, negative_log_likelihood
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa import (
    FEWEST_POSITIONS,
    Calibration,
    CalibrationPicture,
    ConformalOffset,
    TooFewPositionsError,
    fields_needed,
)
from napari_uflow.progress import FINISH, Event, Message, Progress, Snapshot, Steps, TrainingPoint, drain, or_stop
from napari_uflow.tiles import FieldsBefore, TrainingTile, choose_tiles, regions_of
from napari_uflow.wording import counted

__all__ = ["calibrate_steps", "rest_of_training", "train", "train_steps"]

T = TypeVar("T")

# Held-out energies are watched at this quantile: held-out latents explode at single positions when overtrained.
_WATCHED_QUANTILE = 0.999
# A step whose loss or gradient is not finite is left out; after so many in a row training has failed for good.
_MAX_BAD_STEPS = 20
_TOO_FEW_POSITIONS = (
    "there are too few normal positions to tell how energies are distributed: the number of false alarms will hold "
    "only if the model were perfect; add pictures"
)
_NOTHING_LEARNED = (
    "what was learned from the training tiles does not hold for those that were held out: the model is the one the "
    "training began with; add normal pictures, or mark more as normal"
)
# A model that goes on with something new may lose this much of its held-out likelihood for it (nats per dimension).
_WORSE_BY = 0.02
# The border is strange where its corners' energies are so many spreads above those of the inside; tiles looked at.
_STRANGE_BORDER = 2.5
_MOST_LOOKED_AT = 64
# A run that is shorter than this can be done again.
_SECONDS_BETWEEN_SNAPSHOTS = 60.0
# Side of what is looked at of a held-out picture, and pixels in all.
_CALIBRATION_SIDE = 2048
_CALIBRATION_PIXELS = 32_000_000


def train(
    regions: Sequence[NormalRegion],
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    start: TrainedModel | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> TrainedModel:
    """Train a model on normal regions and return it.

    Parameters
    ----------
    regions, weights, device, start
        As in :func:`~napari_uflow.train.train_steps`.
    model : ModelConfig, optional
        What it is made of; the defaults without it, or what `start` is made of.
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
        As in :func:`~napari_uflow.train.train_steps`.
    """
    model = model or (ModelConfig() if start is None else start.config)
    training = training or TrainingConfig()
    return drain(train_steps(regions, model, training, weights=weights, device=device, start=start), on_event)


def train_steps(
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    start: TrainedModel | None = None,
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
    start : TrainedModel, optional
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
        If there is no normal pixel, or the pictures do not fit together.
    BackboneUnavailableError
        If the backbone's weights cannot be found.
    ConfigError
        If a parameter does not fit another.
    Stopped
        If it was asked to finish before there was anything to keep.
    """
    if not regions:
        raise ImageError("there is nothing to train on: give at least one picture or region that is normal")
    torch_device = choose_device(device)
    rng = np.random.default_rng(training.seed)
    n_channels = common_channels(regions)
    if start is None:
        network = UFlow(model, n_channels, training.seed)
    else:
        model = _config_to_go_on(model, start, n_channels)
    yield from or_stop(Message(f"Loading the backbone {model.backbone}"))
    if start is None:
        source = load_pretrained(network.backbone, weights)
        network.to(torch_device).eval()
    else:
        network = start.network(torch_device, weights)
        source = start.provenance.get("backbone_weights", "")

    has_new = start is not None and any(region.is_taught for region in regions)
    seen_before = None if start is None else FieldsBefore.of(start.provenance)
    train_tiles, holdout_tiles = choose_tiles(regions, network.tile, max(network.strides), training, rng, seen_before)
    fields = {tile.region.field for tile in train_tiles if not tile.region.is_taught}
    holdout_fields = {tile.region.field for tile in holdout_tiles}
    yield from or_stop(
        Message(
            f"{counted(len(train_tiles), 'tile')} from {counted(len(fields), 'field')} to train on, "
            f"{len(holdout_tiles)} from {len(holdout_fields)} held out"
        )
    )
    n_missing = 0 if seen_before is None else len(seen_before.trained - fields)
    if n_missing:
        yield from or_stop(
            Message(
                f"fields that the model was trained on are not among the pictures ({n_missing}): it will forget them "
                f"little by little; give them again with the new ones",
                warning=True,
            )
        )
    if not holdout_tiles:
        yield from or_stop(
            Message(
                "nothing could be held out: the best step and the false-alarm scale are taken from the training "
                "pictures themselves and will be too optimistic; add pictures of other fields",
                warning=True,
            )
        )
    elif len(holdout_fields) < fields_needed(1.0) and not fields & holdout_fields:
        yield from or_stop(
            Message(
                f"no number of false alarms can be promised with "
                f"{counted(len(holdout_fields), 'held-out field')}: 1 per image takes {fields_needed(1.0)}, 0.1 takes "
                f"{fields_needed(0.1)}; add pictures of other fields, or hold out a larger part"
            )
        )
    elif fields & holdout_fields:
        yield from or_stop(
            Message(
                "all pictures come from one field: a part of it is held out, which hides differences between fields; "
                "add pictures of other fields",
                warning=True,
            )
        )
    intensity = IntensityRange.fit(regions_of(train_tiles), rng=rng) if start is None else start.intensity

    limit = training.cache_memory * 1e9
    on_gpu, held_on_gpu = _places_on_gpu(torch_device)
    with FeatureCache(limit, **on_gpu) as train_cache, FeatureCache(limit / 4, **held_on_gpu) as holdout_cache:
        n_views = training.views
        yield from fill_cache(train_cache, network, train_tiles, intensity, n_views, "Computing features")
        yield from fill_cache(holdout_cache, network, holdout_tiles, intensity, 1, "Computing held-out features")
        if train_cache.n_bytes_on_disk:
            yield from or_stop(Message(f"{train_cache.n_bytes_on_disk / 1e9:.1f} GB of features are kept on disk"))
        if model.border == "hold":
            train_cache.hold_border(network.strides)
            holdout_cache.hold_border(network.strides)
        if start is None:
            yield from _fit_norm(network, train_cache)
        if start is None and model.border == "auto":
            excess = _border_excess(network, train_cache)
            model = model.replace(border="keep" if excess <= _STRANGE_BORDER else "hold")
            network.config = model
            if model.border == "hold":
                train_cache.hold_border(network.strides)
                holdout_cache.hold_border(network.strides)
                yield from _fit_norm(network, train_cache, "Fitting the feature normalisation without the border")
            if excess > _STRANGE_BORDER:
                yield from or_stop(
                    Message(
                        f"the corners of the normal pictures look strange ({excess:.1f} spreads above the inside): "
                        f"what lies at the border is judged by what is further in"
                    )
                )
        has_calibration = _n_positions(holdout_tiles or train_tiles, network) >= FEWEST_POSITIONS
        if not has_calibration:
            yield from or_stop(Message(_TOO_FEW_POSITIONS, warning=True))

        def model_so_far(history: Sequence[dict[str, float]], outcome: str) -> TrainedModel:
            provenance = _provenance(regions, train_tiles, holdout_tiles, start)
            provenance |= {"outcome": outcome, "backbone_weights": source, "device": str(torch_device)}
            state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
            return TrainedModel(model, training, intensity, state, None, tuple(history), provenance)

        history, outcome = yield from _optimise(
            network, train_cache, holdout_cache, training, rng, model_so_far, has_new=has_new
        )

    calibration: Calibration | None = None
    if has_calibration:
        # Not to be stopped: it takes a moment, and a run that was stopped keeps a model that is as good as it can be.
        try:
            calibration = yield from _to_the_end(calibrate_steps(network, intensity, holdout_tiles or train_tiles))
        except TooFewPositionsError:  # a model without it is worth more than none
            yield from _to_the_end(or_stop(Message(_TOO_FEW_POSITIONS, warning=True)))
        if calibration is not None and not holdout_tiles:  # tested on what it was trained on, nothing can be promised
            calibration = replace(calibration, offset=ConformalOffset(), observed=())
    return replace(model_so_far(history, outcome), calibration=calibration)


def _places_on_gpu(device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the caches of training and held-out tiles get of a GPU's memory; nothing where there is none."""
    if device.type != "cuda":
        return {}, {}
    room = memory_for_tiles(device)
    return {"device": device, "device_limit": 0.8 * room}, {"device": device, "device_limit": 0.2 * room}


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


def _config_to_go_on(model: ModelConfig, start: TrainedModel, n_channels: int) -> ModelConfig:
    """Return the configuration of a model whose training goes on; refuse another one."""
    if n_channels != start.n_channels:
        raise ImageError(
            f"the pictures have {n_channels} channels, but the model was trained on {start.n_channels}; choose the "
            f"channels it was trained on ('Channels' under Advanced, or --channels)"
        )
    if model.border == "auto":
        model = model.replace(border=start.config.border)
    if model != start.config:
        mine, its = model.to_dict(), start.config.to_dict()
        other = ", ".join(f"{key} {its[key]} (not {mine[key]})" for key in mine if mine[key] != its[key])
        raise ConfigError(f"training can go on only with what the model is made of: {other}; or train a new model")
    return model


def _provenance(
    regions: Sequence[NormalRegion],
    train_tiles: Sequence[TrainingTile],
    holdout_tiles: Sequence[TrainingTile],
    start: TrainedModel | None,
) -> dict[str, Any]:
    """Say what a model was trained on, when, and with which versions."""
    planes = [region.plane for region in dict.fromkeys(regions)]
    fields = {tile.region.field for tile in train_tiles if not tile.region.is_taught}
    before: dict[str, Any] = {}
    if start is not None:
        # How a refinement of a refinement is measured out: by the training that it all began with.
        before["first_training"] = start.provenance.get("first_training", start.training.to_dict())
        fields |= set(start.provenance.get("fields", ()))
        steps = [point["step"] for point in start.history]
        before["started_from"] = {
            "date": start.provenance.get("date"),
            "steps": int(max(steps, default=0)),
            "started_from": start.provenance.get("started_from"),
        }
    return before | {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "n_pictures": len(planes),
        "pictures": [plane.title for plane in planes][:1000],
        "fields": sorted(fields),
        "holdout_fields": sorted({tile.region.field for tile in holdout_tiles}),
        "n_tiles": len(train_tiles),
        "n_taught": sum(region.is_taught for region in dict.fromkeys(regions)),
        "n_holdout_tiles": len(holdout_tiles),
        "pixel_size": next((plane.pixel_size for plane in planes if plane.pixel_size), None),
        "unit": next((plane.unit for plane in planes if plane.unit), None),
        "versions": {
            "napari-uflow": __version__,
            "torch": torch.__version__,
            "timm": version("timm"),
            "FrEIA": version("FrEIA"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


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
    """Return how much stranger the pictures' corners look than their inside, on the level where it is most.

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


def _batches(
    cache: FeatureCache, indices: Iterable[int], device: torch.device, batch_size: int
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield tiles as stacks of the same shape, each of at most `batch_size` tiles."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_shape.setdefault(cache[index].shape, []).append(index)
    for group in by_shape.values():
        for first in range(0, len(group), batch_size):
            tiles = [cache[index] for index in group[first : first + batch_size]]
            n_levels = len(tiles[0].features)
            features = [_sent([t.features[i] for t in tiles], device).float() for i in range(n_levels)]
            normal = [_sent([t.is_normal[i] for t in tiles], device) for i in range(n_levels)]
            yield features, normal


def _sent(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return tensors of one shape as a stack on a device; from pinned memory to a GPU, which need not be waited for."""
    if device.type != "cuda":
        return torch.stack(list(tensors)).to(device)
    if all(x.is_cuda for x in tensors):
        return torch.stack(list(tensors))
    return torch.stack([x.cpu() for x in tensors]).pin_memory().to(device, non_blocking=True)


def _optimise(
    network: UFlow,
    train_cache: FeatureCache,
    holdout_cache: FeatureCache,
    training: TrainingConfig,
    rng: np.random.Generator,
    model_so_far: Callable[[Sequence[dict[str, float]], str], TrainedModel],
    *,
    has_new: bool = False,
) -> Steps[tuple[tuple[dict[str, float], ...], str]]:
    """Train the flow on cached features; leave the network with its best weights.

    The weights it begins with are among those to choose from: of an untrained flow they make a normal distribution of
    the features, which is the best that some pictures are enough for. With `has_new` there is something that has to be
    learned even if it makes what was held out a little less likely.
    """
    device = network.device
    parameters = [p for p in network.flow.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, training.final_learning_rate or 1e-8, training.steps)
    order = _endless_order(len(train_cache), rng)
    history: list[dict[str, float]] = []
    best_state: dict[str, Tensor] | None = None
    best_loss = math.inf
    looks_since_best = 0
    bad_steps = 0
    losses: list[float] = []
    outcome = "done"
    phase = "Training"
    at_once = training.batch_size
    first_loss, _ = _look(network, holdout_cache, device, at_once)
    first_state = {key: value.detach().clone() for key, value in network.flow.state_dict().items()}
    if math.isfinite(first_loss) and not has_new:
        best_loss, best_state = first_loss, first_state
    last_snapshot = time.monotonic()

    for step in range(1, training.steps + 1):
        indices = [next(order) for _ in range(min(training.batch_size, len(train_cache)))]
        n_dims = sum(
            int(normal.sum()) * channels
            for index in indices
            for normal, channels in zip(train_cache[index].is_normal, network.flow.latent_channels, strict=True)
        )
        while True:
            optimiser.zero_grad(set_to_none=True)
            try:
                total = _gradients(network, train_cache, indices, device, at_once, n_dims)
                break
            except (RuntimeError, MemoryError) as error:
                if at_once == 1 or not is_out_of_memory(error):
                    raise
            # Behind the handler: the error holds on to what did not fit.
            optimiser.zero_grad(set_to_none=True)
            free_memory(device)
            at_once = -(-at_once // 2)
            yield Message(
                f"there is not enough memory for a batch at once: its tiles go through the flow {at_once} at a time, "
                f"which takes longer and gives the same model",
                warning=True,
            )
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            optimiser.step()
            decay.step()
            losses.append(total)
            bad_steps = 0
        else:
            bad_steps += 1
            if bad_steps == _MAX_BAD_STEPS:
                yield Message("the loss is no longer finite; training ends with the best model so far", warning=True)
                outcome = "stopped: the loss was no longer finite"
        answer = yield Progress(phase, step, training.steps)
        is_look = step % training.check_every == 0 or step == training.steps
        if answer is FINISH and history and not is_look:
            # What was learned since the last look is let go: an answer at once is worth more.
            outcome = f"stopped at step {step}"
            break
        finish = answer is FINISH or bad_steps == _MAX_BAD_STEPS
        if not (finish or is_look):
            continue

        holdout_loss, holdout_energy = _look(network, holdout_cache, device, at_once)
        train_loss = float(np.mean(losses)) if losses else math.nan
        losses.clear()
        watched = holdout_loss if len(holdout_cache) else train_loss
        is_best = watched < best_loss
        if is_best:
            best_loss, looks_since_best = watched, 0
            best_state = {key: value.detach().clone() for key, value in network.flow.state_dict().items()}
        else:
            looks_since_best += 1
        point = TrainingPoint(step, train_loss, holdout_loss, holdout_energy, is_best)
        history.append(asdict(point))
        if answer is not FINISH:
            answer = yield point
        if is_best and answer is not FINISH and time.monotonic() - last_snapshot > _SECONDS_BETWEEN_SNAPSHOTS:
            last_snapshot = time.monotonic()
            answer = yield Snapshot(model_so_far(history, f"interrupted after step {step}"))
        if answer is FINISH and not outcome.startswith("stopped"):
            outcome = f"stopped at step {step}"
        if outcome.startswith("stopped"):
            break
        if looks_since_best >= training.patience:
            outcome = f"done: no better held-out loss after step {step - looks_since_best * training.check_every}"
            break

    if best_state is None:
        raise ImageError(
            "training failed: the loss was never finite; lower the learning rate, or look for pixels that are not "
            "really normal"
        )
    if best_loss > first_loss + _WORSE_BY:
        best_state = first_state
    if best_state is first_state and not outcome.startswith("stopped"):
        outcome = "done: nothing was learned that holds for what was held out"
        yield Message(_NOTHING_LEARNED, warning=True)
    network.flow.load_state_dict(best_state)
    return tuple(history), outcome


def _gradients(
    network: UFlow, cache: FeatureCache, indices: Sequence[int], device: torch.device, at_once: int, n_dims: int
) -> float:
    """Add up the gradients of a batch, so many tiles at once, and return its loss per dimension."""
    total = 0.0
    for features, normal in _batches(cache, indices, device, at_once):
        with torch.enable_grad():
            latents = network.latents(features)
            loss, _ = negative_log_likelihood(latents.z, latents.ln_det, normal)
            (loss / max(n_dims, 1)).backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach()) / max(n_dims, 1)
    return total


def _endless_order(n: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(n))


@torch.no_grad()
def _look(network: UFlow, cache: FeatureCache, device: torch.device, batch_size: int) -> tuple[float, float]:
    """Return the held-out loss per dimension and the worst level's high quantile of the held-out energies."""
    if not len(cache):
        return math.nan, math.nan
    total, n_dims = 0.0, 0
    energies: list[list[Tensor]] = [[] for _ in network.strides]
    for features, normal in _batches(cache, range(len(cache)), device, batch_size):
        latents = network.latents(features)
        loss, n = negative_log_likelihood(latents.z, latents.ln_det, normal)
        total += float(loss)
        n_dims += int(n)
        for i, z in enumerate(latents.z):
            energies[i].append(energy(z)[normal[i]].flatten())
    values = [torch.cat(e).cpu().numpy() for e in energies]
    quantiles = [float(np.quantile(e, _WATCHED_QUANTILE)) for e in values if len(e)]
    return total / max(n_dims, 1), max(quantiles, default=math.nan)


def calibrate_steps(network: UFlow, intensity: IntensityRange, tiles: Sequence[TrainingTile]) -> Steps[Calibration]:
    """Find out what the network says of normal pictures, best of pictures that were held out.

    Parameters
    ----------
    network : UFlow
        Trained, in evaluation mode.
    intensity : IntensityRange
        Brightness range of the model.
    tiles : sequence of TrainingTile
        Each of their pictures is looked at where its tiles lie, up to 2048 pixels a side and 32 million in all.
    """
    network.eval()
    device = network.device
    windows = _calibration_windows(tiles, max(network.strides))
    phase = "Looking at held-out pictures"
    pictures: list[CalibrationPicture] = []
    strides: tuple[int, ...] = ()
    for done, (region, window) in enumerate(windows):
        yield Progress(phase, done, len(windows))
        tile = network.tile_that_fits(window.shape, memory_for_tiles(device))
        evidence = yield from evidence_steps(network, intensity, region.plane, window=window, tile=tile, phase=None)
        evidence = evidence.only(region.normal(window))
        strides = evidence.tested_strides
        pictures.append(CalibrationPicture(region.field, evidence.tested))
    yield Progress(phase, len(windows), len(windows))
    return (yield from Calibration.fit_steps(pictures, strides))


def _calibration_windows(tiles: Sequence[TrainingTile], align: int) -> list[tuple[NormalRegion, Window]]:
    """Choose what to look at in the pictures of the tiles: fields in turn, as far as the pixels go."""
    by_field: dict[str, list[tuple[NormalRegion, Window]]] = {}
    for region in regions_of(tiles):
        hull = Window.around(tile.window for tile in tiles if tile.region is region)
        hull = hull.clipped(region.plane.shape)
        side = _CALIBRATION_SIDE // align * align
        row = hull.row + max(0, hull.height - side) // 2 // align * align
        col = hull.col + max(0, hull.width - side) // 2 // align * align
        window = Window(row, col, min(side, hull.stop_row - row), min(side, hull.stop_col - col))
        by_field.setdefault(region.field, []).append((region, window))
    chosen: list[tuple[NormalRegion, Window]] = []
    n_pixels = 0
    for turn in zip_longest(*by_field.values()):
        for item in turn:
            if item is not None and (n_pixels < _CALIBRATION_PIXELS or len(chosen) < len(by_field)):
                chosen.append(item)
                n_pixels += item[1].height * item[1].width
    return chosen


def _n_positions(tiles: Sequence[TrainingTile], network: UFlow) -> int:
    """Count the normal positions of the coarsest level that a calibration would see."""
    stride = max(network.strides)
    n = 0
    for region, window in _calibration_windows(tiles, stride):
        rows, cols = (-(-size // stride) * stride for size in window.shape)
        normal = all_in_cells(region.normal(Window(window.row, window.col, rows, cols)), stride)
        n += int(hold_mask(normal, network.held_frame(window, region.plane.shape), stride).sum())
        if n >= FEWEST_POSITIONS:
            break
    return n


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
