"""The optimisation of the flow on cached features."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from napari_uflow.config import TrainingConfig
from napari_uflow.errors import ImageError
from napari_uflow.model.energy import energy, negative_log_likelihood
from napari_uflow.model.record import OutcomeKind, TrainingOutcome
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Finish, Message, Progress, Snapshot, Steps, TrainingPoint, or_stop
from napari_uflow.system.devices import free_memory, is_out_of_memory
from napari_uflow.training.cache import CachedTile, TileLists, Tiles, TileSets
from napari_uflow.training.merit import Maxima
from napari_uflow.training.planted import PlantedFeatures
from napari_uflow.wording import counted

__all__ = ["BestStep", "History", "n_done", "optimise", "repeat_steps"]

History: TypeAlias = "tuple[dict[str, float], ...]"
"""The losses of a training, one dictionary of a TrainingPoint's values per check."""


@dataclass(frozen=True, slots=True)
class Optimised:
    """The end of an optimisation.

    Attributes
    ----------
    history : tuple of dict
        Values of a TrainingPoint at each check.
    outcome : TrainingOutcome
        How it ended.
    best_step : int
        Step whose weights were kept; 0 for the initial ones.
    """

    history: History = ()
    outcome: TrainingOutcome = TrainingOutcome()
    best_step: int = 0


# Quantile of the held-out energies that is reported: overtrained latents explode at single positions.
_WATCHED_QUANTILE = 0.999
# A step whose loss or gradient is not finite changes nothing; this many in a row end the training.
_MAX_BAD_STEPS = 20
# Rise of the held-out loss, in nats per dimension, that a resumed model may trade for newly marked regions.
_LARGEST_RISE = 0.02
# A shorter training can be repeated.
_SECONDS_BETWEEN_SNAPSHOTS = 60.0

# States in memory from which the best is chosen.
_MOST_STATES = 8

_NOTHING_LEARNED = (
    "training did not improve the held-out loss; the initial model was kept: add normal images, or mark larger areas "
    "as normal"
)
_NOTHING_FOUND = (
    "training did not improve the detection of planted defects; the initial model was kept, which is the better one "
    "for some images"
)
_TOO_MUCH_LOST = (
    "the flow keeps its earlier weights: with those that learned the regions marked normal, the held-out images would "
    "become much less likely"
)


def optimise(
    network: UFlow,
    caches: TileSets,
    training: TrainingConfig,
    rng: np.random.Generator,
    model_so_far: Callable[[History, TrainingOutcome], TrainedModel],
    *,
    history: History = (),
    has_new: bool = False,
    planted: PlantedFeatures | None = None,
) -> Steps[Optimised]:
    """Train the flow on cached features; leave the network with its best weights.

    Without steps the flow stays as it is. The initial weights are candidates, too: an untrained flow on whitened
    features is a Gaussian model, the best that few images allow. The best weights are those of the lowest held-out
    loss; with planted defects, of the lowest held-out loss among those that find them best, see :class:`BestStep`.

    Parameters
    ----------
    network : UFlow
        Its flow is trained.
    caches : TileSets
        Features of the tiles.
    training : TrainingConfig
        Parameters of the optimisation.
    rng : Generator
        Draws the batches.
    model_so_far : callable
        Makes the model of a snapshot.
    history : tuple of dict
        Losses of the part that was done before an interruption; the steps after its last one are done. Adam's moments
        are lost; they recover within about ten steps.
    has_new : bool
        True for a resumed training with newly marked regions: these are learned even if the held-out loss rises a
        little.
    planted : PlantedFeatures, optional
        Features of planted defects, for joint levels.

    Raises
    ------
    ImageError
        If the loss was never finite.
    """
    if not training.steps:
        return Optimised()
    for point in history:  # a plot shows the whole training
        yield from or_stop(TrainingPoint(**point))  # type: ignore[arg-type]
    run = _Optimisation(network, caches, training, rng, history=history, keep_initial=not has_new, planted=planted)
    outcome = yield from _run(run, training, model_so_far)
    is_initial = run.restore_best()
    if is_initial and outcome.is_complete and not run.n_done_before:
        outcome = TrainingOutcome(OutcomeKind.NOTHING_LEARNED)
        if has_new:
            yield Message(_TOO_MUCH_LOST, warning=True)
        else:
            yield Message(_NOTHING_LEARNED, warning=True) if planted is None else Message(_NOTHING_FOUND)
    best = run.n_done_before if is_initial else run.best_step
    return Optimised(run.history, outcome, best or 0)


