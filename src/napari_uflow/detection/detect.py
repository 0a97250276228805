"""Detection: from a model and an image to heatmap, false-alarm map, labels and regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow import __version__
from napari_uflow.config import SMALLEST_DETECTION_TILE, DetectionConfig
from napari_uflow.detection.caveats import acquisition_caveats, score_caveats
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.maps import heatmap_steps, labels_in_pieces, log10_nfa_in_pieces
from napari_uflow.detection.result import Detection, Provenance, RegionTable
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import ScoreMaps, score_steps
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa.binomial import candidate_threshold
from napari_uflow.progress import Event, Message, Progress, Steps, at_once, drain, in_pieces, or_stop, within
from napari_uflow.system.devices import choose_device, free_memory, is_out_of_memory, memory_for_tiles
from napari_uflow.system.scratch import allocate_map, is_large, let_go

__all__ = ["detect", "detect_stack", "detect_stack_steps", "detect_steps", "resegment"]

# With less context than the flow sees, what is found depends on the tiles: they must not depend on the free memory.
_TILE_OF_CUT_HALO = 768


def detect(
    model: TrainedModel,
    plane: Plane,
    config: DetectionConfig | None = None,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Detection:
    """Detect the anomalies of one plane and return them.

    Parameters
    ----------
    model : TrainedModel
        A trained model, as :func:`~napari_uflow.train` returns it or :func:`~napari_uflow.load_model` reads it.
    plane : Plane
        The image, as :func:`~napari_uflow.read_planes` or :func:`~napari_uflow.planes_of` makes it.
    config : DetectionConfig, optional
        How to detect; the defaults without it.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    network : UFlow, optional
        ``model.network(...)``, built once where it is called many times.
    on_event : callable, optional
        Called with every :class:`~napari_uflow.progress.Message` (warnings among them) and
        :class:`~napari_uflow.progress.Progress`, several a second.

    Returns
    -------
    Detection
        Maps (M, N), the regions, and what the number of false alarms rests on.

    Raises
    ------
    ImageError
        If an image does not have the channels that the model was trained on, or is none.
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
    model : TrainedModel
        A trained model.
    plane : Plane
        The image.
    config : DetectionConfig
        How to detect.
    device : str
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    network : UFlow, optional
        ``model.network(...)``, built once where many planes are looked at.
    n_planes : int
        Planes of the stack that the plane is part of; they share the false alarms where `config` counts them per stack.

    Yields
    ------
    Message or Progress
        Where FINISH is sent, detection ends without a result.

    Returns
    -------
    Detection

    Raises
    ------
    ImageError
        If the image does not have the channels that the model was trained on.
    Stopped
        If it was asked to finish.
    """
    if not isinstance(plane, Plane):
        raise ImageError(f"an image must be a Plane, as read_planes and planes_of make it, not {type(plane).__name__}")
    if plane.n_channels != model.n_channels:
        raise ImageError(
            f"'{plane.title}' has {plane.n_channels} channels, but the model was trained on {model.n_channels}; "
            f"choose the channels it was trained on ('Channels' under Advanced, or --channels)"
        )
    caveats = acquisition_caveats(model, plane)
    for _, text in caveats:
        yield from or_stop(Message(text, warning=True))
    if network is None:
        network = model.network(choose_device(device))
    is_binomial = config.nfa == "binomial"
    threshold = candidate_threshold(config.binomial_probability_thr) if is_binomial else None
    scores = yield from _scores_in_tiles_that_fit(network, model, plane, config, threshold)
    for caveat, text in score_caveats(model, plane, scores):
        yield from or_stop(Message(text, warning=True))
        caveats.append((caveat, text))
    has_large_maps = is_large(plane.shape, np.float32)
    if has_large_maps:
        free_memory(network.device)
    score = yield from heatmap_steps(scores, plane.shape)

    steps = [Progress("Finding regions", i, 3) for i in range(4)]
    yield from or_stop(steps[0])
    n_sharing = config.n_sharing(n_planes)
    log10_nfa = yield from in_pieces(
        log10_nfa_in_pieces(scores, network, model, config, plane.shape, n_sharing), steps[0]
    )
    yield from or_stop(steps[1])
    labels = yield from in_pieces(labels_in_pieces(log10_nfa, config.false_alarms), steps[1])
    yield from or_stop(steps[2])
    regions = yield from in_pieces(RegionTable.measure_in_pieces(labels, log10_nfa, score, plane.pixel_size), steps[2])
    yield from or_stop(steps[3])
    energies, strides = scores.energies, scores.strides
    del scores
    if has_large_maps:
        free_memory(network.device)
    guarantee = Guarantee(
        false_alarms=config.false_alarms,
        n_images=n_sharing,
        n_specimens=None if model.calibration is None else model.calibration.offset.n_specimens,
        nfa=config.nfa,
        calibration=config.calibration,
        caveats=tuple(caveat for caveat, _ in caveats),
    )
    provenance = Provenance(
        source=plane.source,
        version=__version__,
        backbone=model.config.backbone,
        feature_norm=model.config.feature_norm,
        trained=model.record.date,
    )
    return Detection(
        name=plane.title,
        score=score,
        log10_nfa=log10_nfa,
        labels=labels,
        regions=regions,
        energies=energies,
        strides=strides,
        config=config,
        guarantee=guarantee,
        n_planes=n_planes,
        pixel_size=plane.pixel_size,
        unit=plane.unit,
        provenance=provenance,
    )


def detect_stack(
    model: TrainedModel,
    planes: Sequence[Plane],
    config: DetectionConfig | None = None,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Detection]:
    """Detect the anomalies of the planes of a stack and return them, plane by plane.

    Parameters
    ----------
    model, config, device, network, on_event
        As in :func:`~napari_uflow.detect`.
    planes : sequence of Plane
        The planes of a stack, as :func:`~napari_uflow.read_planes` or :func:`~napari_uflow.planes_of` makes them; they
        share the accepted false alarms where `config` counts them per stack.

    Returns
    -------
    list of Detection
        One for each plane, with labels from 1 in each; :meth:`Detection.numbered_after` makes them unique.

    Raises
    ------
    ImageError
        If an image does not have the channels that the model was trained on, or is none.
    """
    config = config or DetectionConfig()
    return drain(detect_stack_steps(model, planes, config, device=device, network=network), on_event)


def detect_stack_steps(
    model: TrainedModel,
    planes: Sequence[Plane],
    config: DetectionConfig,
    *,
    device: str = "auto",
    network: UFlow | None = None,
    done: int = 0,
    total: int | None = None,
) -> Steps[list[Detection]]:
    """Detect the anomalies of the planes of a stack, step by step.

    Parameters
    ----------
    planes : sequence of Plane
        The planes of a stack, which share the accepted false alarms where `config` counts them per stack.
    model, config, device, network
        As in :func:`detect_steps`.
    done, total : int
        Planes that were looked at before, and planes in all, where the stack is one of several; the last event, that
        all is done, is left to whoever goes through them.

    Returns
    -------
    list of Detection
        One for each plane, with labels from 1 in each; :meth:`Detection.numbered_after` makes them unique.

    Raises
    ------
    ImageError, Stopped
        As in :func:`detect_steps`.
    """
    if not hasattr(planes, "__len__"):
        raise ImageError("a stack must be a list of planes; detect takes a single one")
    if network is None:
        network = model.network(choose_device(device))
    n_in_all = len(planes) if total is None else total
    found: list[Detection] = []
    stack_store = _StackStore(planes)
    for i, plane in enumerate(planes, start=done):
        steps = detect_steps(model, plane, config, network=network, n_planes=len(planes))
        steps = steps if n_in_all == 1 else within(steps, Progress("Detecting", i, n_in_all))
        found.append(stack_store(i - done, (yield from steps)))
    if total is None and n_in_all > 1:
        yield from or_stop(Progress("Detecting", n_in_all, n_in_all))
    return found


class _StackStore:
    """Keeps the maps of a stack that are large together in files, one for each kind, until they are asked for."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._kinds: dict[str, NDArray[Any]] = {}
        shape = (len(planes), *planes[0].shape) if len({plane.shape for plane in planes}) == 1 else ()
        # Of a single plane, and of planes that are large each, they lie there already.
        if len(planes) > 1 and shape and is_large(shape, np.float32) and not is_large(shape[1:], np.float32):
            self._kinds = {name: allocate_map(shape, np.float32) for name in ("score", "log10_nfa")}
            self._kinds["labels"] = allocate_map(shape, np.int32)

    def __call__(self, i: int, found: Detection) -> Detection:
        """Return what was found in a plane, with its maps where they are kept."""
        for name, maps in self._kinds.items():
            maps[i] = getattr(found, name)
            let_go(maps)
        return replace(found, **{name: maps[i] for name, maps in self._kinds.items()})


