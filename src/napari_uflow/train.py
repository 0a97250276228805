"""Training: from normal regions to a model."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.devices import choose_device
from napari_uflow.errors import ImageError, Stopped
from napari_uflow.image import IntensityRange, NormalRegion, Window, common_channels, hold_out_fields, sample_windows
from napari_uflow.model.backbone import load_pretrained
from napari_uflow.model.cache import FeatureCache
from napari_uflow.model.energy import energy, negative_log_likelihood
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.calibration import EnergyTail
from napari_uflow.progress import FINISH, Event, Message, Progress, Steps, TrainingPoint, drain

__all__ = ["train", "train_steps"]

# Held-out energies are watched at this quantile: held-out latents explode at single positions when overtrained.
_WATCHED_QUANTILE = 0.999
# A step whose loss or gradient is not finite is left out; after so many in a row training has failed for good.
_MAX_BAD_STEPS = 20
# Tiles of one picture are read together up to this many pixels a side.
_LARGEST_TOGETHER = 1536
# Positions of a level needed to describe the tail of their energies.
_FEWEST_VALUES = 200


@dataclass(frozen=True, slots=True)
class _TrainingTile:
    region: NormalRegion
    window: Window


def train(
    regions: Sequence[NormalRegion],
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    on_event: Callable[[Event], None] | None = None,
) -> TrainedModel:
    """Train a model on normal regions and return it.

    Parameters are those of :func:`train_steps`; `on_event` is called with every event.
    """
    steps = train_steps(regions, model or ModelConfig(), training or TrainingConfig(), weights=weights, device=device)
    return drain(steps, on_event)


def train_steps(
    regions: Sequence[NormalRegion],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
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

    Yields
    ------
    Message, Progress or TrainingPoint
        FINISH may be sent at any of them: training then ends with the best model so far.

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
    network = UFlow(model, n_channels, training.seed)
    yield from _or_stop(Message(f"Loading the backbone {model.backbone}"))
    source = load_pretrained(network.backbone, weights)
    network.to(torch_device).eval()

    train_tiles, holdout_tiles = _split(regions, network, training, rng)
    fields = {tile.region.field for tile in train_tiles}
    holdout_fields = {tile.region.field for tile in holdout_tiles}
    yield from _or_stop(
        Message(
            f"{len(train_tiles)} tiles from {len(fields)} field{'s' * (len(fields) != 1)} to train on, "
            f"{len(holdout_tiles)} from {len(holdout_fields)} held out"
        )
    )
    if not holdout_tiles:
        yield from _or_stop(
            Message(
                "nothing could be held out: the best step and the false-alarm scale are taken from the training "
                "pictures themselves and will be too optimistic; add pictures of other fields",
                warning=True,
            )
        )
    elif fields & holdout_fields:
        yield from _or_stop(
            Message(
                "all pictures come from one field: a part of it is held out, which hides differences between fields; "
                "add pictures of other fields",
                warning=True,
            )
        )
    intensity = IntensityRange.fit(_regions(train_tiles), rng=rng)

    limit = training.cache_memory * 1e9
    with FeatureCache(limit) as train_cache, FeatureCache(limit / 4) as holdout_cache:
        n_views = training.views
        yield from _fill(train_cache, network, train_tiles, intensity, n_views, "Computing features")
        yield from _fill(holdout_cache, network, holdout_tiles, intensity, 1, "Computing held-out features")
        if train_cache.n_bytes_on_disk:
            yield from _or_stop(Message(f"{train_cache.n_bytes_on_disk / 1e9:.1f} GB of features are kept on disk"))
        for level in range(len(network.strides)):
            yield from _or_stop(Progress("Fitting the feature normalisation", level, len(network.strides)))
            network.norm.fit(level, lambda level=level: _samples(train_cache, level))  # type: ignore[misc]
        yield from _or_stop(Progress("Fitting the feature normalisation", len(network.strides), len(network.strides)))
        history, outcome = yield from _optimise(network, train_cache, holdout_cache, training, rng)
        calibration = _energy_tails(network, holdout_cache if len(holdout_cache) else train_cache)

    planes = [region.plane for region in regions]
    provenance = {
        "outcome": outcome,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "backbone_weights": source,
        "n_pictures": len(regions),
        "pictures": [plane.title for plane in planes][:1000],
        "fields": sorted(fields),
        "holdout_fields": sorted(holdout_fields),
        "n_tiles": len(train_tiles),
        "n_holdout_tiles": len(holdout_tiles),
        "pixel_size": next((plane.pixel_size for plane in planes if plane.pixel_size), None),
        "unit": next((plane.unit for plane in planes if plane.unit), None),
        "device": str(torch_device),
        "versions": {
            "napari-uflow": version("napari-uflow"),
            "torch": torch.__version__,
            "timm": version("timm"),
            "FrEIA": version("FrEIA"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
    return TrainedModel(model, training, intensity, state, calibration, history, provenance)


def _or_stop(event: Event) -> Steps[None]:
    """Yield an event before there is anything to keep."""
    if (yield event) is FINISH:
        raise Stopped("stopped before training had begun")


def _regions(tiles: Sequence[_TrainingTile]) -> list[NormalRegion]:
    unique = {id(tile.region): tile.region for tile in tiles}
    return list(unique.values())


def _split(
    regions: Sequence[NormalRegion], network: UFlow, training: TrainingConfig, rng: np.random.Generator
) -> tuple[list[_TrainingTile], list[_TrainingTile]]:
    """Choose the tiles to train on and those held out, by field; of a single field, by place."""
    names = [region.field for region in regions]
    held_out = hold_out_fields(names, training.holdout, training.seed)
    tiles: list[_TrainingTile] = []
    for region in regions:
        windows = sample_windows(region, network.tile, align=max(network.strides), min_normal=training.min_normal)
        tiles += [_TrainingTile(region, window) for window in windows]
    if not tiles:
        raise ImageError(
            f"no tile of {network.tile} x {network.tile} pixels has at least {training.min_normal:.0%} normal pixels: "
            f"mark more as normal, or lower min_normal or the tile size"
        )
    train_tiles = [tile for tile in tiles if tile.region.field not in held_out]
    holdout_tiles = [tile for tile in tiles if tile.region.field in held_out]
    if not train_tiles:  # the fields left have no tile that is normal enough
        train_tiles, holdout_tiles = tiles, []
    if not holdout_tiles and training.holdout > 0:
        train_tiles, holdout_tiles = _split_by_place(tiles, training.holdout)
    if len(train_tiles) > training.max_tiles:
        chosen = np.sort(rng.choice(len(train_tiles), training.max_tiles, replace=False))
        train_tiles = [train_tiles[i] for i in chosen]
    most = max(1, math.ceil(training.max_tiles * training.holdout))
    if len(holdout_tiles) > most:
        chosen = np.sort(rng.choice(len(holdout_tiles), most, replace=False))
        holdout_tiles = [holdout_tiles[i] for i in chosen]
    return train_tiles, holdout_tiles


def _split_by_place(tiles: Sequence[_TrainingTile], fraction: float) -> tuple[list[_TrainingTile], list[_TrainingTile]]:
    """Hold out the last tiles of each picture; what overlaps with one of them is not used at all."""
    by_region: dict[int, list[_TrainingTile]] = {}
    for tile in tiles:
        by_region.setdefault(id(tile.region), []).append(tile)
    kept: list[_TrainingTile] = []
    held: list[_TrainingTile] = []
    for group in by_region.values():
        n_held = round(len(group) * fraction) if len(group) > 2 else 0
        last = group[len(group) - n_held :]
        held += last
        kept += [tile for tile in group[: len(group) - n_held] if not any(_overlap(tile, other) for other in last)]
    if not kept or not held:
        return list(tiles), []
    return kept, held


def _overlap(a: _TrainingTile, b: _TrainingTile) -> bool:
    return (
        a.window.row < b.window.stop_row
        and b.window.row < a.window.stop_row
        and a.window.col < b.window.stop_col
        and b.window.col < a.window.stop_col
    )


def _viewed(x: Tensor, view: int) -> Tensor:
    """Return one of the eight turned and mirrored copies of (..., M, N); views 0 to 3 keep the shape."""
    if view & 1:
        x = x.flip(-1)
    if view & 2:
        x = x.flip(-2)
    return x.transpose(-2, -1) if view & 4 else x


def _fill(
    cache: FeatureCache,
    network: UFlow,
    tiles: Sequence[_TrainingTile],
    intensity: IntensityRange,
    n_views: int,
    phase: str,
) -> Steps[None]:
    """Compute the features of all views of the tiles; the frozen backbone sees each view of a picture once."""
    device = next(network.flow.parameters()).device
    done, total = 0, len(tiles) * n_views
    for region, windows in _read_together(tiles, network):
        outer = _hull([network.reading_window(window, region.plane.shape) for window in windows])
        values, is_normal = region.read(outer)
        picture = torch.from_numpy(intensity.apply(values))
        normal = torch.from_numpy(is_normal)
        for view in range(n_views):
            yield from _or_stop(Progress(phase, done, total))
            levels = network.features(_viewed(picture, view)[None].to(device))
            turned_normal = _viewed(normal, view)
            for window in windows:
                inner = _viewed_window(window.shifted(-outer.row, -outer.col), outer.shape, view)
                cache.add(
                    [
                        x[0, :, inner.row // s : inner.stop_row // s, inner.col // s : inner.stop_col // s]
                        for x, s in zip(levels, network.strides, strict=True)
                    ],
                    [_all_in_cells(turned_normal[inner.slices()], s) for s in network.strides],
                )
            done += len(windows)
    yield from _or_stop(Progress(phase, total, total))


def _read_together(tiles: Sequence[_TrainingTile], network: UFlow) -> Iterator[tuple[NormalRegion, list[Window]]]:
    """Group tiles whose surroundings overlap so much that reading them together is less work."""
    by_region: dict[int, list[_TrainingTile]] = {}
    for tile in tiles:
        by_region.setdefault(id(tile.region), []).append(tile)
    for group in by_region.values():
        region, windows = group[0].region, [tile.window for tile in group]
        outers = [network.reading_window(window, region.plane.shape) for window in windows]
        hull = _hull(outers)
        n_pixels = sum(outer.height * outer.width for outer in outers)
        is_together = network.backbone.fixed_size is None and max(hull.shape) <= _LARGEST_TOGETHER
        if is_together and hull.height * hull.width <= n_pixels:
            yield region, windows
        else:
            yield from ((region, [window]) for window in windows)


def _hull(windows: Sequence[Window]) -> Window:
    """Return the smallest window around windows."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.stop_row for w in windows) - row, max(w.stop_col for w in windows) - col)


