"""Trust report: accepted against observed false alarms, the fit of the tails, and the planted defects found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.errors import ImageError, Stopped, UFlowError
from napari_uflow.evaluation.drift import DriftState, DriftWatch
from napari_uflow.evaluation.sensitivity import Sensitivity, regions_not_trained_on, sensitivity_steps
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.calibrated import QQ_LEVELS
from napari_uflow.nfa.conformal import specimens_needed
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.progress import Message, Progress, Steps, or_stop, within
from napari_uflow.store.report import write_report
from napari_uflow.system.devices import choose_device
from napari_uflow.training.seen import planes_of_training
from napari_uflow.wording import counted

__all__ = ["EPSILONS", "TrustReport", "trust_report", "trust_steps"]

EPSILONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Accepted false alarms per image of a report."""

_PHASE = "Testing normal images"


@dataclass(frozen=True, kw_only=True)
class TrustReport:
    """Accepted and observed false alarms of a model.

    Attributes
    ----------
    n_specimens : int
        Independent specimens held out of training.
    held_out : tuple of float
        What the guarantee bounds at each of `EPSILONS`, in the held-out images, each tested with the tails of others:
        the part with any region, or their mean number, see
        :meth:`~napari_uflow.nfa.conformal.ConformalOffset.observed`.
        The thresholds were set on the same specimens: these numbers describe the fit and are not a test.
    nominal : tuple of float
        The same with the tails alone, without the guarantee.
    n_new : int
        Number of other normal images.
    n_of_training : int
        Normal images that were given, but had a part in the training: they are in none of these numbers.
    new, new_any : tuple of float
        Reported regions per other image, and fraction of them with any region; empty without other images.
    n_warned : int
        Other images with a caveat that voids the guarantee: a difference in brightness, in pixel size or as a whole, or
        an image that is too small.
    map_names : tuple of str
        Names of the rows of `observed`.
    observed : tuple of tuple of float
        For each map, log10 of the fraction of held-out positions with a log10 probability at or below each of
        `napari_uflow.nfa.calibrated.QQ_LEVELS`.
    sensitivity : Sensitivity or None
        Planted defects that the model finds at 1 accepted false alarm per image; None if none were planted.
    drift : DriftState or None
        Images in the drift log, compared with the held-out ones; None for a model without a file.
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
    n_of_training: int = 0
    sensitivity: Sensitivity | None = None
    drift: DriftState | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by name, with None for values that are not finite, for JSON."""
        return {
            "epsilon": list(EPSILONS),
            "guaranteed": [self.is_guaranteed(e) for e in EPSILONS],
            "n_held_out_specimens": self.n_specimens,
            "held_out": _plain(self.held_out),
            "held_out_nominal": _plain(self.nominal),
            "n_new_images": self.n_new,
            "n_images_of_training_left_out": self.n_of_training,
            "new": _plain(self.new),
            "new_any": _plain(self.new_any),
            "n_warned": self.n_warned,
            "qq_expected_log10": list(QQ_LEVELS),
            "qq_observed_log10": {name: _plain(row) for name, row in zip(self.map_names, self.observed, strict=False)},
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_dict(),
            "drift": None if self.drift is None else self.drift.to_dict(),
        }

    def save(self, path: str | Path) -> None:
        """Write the values of :meth:`to_dict` to a JSON file, completely or not at all.

        Raises
        ------
        UFlowError
            If the file cannot be written.
        """
        write_report(path, self.to_dict())

    def is_guaranteed(self, false_alarms: float) -> bool:
        """Return True if the held-out specimens guarantee this number of false alarms per image."""
        return self.n_specimens >= specimens_needed(false_alarms)

    def as_table(self) -> str:
        """Return a plain-text table, one line per number of false alarms, and sentences on the planted defects."""
        columns = ["accepted per image", "held out", "tails alone"]
        if self.n_new:
            columns += ["new images", "with any"]
        lines = ["  ".join(f"{name:>18}" for name in columns) + "  guaranteed"]
        for i, epsilon in enumerate(EPSILONS):
            numbers = [self.held_out[i], self.nominal[i]]
            cells = [f"{epsilon:>18g}"] + [f"{'-' if math.isnan(n) else format(n, '.3f'):>18}" for n in numbers]
            if self.n_new:
                cells += [f"{self.new[i]:>18.3f}", f"{self.new_any[i]:>18.1%}"]
            needed = "" if self.is_guaranteed(epsilon) else f"no, needs {specimens_needed(epsilon)} specimens"
            lines.append("  ".join(cells) + f"  {needed or 'yes'}")
        new = f", {counted(self.n_new, 'new image')}" if self.n_new else ""
        lines.append(f"{counted(self.n_specimens, 'held-out specimen')}{new}")
        if self.n_of_training:
            lines.append(f"left out: {counted(self.n_of_training, 'image')} of the training")
        if self.n_warned:
            differ = f"{self.n_warned} of the new images differ from the training images"
            lines.append(f"{differ}: the guarantee does not apply to them")
        if self.drift is not None:
            lines += ["", *self.drift.sentences()]
        if self.sensitivity is not None:
            lines += ["", *self.sensitivity.sentences()]
        return "\n".join(lines)