def repeat_steps(
    network: UFlow, tiles: Sequence[CachedTile], training: TrainingConfig, rng: np.random.Generator, n: int, phase: str
) -> Steps[None]:
    """Do some steps of a training on other tiles.

    Parameters
    ----------
    network : UFlow
        Its flow is trained.
    tiles : sequence of CachedTile
        Tiles to train on.
    training : TrainingConfig
        Parameters of the optimisation.
    rng : Generator
        Draws the batches.
    n : int
        Number of steps.
    phase : str
        Name of the phase in the progress events.

    Raises
    ------
    Stopped
        If it was asked to finish.
    """
    run = _Optimisation(network, TileLists(tiles), training, rng, keep_initial=False)
    for step in range(n):
        yield from or_stop(Progress(phase, step, n))
        yield from run.step()
    yield from or_stop(Progress(phase, n, n))


def _run(
    run: _Optimisation, training: TrainingConfig, model_so_far: Callable[[History, TrainingOutcome], TrainedModel]
) -> Steps[TrainingOutcome]:
    """Do the steps of an optimisation, with a check of the model now and then, until it ends."""
    first = run.n_done_before
    last_snapshot, saved_step = time.monotonic(), first or None
    for step in range(first + 1, training.steps + 1):
        yield from run.step()
        if run.has_failed:
            yield Message("the loss is no longer finite; training ends with the best model so far", warning=True)
        answer = yield Progress("Training", step, training.steps)
        is_due = step % training.check_every == 0 or step == training.steps
        if answer is FINISH and run.history and not is_due:
            # An immediate answer is worth more than the steps since the last check.
            return TrainingOutcome(OutcomeKind.STOPPED, step)
        if not (is_due or run.has_failed or answer is FINISH):
            continue
        point = run.check(step)
        if answer is not FINISH:
            answer = yield point
        has_news = run.best_step != saved_step and time.monotonic() - last_snapshot > _SECONDS_BETWEEN_SNAPSHOTS
        if has_news and answer is not FINISH:
            model = run.at_best(model_so_far)
            last_snapshot, saved_step = time.monotonic(), run.best_step
            answer = yield Snapshot(model)
        outcome = run.outcome_after(step, answer)
        if outcome is not None:
            return outcome
    return TrainingOutcome(OutcomeKind.DONE)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Weights of a step, with their loss and the maxima of their evidence on planted defects."""

    step: int
    loss: float
    maxima: Maxima | None
    state: dict[str, Tensor]

    @property
    def merit(self) -> float:
        """Figure of merit; 0 without planted defects."""
        return 0.0 if self.maxima is None else self.maxima.merit

    def is_as_good_as(self, other: _Candidate) -> bool:
        """Return True if it is worse on planted defects by no more than one standard error of the difference."""
        if self.maxima is None or other.maxima is None:
            return True
        return self.maxima.versus(other.maxima).is_within_error


class BestStep:
    """Choice among the steps of a training.

    The best one has the lowest loss among those within one standard error of the highest figure of merit on planted
    defects; without planted defects, the lowest loss.
    """

    def __init__(self) -> None:
        self._kept: list[_Candidate] = []

    def add(self, step: int, loss: float, state: dict[str, Tensor], maxima: Maxima | None = None) -> bool:
        """Add a candidate, return True if it is the best so far.

        Parameters
        ----------
        step : int
            Completed steps.
        loss : float
            Held-out loss; infinite if it is not known.
        state : dict of str to Tensor
            Weights, kept as they are.
        maxima : Maxima, optional
            Maxima of its evidence on planted defects.
        """
        new = _Candidate(step, loss, maxima, state)
        candidates = [*self._kept, new]
        highest = max(candidates, key=lambda candidate: candidate.merit)
        good = [candidate for candidate in candidates if candidate is highest or candidate.is_as_good_as(highest)]
        good.sort(key=lambda candidate: candidate.loss)
        others = [candidate for candidate in good if candidate is not highest][: _MOST_STATES - 1]
        # The highest merit stays: otherwise steps could be chosen that are each a little worse than the one before.
        self._kept = [candidate for candidate in good if candidate is highest or candidate in others]
        return self._kept[0] is new

    @property
    def best(self) -> _Candidate | None:
        """The best candidate so far; None without any."""
        return self._kept[0] if self._kept else None


class _Optimisation:
    """Adam on cached features, with the best weights so far.

    Parameters
    ----------
    network, caches, training, rng
        As for :func:`optimise`.
    history : tuple of dict
        As for :func:`optimise`.
    keep_initial : bool
        The initial weights are a candidate, too.
    planted : PlantedFeatures or None
        As for :func:`optimise`.

    Attributes
    ----------
    history : tuple of dict
        Values of a TrainingPoint at each check.
    n_done_before : int
        Steps that were done before an interruption.
    """

    def __init__(
        self,
        network: UFlow,
        caches: TileSets,
        training: TrainingConfig,
        rng: np.random.Generator,
        *,
        history: History = (),
        keep_initial: bool,
        planted: PlantedFeatures | None = None,
    ):
        self._network, self._caches, self._training = network, caches, training
        self._parameters = [p for p in network.flow.parameters() if p.requires_grad]
        self.history, self.n_done_before = history, n_done(history, training)
        # The rate falls along a straight line over the whole training.
        now = 1 + (training.final_learning_rate - 1) * self.n_done_before / training.steps
        self._optimiser = torch.optim.Adam(
            self._parameters, lr=max(training.learning_rate * now, 1e-7), weight_decay=training.weight_decay
        )
        self._decay = torch.optim.lr_scheduler.LinearLR(
            self._optimiser, 1.0, training.final_learning_rate / now or 1e-8, training.steps - self.n_done_before
        )
        self._order = _endless_order(len(caches.train), rng)
        self._n_together = training.batch_size  # tiles that pass the flow together
        self._losses: list[float] = []  # of the steps since the last check
        self._n_bad_steps = 0
        self._n_checks_in_vain = 0
        self._lowest_loss = math.inf
        self._initial_loss, _ = _held_out(network, caches.holdout, self._n_together)
        self._initial_state = self._state()
        self._planted, self._is_initial_kept = planted, keep_initial
        self._steps = BestStep()
        if keep_initial and (planted is not None or math.isfinite(self._initial_loss)):
            loss = self._initial_loss if math.isfinite(self._initial_loss) else math.inf
            self._steps.add(self.n_done_before, loss, self._initial_state, self._maxima())
            self._lowest_loss = loss

    @property
    def has_failed(self) -> bool:
        """Too many steps in a row had a loss or gradient that is not finite."""
        return self._n_bad_steps >= _MAX_BAD_STEPS

    def step(self) -> Steps[None]:
        """Do one optimiser step; leave the weights as they are if the loss or the gradient is not finite."""
        loss = yield from self._gradients_that_fit()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._training.gradient_clip)
        if math.isfinite(loss) and bool(torch.isfinite(norm)):
            self._optimiser.step()
            self._decay.step()
            self._losses.append(loss)
            self._n_bad_steps = 0
        else:
            self._n_bad_steps += 1

    def _gradients_that_fit(self) -> Steps[float]:
        """Compute the gradients of the next batch, of fewer tiles together as long as memory is short.

        Returns
        -------
        float
            Loss in nats per latent dimension.
        """
        n_tiles = min(self._training.batch_size, len(self._caches.train))
        indices = [next(self._order) for _ in range(n_tiles)]
        while True:
            self._optimiser.zero_grad(set_to_none=True)
            try:
                return self._gradients(indices)
            except (RuntimeError, MemoryError) as error:
                if self._n_together == 1 or not is_out_of_memory(error):
                    raise
            # After the handler: the error refers to the tensors that did not fit.
            self._optimiser.zero_grad(set_to_none=True)
            free_memory(self._network.device)
            self._n_together = -(-self._n_together // 2)
            yield Message(
                f"not enough memory for a whole batch: the flow now processes {counted(self._n_together, 'tile')} at "
                f"a time, which is slower and gives the same model",
                warning=True,
            )

    def _gradients(self, indices: Sequence[int]) -> float:
        """Sum the gradients of a batch and return its loss in nats per latent dimension."""
        cache, channels = self._caches.train, self._network.flow.latent_channels
        n_dims = sum(
            int(normal.sum()) * n
            for index in indices
            for normal, n in zip(cache[index].is_normal, channels, strict=True)
        )
        total = 0.0
        for features, normal in _batches(self._network, cache, indices, self._n_together):
            with torch.enable_grad():
                latents = self._network.latents(features)
                loss, _ = negative_log_likelihood(latents.z, latents.ln_det, normal)
                (loss / max(n_dims, 1)).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / max(n_dims, 1)
        return total

    def check(self, step: int) -> TrainingPoint:
        """Compute the held-out loss, and the maxima on planted defects; keep the weights if they may be the best.

        Without held-out tiles, the mean loss of the steps since the last check takes the place of the held-out loss.
        """
        holdout_loss, holdout_energy = _held_out(self._network, self._caches.holdout, self._n_together)
        train_loss = float(np.mean(self._losses)) if self._losses else math.nan
        self._losses.clear()
        watched = holdout_loss if len(self._caches.holdout) else train_loss
        maxima = self._maxima()
        is_best = math.isfinite(watched) and self._steps.add(step, watched, self._state(), maxima)
        # A loss that still falls may lead to a better model: a figure of merit varies by chance.
        is_better = is_best or watched < self._lowest_loss
        self._lowest_loss = min(self._lowest_loss, watched) if math.isfinite(watched) else self._lowest_loss
        self._n_checks_in_vain = 0 if is_better else self._n_checks_in_vain + 1
        merit = math.nan if maxima is None else maxima.merit
        point = TrainingPoint(step, train_loss, holdout_loss, holdout_energy, is_best, merit)
        self.history += (asdict(point),)
        return point

    def outcome_after(self, step: int, answer: Finish | None) -> TrainingOutcome | None:
        """Return the outcome if the training ends with the check after a step; None if it continues."""
        if self.has_failed:
            return TrainingOutcome(OutcomeKind.NOT_FINITE)
        if answer is FINISH:
            return TrainingOutcome(OutcomeKind.STOPPED, step)
        if self._n_checks_in_vain >= self._training.patience:
            best = self._steps.best
            return TrainingOutcome(OutcomeKind.CONVERGED, self.n_done_before if best is None else best.step)
        return None

    @property
    def best_step(self) -> int | None:
        """Step of the best weights so far, 0 for the initial ones; None as long as there are none."""
        return None if self._steps.best is None else self._steps.best.step

    def at_best(self, model_so_far: Callable[[History, TrainingOutcome], TrainedModel]) -> TrainedModel:
        """Return the model of the best weights so far, as if the training had been interrupted at their step."""
        best, current = self._steps.best, self._state()
        assert best is not None
        history = tuple(point for point in self.history if point["step"] <= best.step)
        self._network.flow.load_state_dict(best.state)
        try:
            return model_so_far(history, TrainingOutcome(OutcomeKind.INTERRUPTED, best.step))
        finally:
            self._network.flow.load_state_dict(current)

    def restore_best(self) -> bool:
        """Load the best weights into the network; return True if these are the initial ones.

        Raises
        ------
        ImageError
            If the loss was never finite.
        """
        best = self._steps.best
        if best is None:
            raise ImageError(
                "training failed: the loss was never finite; lower the learning rate, or check that the normal areas "
                "contain no corrupt pixels"
            )
        state = best.state
        if not self._is_initial_kept and best.loss > self._initial_loss + _LARGEST_RISE:
            state = self._initial_state
        self._network.flow.load_state_dict(state)
        return state is self._initial_state

    def _maxima(self) -> Maxima | None:
        if self._planted is None:
            return None
        return self._planted.maxima(self._planted.likelihoods(self._network), self._network.config.evidence)

    def _state(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self._network.flow.state_dict().items()}


def n_done(history: History, training: TrainingConfig) -> int:
    """Return the steps of a training that were done before an interruption; the last one is always left to do."""
    return min(int(history[-1]["step"]), training.steps - 1) if history else 0


def _endless_order(n: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(n))


def _batches(
    network: UFlow, cache: Tiles, indices: Iterable[int], batch_size: int
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield features for the flow, and masks, of tiles, stacked by shape, each stack of at most `batch_size` tiles."""
    device = network.device
    by_shape: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_shape.setdefault(cache[index].shape, []).append(index)
    for group in by_shape.values():
        for first in range(0, len(group), batch_size):
            tiles = [cache[index] for index in group[first : first + batch_size]]
            levels = zip(*(network.of_flow(tile.features) for tile in tiles), strict=True)
            features = [_stacked(of_level, device).float() for of_level in levels]
            normal = [_stacked(of_level, device) for of_level in zip(*(tile.is_normal for tile in tiles), strict=True)]
            yield features, normal


