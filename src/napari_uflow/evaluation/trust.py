"""The trust report: false alarms expected against false alarms observed, and how well the tails fit."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa.calibrated import QQ_LEVELS
from napari_uflow.nfa.conformal import specimens_needed
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.progress import Message, Progress, Steps, or_stop, within
from napari_uflow.store.files import atomic_path
from napari_uflow.system.devices import choose_device
from napari_uflow.wording import counted

T = TypeVar("T")

__all__ = ["EPSILONS", "TrustReport", "trust_report", "trust_steps"]

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""False alarms accepted per image that a report looks at."""


@dataclass(frozen=True)
class TrustReport:
    """What a model's number of false alarms has been worth.

    Attributes
    ----------
    n_specimens : int
        Independent fields held out of training that the guarantee rests on.
    held_out : tuple of float
        Regions reported per held-out image at each of `EPSILONS`; each field tested with the tails of the others. The
        thresholds were set on the same fields: this is how well they could be set, not a test.
    nominal : tuple of float
        The same by the tails alone, before the guarantee: what they would have got wrong.
    n_new : int
        Other normal images that were looked at.
    new, new_any : tuple of float
        Regions reported per other image, and the part of them with any region; empty without such images.
    n_warned : int
        Other images that detection warned of: another brightness, pixel size or size, or unlike as a whole.
    map_names : tuple of str
        What each row of `observed` is about.
    observed : tuple of tuple of float
        For each map, log10 of the part of held-out positions with a probability at or below each of
        `napari_uflow.nfa.calibrated.QQ_LEVELS`.
    """

    n_specimens: int
    held_out: tuple[float, ...]
    nominal: tuple[float, ...]
    n_new: int
    new: tuple[float, ...]
    new_any: tuple[float, ...]
    n_warned: int
    map_names: tuple[str, ...]
    observed: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name, None for what is not finite, ready for JSON."""
        return {
            "epsilon": list(EPSILONS),
            "conformal": [self.is_guaranteed(e) for e in EPSILONS],
            "n_held_out_fields": self.n_specimens,
            "held_out": _plain(self.held_out),
            "held_out_nominal": _plain(self.nominal),
            "n_new_images": self.n_new,
            "new": _plain(self.new),
            "new_any": _plain(self.new_any),
            "n_warned": self.n_warned,
            "qq_expected_log10": list(QQ_LEVELS),
            "qq_observed_log10": {name: _plain(row) for name, row in zip(self.map_names, self.observed, strict=False)},
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict` to a JSON file, whole or not at all.

        Raises
        ------
        UFlowError
            If the file cannot be written.
        """
        with atomic_path(path) as unfinished:
            unfinished.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def is_guaranteed(self, false_alarms: float) -> bool:
        """Whether the held-out specimens are enough to guarantee this number of false alarms per image."""
        return self.n_specimens >= specimens_needed(false_alarms)

    def as_table(self) -> str:
        """Return a plain-text table, one line per number of false alarms."""
        columns = ["accepted per image", "held out", "tails alone"]
        if self.n_new:
            columns += ["new images", "with any"]
        lines = ["  ".join(f"{name:>18}" for name in columns) + "  guaranteed"]
        for i, epsilon in enumerate(EPSILONS):
            numbers = [self.held_out[i], self.nominal[i]]
            cells = [f"{epsilon:>18g}"] + [f"{'-' if math.isnan(n) else format(n, '.3f'):>18}" for n in numbers]
            if self.n_new:
                cells += [f"{self.new[i]:>18.3f}", f"{self.new_any[i]:>18.1%}"]
            needed = "" if self.is_guaranteed(epsilon) else f"no: needs {specimens_needed(epsilon)} fields"
            lines.append("  ".join(cells) + f"  {needed or 'yes'}")
        new = f", {counted(self.n_new, 'new image')}" if self.n_new else ""
        lines.append(f"{counted(self.n_specimens, 'held-out specimen')}{new}")
        if self.n_warned:
            lines.append(f"{self.n_warned} of the new images are unlike the normal ones: no guarantee holds for them")
        return "\n".join(lines)


def _plain(values: Sequence[float]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values]


def trust_report(model: TrainedModel) -> TrustReport:
    """Return the report on the fields that were held out of training.

    Raises
    ------
    ImageError
        If the model was not calibrated.
    """
    calibration = model.calibration
    if calibration is None:
        raise ImageError(
            "this model was trained on too few images to be calibrated: there is nothing to report; train again with "
            "images of more fields"
        )
    offset = calibration.offset
    kinds = ["energy"] * (len(calibration.strides) // 2) + ["spread"] * (len(calibration.strides) // 2)
    names = [f"{kind}, stride {stride}" for kind, stride in zip(kinds, calibration.strides, strict=True)]
    return TrustReport(
        offset.n_specimens,
        tuple(offset.observed(e) for e in EPSILONS),
        tuple(offset.nominally_observed(e) for e in EPSILONS),
        0,
        (),
        (),
        0,
        tuple(names),
        calibration.observed,
    )


def trust_steps(
    model: TrainedModel, planes: Sequence[Plane], *, device: str = "auto", weights: str | Path | None = None
) -> Steps[TrustReport]:
    """Count false alarms on other normal images as well, step by step.

    Parameters
    ----------
    model : TrainedModel
        A calibrated model.
    planes : sequence of Plane
        Normal images that had no part in its training; may be empty.
    device, weights
        As in :func:`~napari_uflow.evaluation.evaluate.evaluate_steps`.

    Raises
    ------
    ImageError
        If the model was not calibrated.
    Stopped
        If it was asked to finish.
    """
    report = trust_report(model)
    if not planes:
        return report
    network = model.network(choose_device(device), weights)
    counts: list[list[int]] = []
    n_warned = 0
    for done, plane in enumerate(planes):
        texts: list[str] = []
        steps = _listening(detect_steps(model, plane, DetectionConfig(), network=network), texts)
        found = yield from within(steps, Progress("Looking at normal images", done, len(planes)))
        n_warned += bool(texts)
        counts.append([int(label_mask(found.log10_nfa, math.log10(e)).max()) for e in EPSILONS])
    yield from or_stop(Progress("Looking at normal images", len(planes), len(planes)))
    table = np.array(counts)
    return replace(
        report,
        n_new=len(planes),
        new=tuple(map(float, table.mean(axis=0))),
        new_any=tuple(map(float, (table > 0).mean(axis=0))),
        n_warned=n_warned,
    )


def _listening(steps: Steps[T], texts: list[str]) -> Steps[T]:
    """Run a job and keep what it warns of."""
    try:
        event = next(steps)
        while True:
            if isinstance(event, Message) and event.warning:
                texts.append(event.text)
            event = steps.send((yield event))
    except StopIteration as stop:
        result: T = stop.value
        return result
