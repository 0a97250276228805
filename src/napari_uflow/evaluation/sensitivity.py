"""Sensitivity of a model: the planted defects that it finds at the accepted number of false alarms.

The defects are planted into normal images that the model was not trained on. A defect counts as found if a reported
region overlaps it and is of a size that leads a person to it; places at which the image without defects has a region
already are not used, so that a false alarm finds nothing. See :mod:`~napari_uflow.evaluation.pod` for the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.detection.magnification import magnification_of
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.evaluation.pod import ALL_KINDS, PodCurve, PodRecord, fit_pod
from napari_uflow.image.plane import Plane
from napari_uflow.image.planting import PLANTED_KINDS, DefectPlan, DefectQueue, PlantedKind, draw_plans
from napari_uflow.image.region import NormalRegion, sample_windows
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import Event, Finish, Message, Progress, Steps, or_stop, within
from napari_uflow.system.devices import choose_device
from napari_uflow.training.regions import assign_specimens, matching_specimens, regions_of_training
from napari_uflow.wording import counted

__all__ = ["Sensitivity", "found_labels", "regions_not_trained_on", "sensitivity_steps"]

_SIDE = 512
"""Largest side of a part of an image that defects are planted into, in pixels."""
_LEAST_NORMAL = 0.01  # fraction of its pixels: a painted area may be small

# Normal pixels per defect of one image, and pixels of all images together per defect: 60 defects need no more than 16
# images of 512 x 512.
_PIXELS_PER_DEFECT, _BUDGET_PER_DEFECT = 52_000, 70_000

# Largest area of a region that finds a defect: times the defect's, positions of the coarsest map, part of the image.
_TIMES_DEFECT, _COARSE_POSITIONS, _PART_OF_IMAGE = 25, 9, 0.25

_NOUNS: Mapping[str, str] = {
    "patch": "patches of another image",
    "blurred": "blurred areas",
    "shifted": "areas of shifted texture",
    "brightened": "brightened areas",
    "darkened": "darkened areas",
    "line": "lines",
    "blob": "blobs",
}


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Planted defects that a model finds, by kind, size and contrast.

    Attributes
    ----------
    false_alarms : float
        Accepted false alarms per image.
    n_images : int
        Normal images, or parts of them, with planted defects.
    n_specimens : int
        Specimens of these images; the model was trained on none of them.
    seed : int
        Seed of the defects.
    records : tuple of PodRecord
        Outcome for each defect.
    curves : tuple of PodCurve
        Probability of detection by size: of all kinds together, then of each kind.
    """

    false_alarms: float
    n_images: int
    n_specimens: int
    seed: int
    records: tuple[PodRecord, ...]
    curves: tuple[PodCurve, ...]

    @property
    def n_found(self) -> int:
        """Number of defects that were found."""
        return sum(record.is_found for record in self.records)

    def sentences(self) -> list[str]:
        """Return what was found, for whom and how, in sentences that stand without a table."""
        if not self.records:
            return []
        sizes = [record.size_px for record in self.records]
        found = [curve for curve in self.curves if curve.kind != ALL_KINDS and curve.a90 is not None]
        missed = [curve for curve in self.curves if curve.kind != ALL_KINDS and curve.a90 is None]
        sentences = [
            f"At {counted(self.false_alarms, 'accepted false alarm')} per image, {self.n_found} of "
            f"{counted(len(self.records), 'planted defect')} of {min(sizes):.0f} to {max(sizes):.0f} px were found."
        ]
        if found:
            sentences.append(f"Estimated sizes found in 90 % of cases: {'; '.join(map(_size_text, found))}.")
        if missed:
            sentences.append(f"Not found in 90 % of cases at any size planted: {'; '.join(map(_part_text, missed))}.")
        images = f"{counted(self.n_images, 'normal image')} of {counted(self.n_specimens, 'specimen')}"
        sentences.append(
            f"The defects were drawn and planted into {images} not used to fit the model; they are not real, and real "
            f"defects may be easier or harder to find."
        )
        return sentences

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for numbers that are not finite."""
        return {
            "false_alarms": self.false_alarms,
            "n_images": self.n_images,
            "n_specimens": self.n_specimens,
            "seed": self.seed,
            "records": [asdict(record) for record in self.records],
            "curves": [
                {name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in row}
                for row in (asdict(curve).items() for curve in self.curves)
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the sensitivity from the values of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            If an entry is missing or of another type than written.
        """
        try:
            curves = [
                {
                    **row,
                    **{name: math.nan if row[name] is None else float(row[name]) for name in ("intercept", "slope")},
                }
                for row in values["curves"]
            ]
            return cls(
                false_alarms=float(values["false_alarms"]),
                n_images=int(values["n_images"]),
                n_specimens=int(values["n_specimens"]),
                seed=int(values["seed"]),
                records=tuple(PodRecord(**row) for row in values["records"]),
                curves=tuple(PodCurve(**row) for row in curves),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise ConfigError(f"the sensitivity of the model is not as it was written: {error}") from error


def _size_text(curve: PodCurve) -> str:
    """Return the kind with its a90 and a90/95."""
    limit = f"{curve.a90_95:.0f} px" if curve.a90_95 is not None else f"not shown up to {curve.largest:.0f} px"
    size = f"{_NOUNS.get(curve.kind, curve.kind)} of {curve.a90:.0f} px"
    return f"{size}{_contrast_text(curve, ' and')} (95 % confidence: {limit})"


def _part_text(curve: PodCurve) -> str:
    """Return the kind with the part that is found of the largest."""
    name = f"{_NOUNS.get(curve.kind, curve.kind)}{_contrast_text(curve)}"
    part = float(curve.pod(curve.largest))
    found = (
        f"{math.floor(100 * part)} % of those of {curve.largest:.0f} px, the largest planted"
        if math.isfinite(part)
        else ""
    )
    return f"{name} ({found})" if found else name


def _contrast_text(curve: PodCurve, joined: str = " of") -> str:
    return "" if curve.contrast is None else f"{joined} {100 * curve.contrast:.0f} % contrast"


def found_labels(
    planted: NDArray[np.int32], reported: NDArray[np.int32], *, finest: int = 4, coarsest: int = 16
) -> frozenset[int]:
    """Return the planted defects that the reported regions find.

    A region finds a defect if one of its pixels is at most `finest` pixels away from a pixel of the defect: a map has
    no finer positions. Its area must be at most the larger of 25 times that of the defect (five times its diameter) and
    9 positions of the coarsest map, and never more than a quarter of the image: a person who looks at the region then
    sees the defect, and a region that covers the image finds nothing.

    Parameters
    ----------
    planted : (M, N) array, int32
        Labels of the planted defects, 0 elsewhere.
    reported : (M, N) array, int32
        Labels of the reported regions, 0 elsewhere.
    finest, coarsest : int
        Pixels between two positions of the finest and of the coarsest map.

    Returns
    -------
    frozenset of int
        Labels of the defects that were found.

    Raises
    ------
    ImageError
        If the shapes differ.
    """
    if planted.shape != reported.shape:
        raise ImageError(f"labels must have one shape, not {planted.shape} and {reported.shape}")
    areas = np.bincount(reported.ravel())
    found = set()
    for label, box in enumerate(ndimage.find_objects(planted), start=1):
        if box is None:
            continue
        grown = tuple(slice(max(at.start - finest, 0), at.stop + finest) for at in box)
        own = planted[grown] == label
        limit = max(_TIMES_DEFECT * np.count_nonzero(own), _COARSE_POSITIONS * coarsest**2)
        limit = min(limit, _PART_OF_IMAGE * planted.size)
        touching = np.unique(reported[grown][ndimage.distance_transform_edt(~own) <= finest])
        if any(region > 0 and areas[region] <= limit for region in touching):
            found.add(label)
    return frozenset(found)


def regions_not_trained_on(model: TrainedModel, regions: Sequence[NormalRegion]) -> list[NormalRegion]:
    """Return the regions of specimens that the model was not trained on: held out of the training, or new.

    Parameters
    ----------
    model : TrainedModel
        Trained model.
    regions : sequence of NormalRegion
        Normal areas of any images. Regions marked normal, which are always trained on, are left out.
    """
    record = replace(model.record, holdout_specimens=())
    trained = {id(region) for region in regions_of_training(regions, record, model.training.specimen_pattern)}
    return [region for region in regions if id(region) not in trained and not region.is_marked_normal]


def sensitivity_steps(
    model: TrainedModel,
    regions: Sequence[NormalRegion],
    config: DetectionConfig,
    *,
    n_defects: int = 60,
    n_images: int = 12,
    seed: int = 0,
    kinds: Sequence[PlantedKind] = PLANTED_KINDS,
    sizes: tuple[float, float] = (4.0, 64.0),
    contrasts: tuple[float, float] = (0.05, 0.6),
    contrast: float = 0.2,
    device: str = "auto",
    network: UFlow | None = None,
    weights: str | Path | None = None,
) -> Steps[Sensitivity]:
    """Plant defects into normal images that the model was not trained on, detect them, and fit the POD, step by step.

    Up to five defects are planted into an image at a time; small images are used several times, with other defects. The
    largest defect is limited to a tenth of the image. Of a larger image, parts of 512 x 512 pixels are used, at the
    threshold of the whole image.

    Parameters
    ----------
    model : TrainedModel
        Trained model.
    regions : sequence of NormalRegion
        Normal areas; those of specimens that the model was trained on are left out.
    config : DetectionConfig
        Parameters of the detection, with the accepted false alarms; each image is tested on its own.
    n_defects : int
        Defects to plant, 1 or more. Fewer are planted if there is no place for them. MIL-HDBK-1823A asks for 60.
    n_images : int
        Largest number of images, or parts of them, 1 or more; the specimens take turns.
    seed : int
        Seed of all random choices, 0 or more.
    kinds, sizes, contrasts
        As in :func:`~napari_uflow.image.planting.draw_plans`.
    contrast : float
        Contrast that the curves hold for; the geometric mean of the records if it is outside their range.
    device, network
        As in :func:`~napari_uflow.detection.detect.detect_steps`.
    weights : path, optional
        Weights of the backbone, for a model file without them.

    Yields
    ------
    Message or Progress
        The answer FINISH ends the job without a result.

    Returns
    -------
    Sensitivity

    Raises
    ------
    ImageError
        If the model was trained on all regions, or no defect could be planted.
    ConfigError
        If a number is out of its range.
    Stopped
        If the job was asked to finish.
    """
    if n_defects < 1 or n_images < 1:
        raise ConfigError(f"n_defects and n_images must be 1 or more, not {n_defects} and {n_images}")
    usable = regions_not_trained_on(model, regions)
    if not usable:
        raise ImageError(
            "there is no image to plant defects in: give normal images of specimens that the model was not trained on"
        )
    plans = draw_plans(n_defects, seed=seed, kinds=kinds, sizes=sizes, contrasts=contrasts)
    if network is None:
        network = model.network(choose_device(device), weights)
    strides = (min(network.strides), max(network.strides))
    parts = _parts(usable, n_images, network.align, np.random.default_rng(seed), model.training.specimen_pattern)
    phase = "Detecting in normal images"
    fields = []
    for done, part in enumerate(parts):
        own_config = _config_of_part(model, config, part)
        steps = detect_steps(model, part.plane, own_config, network=network)
        with network.remembering_others(part.specimen):
            clean = yield from within(steps, Progress(phase, done, len(parts)))
        fields.append(replace(part, config=own_config, free=part.free & _is_far(clean, 2 * strides[1])))
    yield from or_stop(Progress(phase, len(parts), len(parts)))
    records = yield from _record_steps(model, network, fields, plans, seed, strides)
    if not records:
        raise ImageError("no defect could be planted: the images are too small, or have too few normal pixels")
    known = [record.contrast for record in records if record.contrast is not None]
    is_inside = bool(known) and min(known) <= contrast <= max(known)
    return Sensitivity(
        false_alarms=config.false_alarms,
        n_images=len(fields),
        n_specimens=len({part.specimen for part in fields}),
        seed=seed,
        records=tuple(records),
        curves=fit_pod(records, contrast=contrast if is_inside else None),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Image, or part of one, to plant defects in.

    Attributes
    ----------
    plane : Plane
        Pixels in memory.
    values : (C, m, n) array, float32
        The same pixels.
    dtype : dtype
        Type of the pixels of the image.
    free : (m, n) array, bool
        True in pixels that may be changed.
    specimen : str
        Specimen of the image.
    n_pixels : int
        Pixels of the whole image.
    config : DetectionConfig
        Parameters of the detection in this part.
    """

    plane: Plane
    values: NDArray[np.float32]
    dtype: np.dtype[Any]
    free: NDArray[np.bool_]
    specimen: str
    n_pixels: int
    config: DetectionConfig = DetectionConfig()

    @property
    def n_defects(self) -> int:
        """Defects to plant at a time."""
        return max(1, round(np.count_nonzero(self.free) / _PIXELS_PER_DEFECT))


def _parts(
    regions: Sequence[NormalRegion], n_images: int, align: int, rng: np.random.Generator, pattern: str
) -> list[_Part]:
    """Choose images, or parts of them, of the specimens in turn."""
    by_specimen: dict[str, list[tuple[NormalRegion, str]]] = {}
    specimens = _specimens_of(regions, pattern)
    for i in rng.permutation(len(regions)):
        specimen = specimens[i]
        by_specimen.setdefault(specimen, []).append((regions[i], specimen))
    in_turn = [item for turn in zip_longest(*by_specimen.values()) for item in turn if item is not None]
    most = math.ceil(n_images / len(in_turn))
    parts: list[_Part] = []
    for region, specimen in in_turn:
        if len(parts) >= n_images:
            break
        tile = _SIDE // align * align
        windows = sample_windows(region, tile, align=align, min_normal=_LEAST_NORMAL, max_windows=most, rng=rng)
        for window in windows:
            inside = window.clipped(region.plane.shape)
            values, normal = region.read(inside)
            plane = region.plane
            parts.append(
                _Part(
                    plane=replace(plane, data=values, axes="CYX", index={}, channels=None, name=plane.title),
                    values=values,
                    dtype=np.dtype(plane.data.dtype),
                    free=normal,
                    specimen=specimen,
                    n_pixels=plane.shape[0] * plane.shape[1],
                )
            )
    return parts[:n_images]


def _specimens_of(regions: Sequence[NormalRegion], pattern: str) -> list[str]:
    if not pattern:
        return [assign_specimens([region])[0].specimen for region in regions]
    # the pattern is that of the training, and need not match other images
    found = matching_specimens(regions, pattern)
    return [region.specimen if name is None else name for region, name in zip(regions, found, strict=True)]


def _config_of_part(model: TrainedModel, config: DetectionConfig, part: _Part) -> DetectionConfig:
    """Return the parameters with which a part of an image is tested as strictly as the whole image.

    The number of false alarms of a region is proportional to the calibrated areas of the image, at least one, or
    without a calibration to its pixels.
    """
    config = config.replace(false_alarms_per="image")
    n_part, n_whole = float(part.free.size), float(part.n_pixels)
    if n_part >= n_whole or config.nfa != "size-conditional":
        return config
    if config.calibration != "none" and model.calibration is not None:
        area = model.calibration.area / magnification_of(model, part.plane) ** 2
        n_part, n_whole = max(n_part, area), max(n_whole, area)
    return config.replace(false_alarms=min(max(config.false_alarms * n_part / n_whole, 1e-12), 10.0))


def _is_far(detection: Detection, distance: int) -> NDArray[np.bool_]:
    """Return a mask (M, N) of the pixels that are farther than a distance from every reported region."""
    reported = detection.labels > 0
    if not reported.any():
        return np.ones(reported.shape, dtype=bool)
    return np.asarray(ndimage.distance_transform_edt(~reported) > distance)


def _record_steps(
    model: TrainedModel,
    network: UFlow,
    parts: Sequence[_Part],
    plans: Sequence[DefectPlan],
    seed: int,
    strides: tuple[int, int],
) -> Steps[list[PodRecord]]:
    """Plant and detect, image after image, until all plans are done or given up."""
    phase = "Detecting planted defects"
    records: list[PodRecord] = []
    queue = DefectQueue(plans, seed)
    n_pixels = 0
    while queue and parts and n_pixels < _BUDGET_PER_DEFECT * len(plans):
        part = parts[queue.turn % len(parts)]
        planted = queue.plant(
            part.values,
            part.n_defects,
            span=model.intensity.span,
            donors=[other.values for other in parts if other is not part],
            normal=part.free,
            dtype=part.dtype,
            margin=2 * strides[1],
        )
        if not planted.defects:
            yield from or_stop(Progress(phase, len(records), len(plans)))
            continue
        n_pixels += planted.labels.size
        steps = _without_messages(detect_steps(model, planted.plane(part.plane), part.config, network=network))
        with network.remembering_others(part.specimen):
            detection = yield from within(steps, Progress(phase, len(records), len(plans)))
        found = found_labels(planted.labels, detection.labels, finest=strides[0], coarsest=strides[1])
        records += [PodRecord(d.kind, d.size_px, d.contrast, d.label in found) for d in planted.defects]
    yield from or_stop(Progress(phase, len(plans), len(plans)))
    return records


def _without_messages(steps: Steps[Detection]) -> Steps[Detection]:
    """Run a job without its messages: a planted image differs from the normal ones on purpose."""
    try:
        event: Event = next(steps)
        while True:
            answer: Finish | None = None if isinstance(event, Message) else (yield event)
            event = steps.send(answer)
    except StopIteration as stop:
        result: Detection = stop.value
        return result
