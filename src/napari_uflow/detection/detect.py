"""Detection in one plane: from a model and an image to heatmap, false-alarm map, labels and regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_uflow import __version__
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.caveats import acquisition_caveats, in_condition, score_caveats
from napari_uflow.detection.guarantee import Caveat, Guarantee
from napari_uflow.detection.magnification import magnification_of
from napari_uflow.detection.maps import heatmap_steps, label_steps, log10_nfa_steps, measure_steps
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection, Provenance
from napari_uflow.detection.tiles import fitting_score_steps
from napari_uflow.errors import ImageError
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.plane import Plane
from napari_uflow.image.scaled import scaled_plane
from napari_uflow.model.inference import ScoreMaps
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.conformal import ConformalOffset
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.progress import Event, Message, Progress, Steps, drain, or_stop
from napari_uflow.system.devices import choose_device, free_memory
from napari_uflow.system.scratch import allocate_map, is_large

__all__ = ["detect", "detect_steps", "resegment"]

# Regions that do not count in the statistics of an image as a whole, whatever number of false alarms is accepted: few
# normal images have any.
_LOG10_ANOMALOUS = -1.0


def detect(
    model: TrainedModel,
    plane: Plane,
    config: DetectionConfig | None = None,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Detection:
    """Detect the anomalies of one plane.

    Parameters
    ----------
    model : TrainedModel
        Model from :func:`~napari_uflow.train` or :func:`~napari_uflow.load_model`.
    plane : Plane
        Image from :func:`~napari_uflow.read_planes` or :func:`~napari_uflow.planes_of`.
    config : DetectionConfig, optional
        Parameters of the detection; the defaults if omitted.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    network : UFlow, optional
        ``model.network(...)``, to build it once for many calls.
    on_event : callable, optional
        Called several times a second with every :class:`~napari_uflow.progress.Message` (including warnings) and
        :class:`~napari_uflow.progress.Progress`.

    Returns
    -------
    Detection
        Maps (M, N), regions, and the guarantee of the number of false alarms.

    Raises
    ------
    ImageError
        If `plane` is not a Plane or its number of channels differs from that of the training images.
    """
    return drain(detect_steps(model, plane, config or DetectionConfig(), device=device, network=network), on_event)


def detect_steps(
    model: TrainedModel,
    plane: Plane,
    config: DetectionConfig,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    n_planes: int = 1,
) -> Steps[Detection]:
    """Detect the anomalies of one plane, step by step.

    Parameters
    ----------
    model, plane, config, device, network
        As in :func:`detect`.
    n_planes : int
        Planes of the stack that contains the plane; they share the false alarms if `config` counts them per stack.

    Yields
    ------
    Message or Progress
        The answer FINISH ends the detection without a result.

    Returns
    -------
    Detection

    Raises
    ------
    ImageError
        As in :func:`detect`.
    Stopped
        If the job was asked to finish.
    """
    _check(model, plane)
    magnification = magnification_of(model, plane)
    caveats = acquisition_caveats(model, plane, magnification)
    calibrated, of_condition = in_condition(model, plane, config.condition)
    caveats += of_condition
    yield from _warn(caveats)
    if network is None:
        network = model.network(choose_device(device))
    scores = yield from fitting_score_steps(network, model, scaled_plane(plane, magnification), config)
    of_scores = score_caveats(calibrated, plane, scores)
    scores = scores.of_magnified(magnification)
    yield from _warn(of_scores)
    has_large_maps = is_large(plane.shape, np.float32)
    if has_large_maps:
        free_memory(network.device)
    score, log10_nfa, labels, regions = yield from _map_steps(scores, calibrated, plane, config, n_planes)
    guarantee = _guarantee(calibrated, plane, scores, config, n_planes)
    energies, strides = scores.energies, scores.strides
    profile = _profile(scores, model, config, log10_nfa)
    del scores
    if has_large_maps:
        free_memory(network.device)
    return Detection(
        name=plane.title,
        score=score,
        log10_nfa=log10_nfa,
        labels=labels,
        regions=regions,
        energies=energies,
        strides=strides,
        config=config,
        guarantee=replace(guarantee, caveats=tuple(caveat for caveat, _ in [*caveats, *of_scores])),
        n_planes=n_planes,
        pixel_size=plane.pixel_size,
        unit=plane.unit,
        provenance=_provenance(model, plane),
        offset=ConformalOffset() if calibrated.calibration is None else calibrated.calibration.offset,
        profile=profile,
    )


def _check(model: TrainedModel, plane: Plane) -> None:
    if not isinstance(plane, Plane):
        raise ImageError(f"an image must be a Plane, from read_planes or planes_of, not {type(plane).__name__}")
    if plane.n_channels != model.n_channels:
        raise ImageError(
            f"'{plane.title}' has {plane.n_channels} channels, but the model was trained on {model.n_channels}; "
            f"choose the channels it was trained on"
        )


def _warn(caveats: Iterable[tuple[Caveat, str]]) -> Steps[None]:
    for _, text in caveats:
        yield from or_stop(Message(text, warning=True))


def _map_steps(
    scores: ScoreMaps, model: TrainedModel, plane: Plane, config: DetectionConfig, n_planes: int
) -> Steps[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], RegionTable]]:
    """Compute heatmap, log10 NFA, labels and regions from the scores."""
    score = yield from heatmap_steps(scores, model.calibration, config, plane.shape)
    steps = [Progress("Finding regions", i, 3) for i in range(4)]
    yield from or_stop(steps[0])
    log10_nfa = yield from log10_nfa_steps(scores, plane, model, config, config.n_sharing(n_planes), steps[0])
    yield from or_stop(steps[1])
    labels = yield from label_steps(log10_nfa, config.false_alarms, steps[1])
    yield from or_stop(steps[2])
    regions = yield from measure_steps(labels, log10_nfa, score, plane.pixel_size, steps[2])
    yield from or_stop(steps[3])
    return score, log10_nfa, labels, regions


def _profile(
    scores: ScoreMaps, model: TrainedModel, config: DetectionConfig, log10_nfa: NDArray[np.float32]
) -> tuple[float, ...]:
    """Return the statistics of the image as a whole; none with a method that they were not calibrated for."""
    if model.calibration is None or config.nfa != "size-conditional" or config.calibration == "none":
        return ()
    are_anomalous = []
    for values, stride in zip(scores.tested, scores.tested_strides, strict=True):
        of_positions = [(np.arange(n) + 0.5) * stride for n in values.shape]
        rows, cols = (
            np.minimum(at, n - 1).astype(np.intp) for at, n in zip(of_positions, log10_nfa.shape, strict=True)
        )
        are_anomalous.append(log10_nfa[np.ix_(rows, cols)] <= _LOG10_ANOMALOUS)
    return model.calibration.profile_of(scores.tested, are_anomalous)


def _guarantee(
    model: TrainedModel, plane: Plane, scores: ScoreMaps, config: DetectionConfig, n_planes: int
) -> Guarantee:
    """Return the guarantee of a plane, without its caveats."""
    accepted = Guarantee(
        false_alarms=config.false_alarms,
        n_images=config.n_sharing(n_planes),
        nfa=config.nfa,
        calibration=config.calibration,
    )
    fitted = model.calibration
    if fitted is None:
        return accepted
    known = replace(
        accepted,
        n_areas=float(f"{fitted.n_areas(scores.tested):.3g}") if fitted.is_larger(scores.tested) else 1.0,
        area=_area_text(plane, fitted.area / scores.magnification**2),
        n_specimens=fitted.offset.n_specimens,
    )
    return known.at(config.false_alarms, fitted.offset)


def _area_text(plane: Plane, n_pixels: float) -> str:
    """Return an area of a plane in words; "" if it is not known."""
    size = PixelSize.of(plane)
    return (size.area_text(n_pixels) if size else "") or (f"{n_pixels:.0f} pixels" if n_pixels else "")


def _provenance(model: TrainedModel, plane: Plane) -> Provenance:
    return Provenance(
        source=plane.source,
        version=__version__,
        backbone=model.config.backbone,
        feature_norm=model.config.feature_norm,
        trained=model.record.date,
    )


def resegment(detection: Detection, false_alarms: float) -> Detection:
    """Return a detection for another number of accepted false alarms, without running the network.

    Parameters
    ----------
    detection : Detection
        Detection with any number of false alarms.
    false_alarms : float
        Accepted false alarms per image or per stack, as `detection` counts them.

    Raises
    ------
    ConfigError
        If the number is out of its range.
    """
    config = detection.config.replace(false_alarms=false_alarms)
    out = allocate_map(detection.log10_nfa.shape, np.int32)
    labels = label_mask(detection.log10_nfa, math.log10(config.false_alarms), out=out)
    regions = RegionTable.measure(labels, detection.log10_nfa, detection.score, detection.pixel_size)
    return replace(
        detection,
        labels=labels,
        regions=regions,
        config=config,
        guarantee=detection.guarantee.at(config.false_alarms, detection.offset),
    )