def _scores_in_tiles_that_fit(
    network: UFlow, model: TrainedModel, plane: Plane, config: DetectionConfig, candidate_threshold: float | None
) -> Steps[ScoreMaps]:
    """Run the network in tiles of the size that was asked for, or of half of it, as often as the memory wants it."""
    tile = config.tile
    is_cut = 0 <= config.halo < network.flow_halo
    if not tile:
        fits = network.tile_that_fits(plane.shape, memory_for_tiles(network.device))
        tile = _TILE_OF_CUT_HALO if is_cut else fits
    # Half of what is larger than the image would be the same tile again.
    tile = max(SMALLEST_DETECTION_TILE, min(tile, -(-max(plane.shape) // network.align) * network.align))
    while True:
        try:
            return (
                yield from score_steps(
                    network,
                    model.intensity,
                    plane,
                    tile=tile,
                    halo=config.halo,
                    candidate_threshold=candidate_threshold,
                )
            )
        except (RuntimeError, MemoryError) as error:
            if tile <= SMALLEST_DETECTION_TILE or not network.is_size_free or not is_out_of_memory(error):
                raise
        # Behind the handler: the error holds on to what did not fit.
        free_memory(network.device)
        same = "finds nearly the same: the halo is cut" if is_cut else "finds the same"
        smaller = max(SMALLEST_DETECTION_TILE, tile // 2 // network.align * network.align)
        yield from or_stop(
            Message(
                f"there is not enough memory for tiles of {tile} pixels: '{plane.title}' is read in tiles of "
                f"{smaller}, which takes longer and {same}",
                warning=True,
            )
        )
        tile = smaller


def resegment(detection: Detection, false_alarms: float) -> Detection:
    """Return the detection for another number of false alarms than it was made for; needs no network.

    Parameters
    ----------
    detection : Detection
        What was found.
    false_alarms : float
        False alarms accepted per image, or per stack where it was counted so.

    Raises
    ------
    ConfigError
        If the number is out of its range.
    """
    config = detection.config.replace(false_alarms=false_alarms)
    labels = at_once(labels_in_pieces(detection.log10_nfa, false_alarms))
    regions = RegionTable.measure(labels, detection.log10_nfa, detection.score, detection.pixel_size)
    return replace(
        detection,
        labels=labels,
        regions=regions,
        config=config,
        guarantee=replace(detection.guarantee, false_alarms=config.false_alarms),
    )
