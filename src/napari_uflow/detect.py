"""Detection: from a model and a picture to heatmap, false-alarm map, labels and regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.config import DetectionConfig
from napari_uflow.devices import choose_device
from napari_uflow.errors import ImageError
from napari_uflow.image import Mosaic, Plane, TileGrid, Window
from napari_uflow.model.energy import energy, likelihood_heatmap, spread
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa import (
    chi2_log10_tail,
    combine_levels,
    label_mask,
    log10_tests_for_any_size,
    significant_regions,
)
from napari_uflow.nfa.calibration import EnergyTail
from napari_uflow.progress import Event, Message, Progress, Steps, drain, or_stop
from napari_uflow.result import Detection, RegionTable

__all__ = ["detect", "detect_steps", "resegment"]

# log10 NFA of pixels in no region, at least: the price of a test in a picture of a few positions may be below every
# threshold. Above the log10 of the largest number of false alarms that can be asked for.
_LEAST_BACKGROUND = 2.0


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

    Parameters are those of :func:`detect_steps`; `on_event` is called with every event.
    """
    return drain(detect_steps(model, plane, config or DetectionConfig(), device=device, network=network), on_event)


def detect_steps(
    model: TrainedModel,
    plane: Plane,
    config: DetectionConfig,
    *,
    device: str = "auto",
    network: UFlow | None = None,
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
    if plane.n_channels != model.n_channels:
        raise ImageError(
            f"'{plane.title}' has {plane.n_channels} channels, but the model was trained on {model.n_channels}; "
            f"choose the channels it was trained on"
        )
    for text in _differences(model, plane):
        yield from or_stop(Message(text, warning=True))
    if network is None:
        network = model.network(choose_device(device))
    torch_device = next(network.flow.parameters()).device

    grid = _grid(network, plane.shape, config)
    # Energies of all levels, then spreads of all levels.
    strides = network.strides * 2
    mosaics = [Mosaic(plane.shape, stride) for stride in strides]
    for i, tile in enumerate(grid):
        yield from or_stop(Progress("Detecting", i, len(grid)))
        outer = network.reading_window(tile.outer, plane.shape)
        values = plane.read(outer)
        is_valid: NDArray[np.bool_] = np.isfinite(values.sum(axis=0))
        picture = torch.from_numpy(model.intensity.apply(values))[None].to(torch_device)
        maps = _evidence(network, picture, outer, tile.outer)
        for mosaic, values_at, stride in zip(mosaics, maps, strides, strict=True):
            if not is_valid.all():
                inside = is_valid[tile.outer.shifted(-outer.row, -outer.col).slices()]
                values_at[~_all_in_cells(inside, stride)] = np.nan
            mosaic.put(tile, values_at)
    yield from or_stop(Progress("Detecting", len(grid), len(grid)))

    evidence = tuple(mosaic.values for mosaic in mosaics)
    energies, spreads = evidence[: len(network.strides)], evidence[len(network.strides) :]
    padded = [
        np.nan_to_num(_padded(e, plane.shape, stride, max(network.strides)), nan=0.0)
        for e, stride in zip(energies, network.strides, strict=True)
    ]
    size = tuple(-(-n // max(network.strides)) * max(network.strides) for n in plane.shape)
    heatmap = likelihood_heatmap([torch.from_numpy(e)[None] for e in padded], (size[0], size[1]))[0].numpy()
    score = np.ascontiguousarray(heatmap[: plane.shape[0], : plane.shape[1]])
    unmeasured = ~np.isfinite(energies[0]).repeat(network.strides[0], 0).repeat(network.strides[0], 1)
    score[unmeasured[: plane.shape[0], : plane.shape[1]]] = np.nan

    yield from or_stop(Progress("Finding regions", 0, 1))
    log10_nfa = _log10_nfa(energies, spreads, network, model, config, plane.shape)
    labels = label_mask(log10_nfa, math.log10(config.false_alarms))
    regions = RegionTable.measure(labels, log10_nfa, score, plane.pixel_size)
    provenance = {
        "source": plane.source,
        "detection": config.to_dict(),
        "model": {
            "backbone": model.config.backbone,
            "feature_norm": model.config.feature_norm,
            "trained": model.provenance.get("date"),
        },
        "version": version("napari-uflow"),
    }
    return Detection(
        plane.title,
        score,
        log10_nfa,
        labels,
        regions,
        energies,
        network.strides,
        config.false_alarms,
        plane.pixel_size,
        plane.unit,
        provenance,
    )


def resegment(detection: Detection, false_alarms: float) -> Detection:
    """Return the detection for another number of false alarms per picture; needs no network.

    Parameters
    ----------
    detection : Detection
        What was found.
    false_alarms : float
        False alarms accepted per picture.

    Raises
    ------
    ConfigError
        If the number is out of its range.
    """
    false_alarms = DetectionConfig(false_alarms=false_alarms).false_alarms
    labels = label_mask(detection.log10_nfa, math.log10(false_alarms))
    regions = RegionTable.measure(labels, detection.log10_nfa, detection.score, detection.pixel_size)
    provenance = dict(detection.provenance)
    provenance["detection"] = {**provenance.get("detection", {}), "false_alarms": false_alarms}
    return replace(detection, labels=labels, regions=regions, false_alarms=false_alarms, provenance=provenance)


def _differences(model: TrainedModel, plane: Plane) -> list[str]:
    """Say how the picture differs from those the model was trained on."""
    trained = model.provenance.get("pixel_size")
    if not trained or plane.pixel_size is None or plane.unit != model.provenance.get("unit"):
        return []
    ratios = [a / b for a, b in zip(plane.pixel_size, trained, strict=True)]
    if all(0.8 < ratio < 1.25 for ratio in ratios):
        return []
    return [
        f"a pixel of '{plane.title}' is {plane.pixel_size[0]:g} {plane.unit}, but the model was trained on pixels of "
        f"{trained[0]:g} {plane.unit}: structures have another size, and the false-alarm promise does not hold"
    ]


def _grid(network: UFlow, shape: tuple[int, int], config: DetectionConfig) -> TileGrid:
    align = max(network.strides)
    if not network.is_size_free:
        return TileGrid(shape, network.tile, 0, align)
    halo = network.halo if config.halo < 0 else -(-config.halo // align) * align
    tile = max(align, config.tile // align * align)
    if max(shape) <= tile + 2 * halo:  # a picture no larger than one tile with its halo is computed as a whole
        tile = -(-max(shape) // align) * align
    return TileGrid(shape, tile, halo, align)


@torch.no_grad()
def _evidence(network: UFlow, picture: torch.Tensor, outer: Window, kept: Window) -> list[NDArray[np.float32]]:
    """Return the energies of all levels, then the spreads of all levels."""
    features: Sequence[torch.Tensor] = network.features(picture)
    if outer != kept:
        inner = kept.shifted(-outer.row, -outer.col)
        features = [
            x[:, :, inner.row // s : inner.stop_row // s, inner.col // s : inner.stop_col // s]
            for x, s in zip(features, network.strides, strict=True)
        ]
    latents = network.latents(features)
    maps = [energy(z) for z in latents.z]
    maps += [spread(ln_det, z.shape[1]) for z, ln_det in zip(latents.z, latents.ln_det, strict=True)]
    # Latents that overflow are as strange as can be; NaN is kept for what was not measured.
    largest = torch.finfo(torch.float32).max
    return [values[0].nan_to_num(nan=largest, posinf=largest).cpu().numpy() for values in maps]


def _all_in_cells(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    m, n = mask.shape
    cells: NDArray[np.bool_] = np.min(mask.reshape(m // stride, stride, n // stride, stride), axis=(1, 3))
    return cells


def _padded(values: NDArray[np.float32], shape: tuple[int, int], stride: int, align: int) -> NDArray[np.float32]:
    """Repeat the last positions so that all levels cover the same whole number of coarsest positions."""
    size = [-(-n // align) * align // stride for n in shape]
    return np.pad(values, [(0, size[0] - values.shape[0]), (0, size[1] - values.shape[1])], mode="edge")


def _log10_nfa(
    energies: Sequence[NDArray[np.float32]],
    spreads: Sequence[NDArray[np.float32]],
    network: UFlow,
    model: TrainedModel,
    config: DetectionConfig,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Test the regions of every map of evidence; the price counts all maps that are tested."""
    tails = _tails(model.calibration) if config.energy_tail == "held-out" else None
    maps: list[tuple[NDArray[np.float32], int, NDArray[np.float64], float]] = []
    if tails is None:
        for values, stride, channels in zip(energies, network.strides, network.flow.latent_channels, strict=True):
            maps.append((values, stride, chi2_log10_tail(values, channels), 1.0))
    else:
        for values, stride, tail in zip((*energies, *spreads), network.strides * 2, tails, strict=True):
            maps.append((values, stride, tail.log10_tail(values), tail.correlation_area))
    levels, prices = [], []
    for values, _, log10_p, area in maps:
        prices.append(log10_tests_for_any_size(max(1, int(np.isfinite(values).sum())), len(maps)))
        levels.append(significant_regions(log10_p, prices[-1], area))
    background = max(*prices, _LEAST_BACKGROUND)
    return combine_levels(levels, [stride for _, stride, _, _ in maps], shape, background=background)


def _tails(calibration: Mapping[str, Any]) -> list[EnergyTail] | None:
    """Return the tails of the energies of all levels, then of the spreads; None where none could be fitted."""
    if "energy_tails" not in calibration:
        return None
    return [EnergyTail.from_dict(tail) for name in ("energy_tails", "spread_tails") for tail in calibration[name]]
