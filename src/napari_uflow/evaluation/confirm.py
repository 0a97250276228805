"""Which new images to confirm as normal next, so that a smaller number of false alarms can be guaranteed.

The images are drawn at random among all new specimens, never by what was found in them. If the cleanest ones were
chosen, held-out specimens would have fewer false alarms than other normal images, and the guarantee would not hold.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_uflow.config import TrainingConfig, parameters_of
from napari_uflow.detection.guarantee import Guarantee, GuaranteeKind
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen
from napari_uflow.training.regions import assign_specimens, matching_specimens, regions_of_training
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["Confirmation", "confirm_next"]

# Names in a sentence.
_MOST_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """Images to look at, and what is gained if they are normal.

    Attributes
    ----------
    false_alarms : float
        Accepted false alarms per image or stack, as wanted.
    n_specimens : int
        Specimens held out now.
    n_needed : int
        New normal specimens required to guarantee `false_alarms`.
    images : tuple of str
        One image of each new specimen, in the random order to look at them in.
    smallest : float
        Smallest number of false alarms per image that can be guaranteed if all of them that are needed, or all there
        are, are normal; infinite if none can.
    holdout : float or None
        Fraction of the specimens to hold out in the next training; None if every specimen is held out in turn.
    """

    false_alarms: float
    n_specimens: int
    n_needed: int
    images: tuple[str, ...]
    smallest: float
    holdout: float | None

    def text(self) -> str:
        """Return the suggestion as one sentence without a full stop."""
        goal = f"{self.false_alarms:g} can be guaranteed with {counted(self.n_needed, 'more normal specimen')}"
        if not self.images:
            return f"{goal}: inspect images of specimens that had no part in the training"
        asked, others = self.images[: self.n_needed], self.images[self.n_needed :]
        names = ", ".join(f"'{name}'" for name in asked[:_MOST_NAMES])
        names += f" and {len(asked) - _MOST_NAMES} more" if len(asked) > _MOST_NAMES else ""
        if others:
            names += f" (drawn at random, whatever was found in them; for one that is not normal take '{others[0]}'"
            names += ", and so on)" if len(others) > 1 else ")"
        hold = "" if self.holdout is None else f"holdout {self.holdout:g} and "
        gain = ""
        if len(self.images) < self.n_needed:
            gain = f"; these alone allow {self.smallest:.2g}" if math.isfinite(self.smallest) else "; more are needed"
        return f"{goal}: look at {names}, and train again with {hold}the normal ones added{gain}"


def confirm_next(
    model: TrainedModel, guarantee: Guarantee, images: Iterable[tuple[str, str | None]]
) -> Confirmation | None:
    """Choose the images to confirm as normal next.

    Parameters
    ----------
    model : TrainedModel
        The model that inspected the images.
    guarantee : Guarantee
        Guarantee of its detections, with the accepted false alarms that are wanted.
    images : iterable of (str, str or None)
        Name and file of each image that was inspected, without regard to the result.

    Returns
    -------
    Confirmation or None
        None if the number is guaranteed already, or not by counting at all.

    Raises
    ------
    ConfigError
        If the specimen pattern of the training takes too long.
    """
    if guarantee.kind is not GuaranteeKind.EXTRAPOLATED:
        return None
    n_now, n_all = guarantee.n_specimens or 0, len(model.record.all_specimens)
    n_needed, holdout = _needed(n_now, n_all, guarantee.n_specimens_needed, in_turn=bool(model.record.folds))
    chosen = _new_specimens(model, images)
    n_reached = n_now + min(len(chosen), n_needed)
    if holdout is not None:
        n_reached = min(n_reached, math.floor(_largest_holdout() * (n_all + min(len(chosen), n_needed))))
    smallest = ConformalOffset((HeldOutSpecimen("", ((),)),) * n_reached).smallest_guaranteed
    return Confirmation(
        false_alarms=guarantee.false_alarms,
        n_specimens=n_now,
        n_needed=n_needed,
        images=tuple(chosen),
        smallest=smallest * guarantee.n_images * guarantee.n_areas,
        holdout=holdout,
    )


def _needed(n_now: int, n_all: int, n_held_out: int, *, in_turn: bool) -> tuple[int, float | None]:
    """Return the new specimens required so that enough are held out, and the fraction to hold out."""
    missing = n_held_out - n_now
    if in_turn or n_now >= n_all:
        return missing, None
    missing = max(missing, math.ceil(n_held_out / _largest_holdout()) - n_all)
    return missing, math.ceil(100 * n_held_out / (n_all + missing) - 1e-9) / 100


def _largest_holdout() -> float:
    """Return the largest fraction of the specimens that may be held out of training."""
    return next(float(p.high) for p in parameters_of(TrainingConfig) if p.name == "holdout" and p.high is not None)


def _new_specimens(model: TrainedModel, images: Iterable[tuple[str, str | None]]) -> list[str]:
    """Return one image of each specimen that had no part in the training, in random order: that of checksums."""
    pattern, nothing = model.training.specimen_pattern, np.zeros((1, 1), dtype=np.uint8)
    # regions, because there is one rule of specimens, and it is about these; their pixels are not read
    regions = [NormalRegion(Plane(data=nothing, name=name, source=source)) for name, source in images]
    seen = set(map(id, regions_of_training(regions, model.record, pattern)))
    new = [region for region in regions if id(region) not in seen]
    named = matching_specimens(new, pattern) if pattern else [region.specimen for region in assign_specimens(new)]
    of_specimen: dict[str, str] = {}
    for region, specimen in zip(new, named, strict=True):
        source = region.plane.source
        name = region.plane.name if source is None else Path(source).name
        of_specimen.setdefault(specimen or name, name)
    order = sorted(of_specimen, key=lambda specimen: _checksum(f"{model.record.date}\0{specimen}"))
    return [of_specimen[specimen] for specimen in order]


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