def _viewed_window(window: Window, shape: tuple[int, int], view: int) -> Window:
    """Return where a window of a picture of this shape lies in a view of it."""
    row, col, height, width = window.row, window.col, window.height, window.width
    if view & 1:
        col = shape[1] - window.stop_col
    if view & 2:
        row = shape[0] - window.stop_row
    return Window(col, row, width, height) if view & 4 else Window(row, col, height, width)


def _all_in_cells(mask: Tensor, stride: int) -> Tensor:
    """Return where all pixels of a stride x stride cell are set; (M, N) to (M / stride, N / stride) bool."""
    m, n = mask.shape
    return mask.reshape(m // stride, stride, n // stride, stride).all(dim=3).all(dim=1)


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
            features = [torch.stack([t.features[i] for t in tiles]).to(device).float() for i in range(n_levels)]
            normal = [torch.stack([t.is_normal[i] for t in tiles]).to(device) for i in range(n_levels)]
            yield features, normal


def _optimise(
    network: UFlow,
    train_cache: FeatureCache,
    holdout_cache: FeatureCache,
    training: TrainingConfig,
    rng: np.random.Generator,
) -> Steps[tuple[tuple[dict[str, float], ...], str]]:
    """Train the flow on cached features; leave the network with its best weights."""
    device = next(network.flow.parameters()).device
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

    for step in range(1, training.steps + 1):
        indices = [next(order) for _ in range(min(training.batch_size, len(train_cache)))]
        n_dims = sum(
            int(normal.sum()) * channels
            for index in indices
            for normal, channels in zip(train_cache[index].is_normal, network.flow.latent_channels, strict=True)
        )
        optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for features, normal in _batches(train_cache, indices, device, training.batch_size):
            with torch.enable_grad():
                latents = network.latents(features)
                loss, _ = negative_log_likelihood(latents.z, latents.ln_det, normal)
                (loss / max(n_dims, 1)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / max(n_dims, 1)
        norm = torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        if math.isfinite(total) and bool(torch.isfinite(norm)):
            optimiser.step()
            losses.append(total)
            bad_steps = 0
        else:
            bad_steps += 1
            if bad_steps == _MAX_BAD_STEPS:
                yield Message("the loss is no longer finite; training ends with the best model so far", warning=True)
                outcome = "stopped: the loss was no longer finite"
        decay.step()
        answer = yield Progress(phase, step, training.steps)
        finish = answer is FINISH or bad_steps == _MAX_BAD_STEPS
        if not (finish or step % training.check_every == 0 or step == training.steps):
            continue

        holdout_loss, holdout_energy = _look(network, holdout_cache, device, training.batch_size)
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
    network.flow.load_state_dict(best_state)
    return tuple(history), outcome


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
    quantiles = [float(np.quantile(torch.cat(e).cpu().numpy(), _WATCHED_QUANTILE)) for e in energies if len(e)]
    return total / max(n_dims, 1), max(quantiles)


@torch.no_grad()
def _energy_tails(network: UFlow, cache: FeatureCache) -> dict[str, object]:
    """Describe the energies of normal tiles, best of tiles that were held out; nothing where there are too few."""
    device = next(network.flow.parameters()).device
    maps: list[list[NDArray[np.float32]]] = [[] for _ in network.strides]
    for features, normal in _batches(cache, range(len(cache)), device, 1):
        for level, z in enumerate(network.latents(features).z):
            values = energy(z)
            values[~normal[level]] = torch.nan
            maps[level] += list(values.cpu().numpy())
    if any(sum(int(np.isfinite(m).sum()) for m in level) < _FEWEST_VALUES for level in maps):
        return {}
    return {"energy_tails": [EnergyTail.fit(level).to_dict() for level in maps]}