def _plain(values: Sequence[float]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values]


def trust_report(model: TrainedModel) -> TrustReport:
    """Return the report on the specimens held out of training.

    Raises
    ------
    ImageError
        If the model has no calibration.
    """
    calibration = model.calibration
    if calibration is None:
        raise ImageError(
            "the model has no calibration, because it was trained on too few images; train again with images of more "
            "specimens"
        )
    offset = calibration.offset
    n_levels = len(calibration.strides) // 2
    kinds = ["energy"] * n_levels + ["log-variance"] * n_levels or ["evidence"]
    names = [f"{kind}, stride {stride}" for kind, stride in zip(kinds, calibration.strides, strict=True)]
    return TrustReport(
        n_specimens=offset.n_specimens,
        held_out=tuple(offset.observed(e) for e in EPSILONS),
        nominal=tuple(offset.nominally_observed(e) for e in EPSILONS),
        n_new=0,
        new=(),
        new_any=(),
        n_warned=0,
        map_names=tuple(names),
        observed=calibration.observed,
    )


def trust_steps(
    model: TrainedModel,
    planes: Sequence[Plane],
    *,
    planted_into: Sequence[NormalRegion] = (),
    n_planted: int = 60,
    device: str = "auto",
    weights: str | Path | None = None,
    model_path: str | Path | None = None,
) -> Steps[TrustReport]:
    """Report on held-out specimens, other normal images and planted defects, step by step.

    Parameters
    ----------
    model : TrainedModel
        Calibrated model.
    planes : sequence of Plane
        Normal images that were not used in training; may be empty. Those that were are left out, with a warning.
    planted_into : sequence of NormalRegion
        Normal areas to plant defects in; those of specimens that the model was trained on are left out. By default no
        defects are planted.
    n_planted : int
        Defects to plant, 0 or more.
    device, weights
        As in :func:`~napari_uflow.evaluation.evaluate.evaluate_steps`.
    model_path : path, optional
        File of the model, for the drift log beside it.

    Yields
    ------
    Message or Progress
        The answer FINISH ends the planting of defects, and the report without a result before it.

    Raises
    ------
    ImageError
        If the model has no calibration.
    Stopped
        If the job was asked to finish before defects were planted.
    """
    report = trust_report(model)
    seen = {id(plane) for plane in planes_of_training(planes, model.record, model.training.specimen_pattern)}
    if seen:
        of_all = f"{len(seen)} of {counted(len(planes), 'image')}"
        text = f"{of_all} had a part in the training: left out of the numbers of new images"
        yield from or_stop(Message(text, warning=True))
        planes = [plane for plane in planes if id(plane) not in seen]
        report = replace(report, n_of_training=len(seen))
    if model_path is not None:
        try:
            report = replace(report, drift=DriftWatch(model, model_path).state)
        except UFlowError as error:  # the rest of the report does not need the log
            yield Message(str(error), warning=True)
    planted_into = planted_into if n_planted > 0 else ()
    if not planes and not planted_into:
        return report
    network = model.network(choose_device(device), weights)
    if planes:
        report = yield from _new_image_steps(report, model, planes, network)
    if planted_into:
        sensitivity = yield from _sensitivity_steps(model, planted_into, n_planted, network)
        report = replace(report, sensitivity=sensitivity)
    return report


def _new_image_steps(
    report: TrustReport, model: TrainedModel, planes: Sequence[Plane], network: UFlow
) -> Steps[TrustReport]:
    counts: list[list[int]] = []
    n_warned = 0
    for done, plane in enumerate(planes):
        steps = detect_steps(model, plane, DetectionConfig(), network=network)
        found = yield from within(steps, Progress(_PHASE, done, len(planes)))
        n_warned += bool(found.guarantee.caveats)
        counts.append([int(label_mask(found.log10_nfa, math.log10(e)).max()) for e in EPSILONS])
    yield from or_stop(Progress(_PHASE, len(planes), len(planes)))
    table = np.array(counts)
    return replace(
        report,
        n_new=len(planes),
        new=tuple(map(float, table.mean(axis=0))),
        new_any=tuple(map(float, (table > 0).mean(axis=0))),
        n_warned=n_warned,
    )


def _sensitivity_steps(
    model: TrainedModel, regions: Sequence[NormalRegion], n_planted: int, network: UFlow
) -> Steps[Sensitivity | None]:
    """Plant defects, or tell why that is not possible; the rest of the report is kept."""
    if not regions_not_trained_on(model, regions):
        yield Message("no defects were planted: the model was trained on all of these images", warning=True)
        return None
    try:
        steps = sensitivity_steps(model, regions, DetectionConfig(), n_defects=n_planted, network=network)
        return (yield from steps)
    except ImageError as error:
        yield Message(str(error), warning=True)
    except Stopped:
        yield Message("stopped: the report contains no planted defects", warning=True)
    return None
