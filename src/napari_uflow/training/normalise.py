"""The feature normalisation, fitted to the training tiles, and the decision about the image's border."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from napari_uflow.errors import ImageError
from napari_uflow.model.border import LARGEST_EXCESS, Border, border_excess
from napari_uflow.model.energy import energy
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, Progress, Steps, or_stop
from napari_uflow.training.cache import FeatureCache, FeatureCaches, Tiles

__all__ = ["fit_norm_steps", "normalise_steps"]

# Tiles whose corners are measured.
_MOST_MEASURED = 64


def normalise_steps(network: UFlow, caches: FeatureCaches) -> Steps[None]:
    """Fit the feature normalisation of a new network; decide its border if the configuration leaves it open.

    Parameters
    ----------
    network : UFlow
        Its `norm` is fitted, and its `border` is set if `config.border` is ``auto``.
    caches : FeatureCaches
        Their borders are treated if the border becomes ``replicate``.

    Raises
    ------
    ImageError
        If no position of a level is normal throughout.
    """
    yield from fit_norm_steps(network, caches.train, "Fitting the feature normalisation")
    if network.config.border != "auto" or network.is_joint:  # positions of joint levels are judged by border class
        return
    excess = _largest_excess(network, caches.train)
    network.border = Border.choose(excess)
    if network.border.kind == "replicate":
        caches.apply_border(network.border, network.strides)
        yield from fit_norm_steps(network, caches.train, "Fitting the feature normalisation without the border")
    if excess > LARGEST_EXCESS:
        yield from or_stop(
            Message(
                f"Corners of normal images score {excess:.1f} SD above the interior; features at the border are "
                f"replaced by those further in"
            )
        )


def fit_norm_steps(network: UFlow, tiles: Tiles, phase: str) -> Steps[None]:
    """Fit the feature normalisation of all levels.

    Parameters
    ----------
    network : UFlow
        Its `norm` is fitted.
    tiles : Tiles
        Tiles of normal images.
    phase : str
        Name of the phase in the progress events.

    Raises
    ------
    ImageError
        If no position of a level is normal throughout.
    """
    for level, stride in enumerate(network.strides):
        yield from or_stop(Progress(phase, level, len(network.strides)))
        try:
            network.norm.fit(level, lambda level=level: _samples(network, tiles, level))  # type: ignore[misc]
        except ValueError as error:
            raise ImageError(
                f"no cell of {stride} x {stride} pixels is entirely normal: mark larger areas as normal, without "
                f"small holes"
            ) from error
    yield from or_stop(Progress(phase, len(network.strides), len(network.strides)))


def _samples(network: UFlow, tiles: Tiles, level: int) -> Iterator[tuple[Tensor, Tensor]]:
    for i in range(len(tiles)):
        tile = tiles[i]
        yield network.of_flow(tile.features)[level][None].float(), tile.is_normal[level][None]


@torch.no_grad()
def _largest_excess(network: UFlow, cache: FeatureCache) -> float:
    """Return the excess of the images' corners on the level where it is largest, in robust SD.

    That of their borders if no tile has a normal corner; NaN if none has a border either.
    """
    chosen = np.unique(np.linspace(0, len(cache) - 1, min(len(cache), _MOST_MEASURED)).astype(int))
    tiles = [cache[int(i)] for i in chosen]
    of_corners: list[float] = []
    of_borders: list[float] = []
    for level, stride in enumerate(network.strides):
        measured = []
        for tile in tiles:
            if tile.frame is not None:
                x = network.norm.level(level, tile.features[level][None].float().to(network.device))
                measured.append((energy(x)[0].cpu(), tile.is_normal[level], tile.frame))
        for corners, of_levels in ((True, of_corners), (False, of_borders)):
            found = [border_excess(*one, stride, corners=corners) for one in measured]
            known = [value for value in found if math.isfinite(value)]
            if known:
                of_levels.append(float(np.mean(known)))
    return max(of_corners or of_borders, default=math.nan)