def _stacked(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Stack tensors of one shape on a device; the copy to a GPU is asynchronous, from pinned memory."""
    if device.type != "cuda":
        return torch.stack(list(tensors)).to(device)
    if all(x.is_cuda for x in tensors):
        return torch.stack(list(tensors))
    return torch.stack([x.cpu() for x in tensors]).pin_memory().to(device, non_blocking=True)


@torch.no_grad()
def _held_out(network: UFlow, cache: Tiles, batch_size: int) -> tuple[float, float]:
    """Return the loss in nats per latent dimension, and the watched quantile of the energies of the worst level.

    NaN for a cache without tiles.
    """
    if not len(cache):
        return math.nan, math.nan
    total, n_dims = 0.0, 0
    energies: list[list[Tensor]] = [[] for _ in network.strides]
    for features, normal in _batches(network, cache, range(len(cache)), batch_size):
        latents = network.latents(features)
        loss, n = negative_log_likelihood(latents.z, latents.ln_det, normal)
        total += float(loss)
        n_dims += int(n)
        for i, z in enumerate(latents.z):
            energies[i].append(energy(z)[normal[i]].flatten())
    values = [torch.cat(e).cpu().numpy() for e in energies]
    quantiles = [float(np.quantile(e, _WATCHED_QUANTILE)) for e in values if len(e)]
    return total / max(n_dims, 1), max(quantiles, default=math.nan)
