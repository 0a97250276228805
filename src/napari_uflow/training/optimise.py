"""The optimisation of the flow on cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.model.energy import energy, negative_log_likelihood
from napari_uflow.model.record import OutcomeKind, TrainingOutcome
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Message, Progress, Snapshot, Steps, TrainingPoint
from napari_uflow.system.devices import free_memory, is_out_of_memory
from napari_uflow.training.cache import FeatureCache

__all__ = ["optimise"]

# Held-out energies are watched at this quantile: held-out latents explode at single positions when overtrained.
_WATCHED_QUANTILE = 0.999


# A step whose loss or gradient is not finite is left out; after so many in a row training has failed for good.
_MAX_BAD_STEPS = 20


_NOTHING_LEARNED = (
    "what was learned from the training tiles does not hold for those that were held out: the model is the one the "
    "training began with; add normal images, or mark more as normal"
)


# A model that goes on with something new may lose this much of its held-out likelihood for it (nats per dimension).
_WORSE_BY = 0.02


# A run that is shorter than this can be done again.
_SECONDS_BETWEEN_SNAPSHOTS = 60.0


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


def optimise(
    network: UFlow,
    train_cache: FeatureCache,
    holdout_cache: FeatureCache,
    training: TrainingConfig,
    rng: np.random.Generator,
    model_so_far: Callable[[Sequence[dict[str, float]], TrainingOutcome], TrainedModel],
    *,
    has_new: bool = False,
) -> Steps[tuple[tuple[dict[str, float], ...], TrainingOutcome]]:
    """Train the flow on cached features; leave the network with its best weights.

    The weights it begins with are among those to choose from: of an untrained flow they make a normal distribution of
    the features, which is the best that some images are enough for. With `has_new` there is something that has to be
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
    outcome: TrainingOutcome | None = None
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
                outcome = TrainingOutcome(OutcomeKind.NOT_FINITE)
        answer = yield Progress(phase, step, training.steps)
        is_look = step % training.check_every == 0 or step == training.steps
        if answer is FINISH and history and not is_look:
            # What was learned since the last look is let go: an answer at once is worth more.
            outcome = TrainingOutcome(OutcomeKind.STOPPED, step)
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
            answer = yield Snapshot(model_so_far(history, TrainingOutcome(OutcomeKind.INTERRUPTED, step)))
        if answer is FINISH and outcome is None:
            outcome = TrainingOutcome(OutcomeKind.STOPPED, step)
        if outcome is not None:
            break
        if looks_since_best >= training.patience:
            best_step = step - looks_since_best * training.check_every
            outcome = TrainingOutcome(OutcomeKind.CONVERGED, best_step)
            break

    if best_state is None:
        raise ImageError(
            "training failed: the loss was never finite; lower the learning rate, or look for pixels that are not "
            "really normal"
        )
    if best_loss > first_loss + _WORSE_BY:
        best_state = first_state
    outcome = outcome or TrainingOutcome(OutcomeKind.DONE)
    if best_state is first_state and outcome.is_complete:
        outcome = TrainingOutcome(OutcomeKind.NOTHING_LEARNED)
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
