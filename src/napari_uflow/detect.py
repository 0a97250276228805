"""Detection: from a model and a picture to heatmap, false-alarm map, labels and regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow import __version__
from napari_uflow.config import SMALLEST_DETECTION_TILE, DetectionConfig
from napari_uflow.devices import choose_device, free_memory, is_out_of_memory, memory_for_tiles
from napari_uflow.errors import ImageError
from napari_uflow.evidence import Evidence, evidence_steps
from napari_uflow.image import Plane
from napari_uflow.model.energy import likelihood_heatmap
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa import (
    LevelRegions,
    binomial_log10_nfa,
    candidate_threshold,
    chi2_log10_tail,
    combine_levels_in_pieces,
    counts_pictures,
    fields_needed,
    label_mask_in_pieces,
    log10_tests_for_any_size,
    log10_tests_published,
    published_regions,
    significant_regions_in_pieces,
)
from napari_uflow.progress import Event, Message, Pieces, Progress, Steps, at_once, drain, in_pieces, or_stop, within
from napari_uflow.result import Detection, RegionTable
from napari_uflow.scratch import is_large, let_go, room_for, strips
from napari_uflow.wording import counted

__all__ = ["LEAST_BACKGROUND", "detect", "detect_stack", "detect_stack_steps", "detect_steps", "promise", "resegment"]

# With less context than the flow sees, what is found depends on the tiles: they must not depend on the free memory.
_TILE_OF_CUT_HALO = 768
# Pixels of the shorter side below which most of what the model looks at is beyond the picture's border.
_SMALLEST = 64
# log10 NFA of pixels in no region, at least: the price of a test in a picture of a few positions may be below every
# threshold. Above the log10 of the largest number of false alarms that can be asked for.
LEAST_BACKGROUND = 2.0


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
        The picture, as :func:`~napari_uflow.read_planes` or :func:`~napari_uflow.planes_of` makes it.
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
        If a picture does not have the channels that the model was trained on, or is none.
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
        The picture.
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
        If the picture does not have the channels that the model was trained on.
    Stopped
        If it was asked to finish.
    """
    if not isinstance(plane, Plane):
        raise ImageError(f"a picture must be a Plane, as read_planes and planes_of make it, not {type(plane).__name__}")
    if plane.n_channels != model.n_channels:
        raise ImageError(
            f"'{plane.title}' has {plane.n_channels} channels, but the model was trained on {model.n_channels}; "
            f"choose the channels it was trained on ('Channels' under Advanced, or --channels)"
        )
    for text in _differences(model, plane):
        yield from or_stop(Message(text, warning=True))
    if network is None:
        network = model.network(choose_device(device))
    is_binomial = config.nfa == "binomial"
    threshold = candidate_threshold(config.binomial_probability_thr) if is_binomial else None
    evidence = yield from _evidence_that_fits(network, model, plane, config, threshold)
    doubts = []
    for text, doubt in _unlike(model, plane, evidence):
        yield from or_stop(Message(text, warning=True))
        doubts.append(doubt)
    has_large_maps = is_large(plane.shape, np.float32)
    if has_large_maps:
        free_memory(network.device)
    score = yield from _heatmap(evidence, plane.shape)

    steps = [Progress("Finding regions", i, 3) for i in range(4)]
    yield from or_stop(steps[0])
    n_sharing = config.n_sharing(n_planes)
    log10_nfa = yield from in_pieces(_log10_nfa(evidence, network, model, config, plane.shape, n_sharing), steps[0])
    yield from or_stop(steps[1])
    labels = yield from in_pieces(_labels(log10_nfa, config.false_alarms), steps[1])
    yield from or_stop(steps[2])
    regions = yield from in_pieces(RegionTable.measure_in_pieces(labels, log10_nfa, score, plane.pixel_size), steps[2])
    yield from or_stop(steps[3])
    energies, strides = evidence.energies, evidence.strides
    del evidence
    if has_large_maps:
        free_memory(network.device)
    n_fields = None if model.calibration is None else model.calibration.offset.n_fields
    text = "; ".join([promise(n_fields, config, n_planes), *doubts])
    provenance = {
        "source": plane.source,
        "detection": config.to_dict(),
        "n_planes": n_planes,
        "doubts": doubts,
        "promise": text,
        "n_held_out_fields": n_fields,
        "model": {
            "backbone": model.config.backbone,
            "feature_norm": model.config.feature_norm,
            "trained": model.provenance.get("date"),
        },
        "version": __version__,
    }
    return Detection(
        plane.title,
        score,
        log10_nfa,
        labels,
        regions,
        energies,
        strides,
        config.false_alarms,
        plane.pixel_size,
        plane.unit,
        text,
        provenance,
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
        If a picture does not have the channels that the model was trained on, or is none.
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
    put_by = _PutBy(planes)
    for i, plane in enumerate(planes, start=done):
        steps = detect_steps(model, plane, config, network=network, n_planes=len(planes))
        steps = steps if n_in_all == 1 else within(steps, Progress("Detecting", i, n_in_all))
        found.append(put_by(i - done, (yield from steps)))
    if total is None and n_in_all > 1:
        yield from or_stop(Progress("Detecting", n_in_all, n_in_all))
    return found


class _PutBy:
    """Keeps the maps of a stack that are large together in files, one for each kind, until they are asked for."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._kinds: dict[str, NDArray[Any]] = {}
        shape = (len(planes), *planes[0].shape) if len({plane.shape for plane in planes}) == 1 else ()
        # Of a single plane, and of planes that are large each, they lie there already.
        if len(planes) > 1 and shape and is_large(shape, np.float32) and not is_large(shape[1:], np.float32):
            self._kinds = {name: room_for(shape, np.float32) for name in ("score", "log10_nfa")}
            self._kinds["labels"] = room_for(shape, np.int32)

    def __call__(self, i: int, found: Detection) -> Detection:
        """Return what was found in a plane, with its maps where they are kept."""
        for name, maps in self._kinds.items():
            maps[i] = getattr(found, name)
            let_go(maps)
        return replace(found, **{name: maps[i] for name, maps in self._kinds.items()})


def _evidence_that_fits(
    network: UFlow, model: TrainedModel, plane: Plane, config: DetectionConfig, candidate_threshold: float | None
) -> Steps[Evidence]:
    """Run the network in tiles of the size that was asked for, or of half of it, as often as the memory wants it."""
    tile = config.tile
    is_cut = 0 <= config.halo < network.flow_halo
    if not tile:
        fits = network.tile_that_fits(plane.shape, memory_for_tiles(network.device))
        tile = _TILE_OF_CUT_HALO if is_cut else fits
    # Half of what is larger than the picture would be the same tile again.
    tile = max(SMALLEST_DETECTION_TILE, min(tile, -(-max(plane.shape) // network.align) * network.align))
    while True:
        try:
            return (
                yield from evidence_steps(
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


def promise(n_fields: int | None, config: DetectionConfig, n_planes: int = 1) -> str:
    """Say in one sentence what the number of false alarms of a detection rests on.

    Parameters
    ----------
    n_fields : int or None
        Independent fields that were held out of training; None for a model without calibration.
    config : DetectionConfig
        How it was detected.
    n_planes : int
        Planes of the stack.
    """
    counted_on = config.counted_on(n_planes)
    wanted = f"{counted(config.false_alarms, 'false alarm')} per {counted_on}"
    of_one = config.of_one_image(n_planes)
    if config.nfa != "size-conditional":
        return f"'{config.nfa}' is not calibrated: {wanted} holds only if the latents of normal images are ideal"
    if config.calibration == "none" or n_fields is None:
        return f"not calibrated: {wanted} holds only if the latents of normal images are ideal"
    rests_on = f"{n_fields} held-out fields" if n_fields else "pictures of a single field, or of the training itself"
    if config.calibration == "tails":
        return f"{wanted} rests on the tails fitted to {rests_on}"
    needed = fields_needed(of_one)
    if n_fields < needed:
        return f"{wanted} is an estimate from the tails fitted to {rests_on}: a promise takes {needed} held-out fields"
    over_images = f"on average over normal images like the {rests_on}"
    if counts_pictures(of_one, n_fields):
        if config.false_alarms >= 1:  # of a stack
            images = counted(config.false_alarms, "image")
            return f"any false alarm in at most {images} per {counted_on}, {over_images}"
        normal = "normal images" if counted_on == "image" else f"normal {counted_on.replace('stack', 'stacks')}"
        return f"any false alarm in at most {config.false_alarms:.3g} of {normal} like the {rests_on}, on average"
    return f"at most {wanted}, {over_images}"


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
    false_alarms = DetectionConfig(false_alarms=false_alarms).false_alarms
    labels = at_once(_labels(detection.log10_nfa, false_alarms))
    regions = RegionTable.measure(labels, detection.log10_nfa, detection.score, detection.pixel_size)
    config = detection.config.replace(false_alarms=false_alarms)
    text = promise(detection.provenance["n_held_out_fields"], config, detection.n_planes)
    text = "; ".join([text, *detection.provenance.get("doubts", ())])
    provenance = {**detection.provenance, "detection": config.to_dict(), "promise": text}
    return replace(
        detection, labels=labels, regions=regions, false_alarms=false_alarms, promise=text, provenance=provenance
    )


# A picture is called unlike the normal ones where a normal one is so with less than this probability, and where more
# than this part of its pixels are darker or brighter than 99.8 % of the normal ones. It is called larger where it has
# so many times the pixels of the pictures that false alarms were counted on.
_UNLIKELY = 1e-3
_OUTSIDE = 0.1
_LARGER = 16


def _differences(model: TrainedModel, plane: Plane) -> list[str]:
    """Say how the picture differs in size from those the model was trained on."""
    texts = []
    if min(plane.shape) < _SMALLEST:
        texts.append(
            f"'{plane.title}' is only {plane.shape[0]} x {plane.shape[1]} pixels: the model sees more reflection than "
            f"picture in it, and the false-alarm promise does not hold"
        )
    trained = model.provenance.get("pixel_size")
    if not trained or plane.pixel_size is None or plane.unit != model.provenance.get("unit"):
        return texts
    ratios = [a / b for a, b in zip(plane.pixel_size, trained, strict=True)]
    if all(0.8 < ratio < 1.25 for ratio in ratios):
        return texts
    return [
        *texts,
        f"a pixel of '{plane.title}' is {plane.pixel_size[0]:g} {plane.unit}, but the model was trained on pixels of "
        f"{trained[0]:g} {plane.unit}: structures have another size, and the false-alarm promise does not hold",
    ]


def _unlike(model: TrainedModel, plane: Plane, evidence: Evidence) -> list[tuple[str, str]]:
    """Say how the picture as a whole differs in brightness, size and strangeness, and what that does to the promise."""
    texts = []
    if evidence.outside > _OUTSIDE:
        text = (
            f"{evidence.outside:.0%} of the pixels of '{plane.title}' are darker or brighter than those the model was "
            f"trained on: another exposure or stain, and the false-alarm promise does not hold"
        )
        texts.append((text, "this does not hold here: brightness is not that of the normal pictures"))
    if model.calibration is None:
        return texts
    times = plane.shape[0] * plane.shape[1] / max(model.calibration.n_pixels, 1.0)
    if times > _LARGER:
        text = (
            f"'{plane.title}' is {times:.0f} times as large as the pictures that false alarms were counted on: the "
            f"promise is carried over to it by theory, not by counting"
        )
        texts.append((text, "by theory, not by counting, in a picture this large"))
    if model.calibration.unlike(evidence.tested) < _UNLIKELY:
        text = (
            f"'{plane.title}' as a whole is unlike the normal pictures (focus, magnification, contrast or material): "
            f"regions are looked for against its own background, and the false-alarm promise does not hold"
        )
        texts.append((text, "this does not hold here: the picture as a whole is unlike the normal ones"))
    return texts


def _heatmap(evidence: Evidence, shape: tuple[int, int]) -> Steps[NDArray[np.float32]]:
    """Likelihood heatmap, (M, N), strip by strip; NaN where not measured."""
    coarsest = max(evidence.strides)
    n_rows, n_cols = (-(-n // coarsest) for n in shape)
    score = room_for(shape, np.float32)
    for start, stop in strips(shape, coarsest):
        yield from or_stop(Progress("Drawing the heatmap", start, shape[0]))
        # one coarsest position more on each side: pixels are interpolated between the centres of positions
        first, last = max(start // coarsest - 1, 0), min(-(-stop // coarsest) + 1, n_rows)
        parts = []
        for values, stride in zip(evidence.energies, evidence.strides, strict=True):
            rows = values[first * coarsest // stride : last * coarsest // stride]
            size = ((last - first) * coarsest // stride, n_cols * coarsest // stride)
            missing = [(0, n - m) for n, m in zip(size, rows.shape, strict=True)]
            parts.append(torch.from_numpy(np.nan_to_num(np.pad(rows, missing, mode="edge"), nan=0.0))[None])
        drawn = likelihood_heatmap(parts, ((last - first) * coarsest, n_cols * coarsest))[0].numpy()
        score[start:stop] = drawn[start - first * coarsest : stop - first * coarsest, : shape[1]]
        score[start:stop][_unmeasured(evidence, shape, start, stop)] = np.nan
        let_go(score)
    return score


def _unmeasured(
    evidence: Evidence, shape: tuple[int, int], start: int = 0, stop: int | None = None
) -> NDArray[np.bool_]:
    """Return which pixels lie in a position of the finest level that was not measured, (stop - start, N)."""
    finest = evidence.strides[0]
    stop = shape[0] if stop is None else stop
    first = start // finest
    missing = ~np.isfinite(evidence.energies[0][first : -(-stop // finest)])
    return missing.repeat(finest, 0).repeat(finest, 1)[start - first * finest : stop - first * finest, : shape[1]]


def _log10_nfa(
    evidence: Evidence,
    network: UFlow,
    model: TrainedModel,
    config: DetectionConfig,
    shape: tuple[int, int],
    n_sharing: int,
) -> Pieces[NDArray[np.float32]]:
    """log10 NFA of every pixel by the method that was asked for, (M, N).

    It is the number expected in so many images: each is one more that is tested, whatever they have in common.
    """
    more = math.log10(n_sharing)
    energies, strides, channels = evidence.energies, evidence.strides, network.flow.latent_channels
    if config.nfa == "binomial":
        values = binomial_log10_nfa(
            evidence.candidates,
            channels,
            strides,
            shape,
            window_size=config.window_size,
            probability_thr=config.binomial_probability_thr,
            high_precision=config.high_precision,
            published=config.as_published,
        )
        # No test in a picture of a few positions, and no measurement, is no reason to report anything.
        price = math.log10(sum(e.size for e in energies))
        nothing = (values > price - 1e-6) | _unmeasured(evidence, shape)
        return np.where(nothing, np.float32(max(price + more, LEAST_BACKGROUND)), values + np.float32(more))
    if config.nfa == "paper":
        levels = published_regions(energies, channels, one_sided=not config.as_published)
        background = log10_tests_published([e.size for e in energies])
    elif config.calibration == "none" or model.calibration is None:
        prices = [log10_tests_for_any_size(max(1, int(np.isfinite(e).sum())), len(energies)) for e in energies]
        levels = []
        for e, c, price in zip(energies, channels, prices, strict=True):
            levels.append((yield from significant_regions_in_pieces(chi2_log10_tail(e, c), price)))
            yield
        background = max(prices)
    else:
        levels = yield from model.calibration.regions_in_pieces(
            evidence.tested, promised=config.calibration == "promised"
        )
        strides = evidence.tested_strides
        background = max((float(level.log10_nfa.max()) for level in levels if level.log10_nfa.size), default=0.0)
    levels = [LevelRegions(level.labels, level.log10_nfa + more) for level in levels]
    background = max(background + more, LEAST_BACKGROUND)
    out = room_for(shape, np.float32)
    return (yield from combine_levels_in_pieces(levels, strides, shape, background=background, out=out))


def _labels(log10_nfa: NDArray[np.float32], false_alarms: float) -> Pieces[NDArray[np.int32]]:
    return label_mask_in_pieces(log10_nfa, math.log10(false_alarms), out=room_for(log10_nfa.shape, np.int32))
