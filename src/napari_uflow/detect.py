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
from napari_uflow.model.energy import energy, likelihood_heatmap
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.nfa import (
    LOG10_BETA,
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
    mosaics = [Mosaic(plane.shape, stride) for stride in network.strides]
    for i, tile in enumerate(grid):
        yield from or_stop(Progress("Detecting", i, len(grid)))
        outer = network.reading_window(tile.outer, plane.shape)
        values = plane.read(outer)
        is_valid: NDArray[np.bool_] = np.isfinite(values.sum(axis=0))
        picture = torch.from_numpy(model.intensity.apply(values))[None].to(torch_device)
        maps = _energies(network, picture, outer, tile.outer)
        for mosaic, values_at, stride in zip(mosaics, maps, network.strides, strict=True):
            if not is_valid.all():
                inside = is_valid[tile.outer.shifted(-outer.row, -outer.col).slices()]
                values_at[~_all_in_cells(inside, stride)] = np.nan
            mosaic.put(tile, values_at)
    yield from or_stop(Progress("Detecting", len(grid), len(grid)))

    energies = tuple(mosaic.values for mosaic in mosaics)
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
    log10_nfa = _log10_nfa(energies, network, model, config, plane.shape)
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
def _energies(network: UFlow, picture: torch.Tensor, outer: Window, kept: Window) -> list[NDArray[np.float32]]:
    features: Sequence[torch.Tensor] = network.features(picture)
    if outer != kept:
        inner = kept.shifted(-outer.row, -outer.col)
        features = [
            x[:, :, inner.row // s : inner.stop_row // s, inner.col // s : inner.stop_col // s]
            for x, s in zip(features, network.strides, strict=True)
        ]
    return [energy(z)[0].cpu().numpy() for z in network.latents(features).z]


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
    network: UFlow,
    model: TrainedModel,
    config: DetectionConfig,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    n_levels = len(energies)
    levels, prices = [], []
    for i, values in enumerate(energies):
        n_positions = max(1, int(np.isfinite(values).sum()))
        tail = _tail(model.calibration, i) if config.energy_tail == "held-out" else None
        if tail is None:
            area = 1.0
            log10_p = chi2_log10_tail(values, network.flow.latent_channels[i])
        else:
            area = tail.correlation_area
            # Correlated positions count as one: both the size of a region and the number of places are divided by the
            # area over which energies are correlated. significant_regions adds LOG10_BETA per position.
            log10_p = (tail.log10_tail(values) + LOG10_BETA) / area - LOG10_BETA
            log10_p[~np.isfinite(values)] = 0.0
        price = log10_tests_for_any_size(max(1, math.ceil(n_positions / area)), n_levels)
        levels.append(significant_regions(log10_p, price))
        prices.append(price)
    return combine_levels(levels, network.strides, shape, background=max(prices))


def _tail(calibration: Mapping[str, Any], level: int) -> EnergyTail | None:
    tails = calibration.get("energy_tails")
    return EnergyTail.from_dict(tails[level]) if tails else None
