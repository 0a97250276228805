"""The origin of a trained model: its images, specimens and versions, and the outcome of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from napari_uflow.config import TrainingConfig

__all__ = ["EarlierTraining", "OutcomeKind", "PlantedOutcome", "TrainingOutcome", "TrainingRecord"]


class OutcomeKind(Enum):
    """Reason for the end of a training; the values are those of model files."""

    DONE = "done"
    """Every step was done."""
    CONVERGED = "converged"
    """Neither the model nor its held-out loss had improved for `patience` checks."""
    NOTHING_LEARNED = "nothing learned"
    """No step improved the model; it is the one that the training began with."""
    STOPPED = "stopped"
    """The user stopped it; the model is the best one so far."""
    NOT_FINITE = "not finite"
    """Too many steps in a row had no finite loss; the model is the best one before them."""
    INTERRUPTED = "interrupted"
    """The model is a snapshot of a training that had not ended."""


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """The end of a training.

    Attributes
    ----------
    kind : OutcomeKind
        Reason for the end.
    step : int or None
        Step, from 1: of the best model (CONVERGED), or the last one done (STOPPED, INTERRUPTED); None for other kinds.
    """

    kind: OutcomeKind = OutcomeKind.DONE
    step: int | None = None

    @property
    def is_complete(self) -> bool:
        """The training ended by itself; its model is the result."""
        return self.kind in (OutcomeKind.DONE, OutcomeKind.CONVERGED, OutcomeKind.NOTHING_LEARNED)

    def text(self) -> str:
        """Return the outcome in words, without a capital letter or a full stop."""
        return f"done: {self.remark()}" if self.is_complete and self.remark() else self.remark() or "done"

    def remark(self) -> str:
        """Return the part of the text that says more than that the training is done; "" after the last step."""
        return {
            OutcomeKind.DONE: "",
            OutcomeKind.CONVERGED: f"no better model after step {self.step}",
            OutcomeKind.NOTHING_LEARNED: "training did not improve the model",
            OutcomeKind.STOPPED: f"stopped at step {self.step}",
            OutcomeKind.NOT_FINITE: "stopped: the loss was no longer finite",
            OutcomeKind.INTERRUPTED: f"interrupted after step {self.step}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class EarlierTraining:
    """The model that a training was resumed from.

    Attributes
    ----------
    date : str or None
        End of that training; ISO 8601, UTC.
    n_steps : int
        Steps of that training.
    resumed_from : EarlierTraining or None
        The model that it was resumed from in turn.
    is_same : bool
        True for a snapshot of the same training, which was interrupted: its steps are among those of the whole.
    """

    date: str | None
    n_steps: int
    resumed_from: EarlierTraining | None = None
    is_same: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedOutcome:
    """Planted defects that a model finds, with and without training of its flow.

    The defects were drawn; the parts of normal images that they were planted into chose the model, too, so that the
    numbers compare models rather than promise a detection rate.

    Attributes
    ----------
    n_defects : int
        Planted defects.
    n_tiles : int
        Parts of normal images, of 256 pixels a side at most.
    n_found, n_found_untrained : int
        Defects found at one false alarm in ten of these parts: by the model, and by the model that the training began
        with.
    merit, merit_untrained : float
        Figures of merit of both, 0 to 1: the mean fraction of defects found at 0 to 1 false alarms per part.
    error : float or None
        Standard error of the difference of the merits; None if it is not known.
    """

    n_defects: int
    n_tiles: int
    n_found: int
    n_found_untrained: int
    merit: float
    merit_untrained: float
    error: float | None = None

    @property
    def is_better(self) -> bool:
        """The training improved the merit by more than two standard errors."""
        return self.error is not None and self.merit - self.merit_untrained > 2 * self.error

    @property
    def has_trained(self) -> bool:
        """The training changed what the model finds."""
        return (self.n_found, self.merit) != (self.n_found_untrained, self.merit_untrained)

    def sentence(self) -> str:
        """Return in a sentence what training brought."""
        if not self.has_trained:
            return f"It finds {self.n_found} of {self.n_defects} planted defects."
        more = self.n_found - self.n_found_untrained
        if not more:
            gain = "as many as without training"
        else:
            gain = f"{abs(more)} {'more' if more > 0 else 'fewer'} than without training"
        doubt = "" if self.is_better else ", no clear gain"
        return f"It finds {self.n_found} of {self.n_defects} planted defects, {gain}{doubt}."

    def text(self) -> str:
        """Return the outcome in words, without a capital letter or a full stop."""
        if not self.has_trained:
            return (
                f"{self.n_found} of {self.n_defects} found at one false alarm in ten images ({100 * self.merit:.1f} % "
                f"on average, at 0 to 1 false alarms per image)"
            )
        error = "" if self.error is None else f" +- {100 * self.error:.1f}"
        gain = f"{100 * (self.merit - self.merit_untrained):+.1f}{error} by training"
        return (
            f"{self.n_found} of {self.n_defects} found at one false alarm in ten images, {self.n_found_untrained} "
            f"before training ({100 * self.merit:.1f} % on average, at 0 to 1 false alarms per image; {gain})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """The origin of a model; entries that are not known have their default.

    Attributes
    ----------
    date : str or None
        End of the training; ISO 8601, UTC, to the second.
    outcome : TrainingOutcome
        How it ended.
    n_images : int
        Planes trained on or held out; 0 if not known.
    image_names : tuple of str
        Titles of the first 1000 of them.
    image_marks : tuple of str
        What they are known by again, whatever their names, see :func:`~napari_uflow.training.seen.mark_of`; those of
        the trainings it was resumed from included. Empty if not known.
    specimens : tuple of str
        Independent specimens trained on, sorted; those of the trainings it was resumed from included.
    holdout_specimens : tuple of str
        Specimens held out of training, sorted. A single specimen is divided by place and is in both.
    earlier_specimens : tuple of str
        Other specimens that may have been learned from: those whose regions marked normal were trained on, and those
        held out of trainings it was resumed from, which its folds may know; sorted.
    folds : tuple of tuple of str
        Specimens in the groups of which each was held out in turn, the first being `holdout_specimens`; empty if only
        these were held out.
    n_tiles, n_holdout_tiles : int
        Tiles trained on and held out.
    n_marked_normal : int
        Regions of the training that a user had marked normal after a detection.
    n_marked_held_out : int
        Those of them in specimens held out, which the flow was not trained on.
    pixel_size : (float, float) or None
        Height and width of the pixels that images of another known size were brought to: the median of the training
        images, or the size of the model that the training was resumed from.
    unit : str or None
        Unit of `pixel_size`.
    pixel_size_range : (float, float)
        Smallest and largest pixel size of the images that were brought to it, as multiples of it: 1 or less, and 1 or
        more.
    versions : mapping of str to str
        Versions of this package, of Python, and of the packages it computes with.
    backbone_weights : str
        File or package, or name at the model hub, of the backbone's weights; "" for a backbone without.
    device : str
        torch's name of the device it was trained on; "" if not known.
    first_training : TrainingConfig or None
        Parameters of the first training of this network if this one was resumed: those of a refinement follow from it.
    resumed_from : EarlierTraining or None
        The model that the training was resumed from.
    planted : PlantedOutcome or None
        Planted defects that it finds; None if it was not measured.
    """

    date: str | None = None
    outcome: TrainingOutcome = TrainingOutcome()
    n_images: int = 0
    image_names: tuple[str, ...] = ()
    image_marks: tuple[str, ...] = ()
    specimens: tuple[str, ...] = ()
    holdout_specimens: tuple[str, ...] = ()
    earlier_specimens: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()
    n_tiles: int = 0
    n_holdout_tiles: int = 0
    n_marked_normal: int = 0
    n_marked_held_out: int = 0
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    pixel_size_range: tuple[float, float] = (1.0, 1.0)
    versions: Mapping[str, str] = field(default_factory=dict)
    backbone_weights: str = ""
    device: str = ""
    first_training: TrainingConfig | None = None
    resumed_from: EarlierTraining | None = None
    planted: PlantedOutcome | None = None

    @property
    def began_with(self) -> EarlierTraining | None:
        """The model that the training began with, whether it was interrupted or not; None for a new model."""
        earlier = self.resumed_from
        while earlier is not None and earlier.is_same:
            earlier = earlier.resumed_from
        return earlier

    @property
    def n_steps_before(self) -> int:
        """Steps of all trainings of the network before this one; interruptions of this one do not count as trainings.

        Those of this training are in its history.
        """
        n, earlier = 0, self.resumed_from
        while earlier is not None:
            n += 0 if earlier.is_same else earlier.n_steps
            earlier = earlier.resumed_from
        return n

    @property
    def all_specimens(self) -> frozenset[str]:
        """All specimens that had a part in the training, held out or not."""
        return frozenset(self.specimens) | frozenset(self.holdout_specimens)

    @property
    def counted_specimens(self) -> tuple[str, ...]:
        """Specimens that false alarms are counted on: those held out, at once or in turn, sorted."""
        return tuple(sorted({name for fold in self.folds for name in fold})) or self.holdout_specimens

    @property
    def is_divided_by_place(self) -> bool:
        """Some specimen is both trained on and held out: tests on it say less than tests on another one."""
        return not frozenset(self.specimens).isdisjoint(self.holdout_specimens)
