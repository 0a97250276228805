"""Size of the tiles of a detection for the available memory; needs no heavy import."""

from __future__ import annotations

__all__ = ["LARGEST_TILE", "MOST_OF_PROCESSOR", "SMALLEST_TILE", "detection_bytes", "tile_that_fits"]

SMALLEST_TILE = 512
"""Pixels; smaller tiles are used only after a lack of memory."""
LARGEST_TILE = 2048
MOST_OF_PROCESSOR = 0.7e9
"""Most bytes for the tiles on a processor: larger tiles gain little, and other programs need memory too."""
_STEP = 128
# Bytes per pixel that the network sees, without and per value of the features: fitted to the largest resident size of
# detections with tiles of 384 to 1024 pixels (scattering). An estimate for other backbones.
_BYTES_PER_PIXEL = 200
_BYTES_PER_VALUE = 55


def detection_bytes(shape: tuple[int, int], tile: int, values_per_pixel: float, halo: int, flow_halo: int) -> float:
    """Estimate the memory that the network needs for an image, without the maps of the whole image.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    tile : int
        Side of the tiles, in pixels.
    values_per_pixel : float
        Feature values of all levels per pixel.
    halo : int
        Pixels that the backbone sees around a tile.
    flow_halo : int
        Pixels that the flow sees around a tile.

    Returns
    -------
    float
        Bytes of a band of features over the whole width and of the computation of one tile.
    """
    rows, cols = shape
    band = cols * min(tile + 2 * flow_halo, rows) * values_per_pixel * 4
    seen = min(tile + 2 * halo, rows + halo) * min(tile + 2 * halo, cols + halo)
    return band + seen * (_BYTES_PER_PIXEL + _BYTES_PER_VALUE * values_per_pixel)


def tile_that_fits(shape: tuple[int, int], values_per_pixel: float, halo: int, flow_halo: int, memory: float) -> int:
    """Return the largest side of tiles, 512 to 2048 pixels, whose detection fits the memory.

    Larger tiles are faster, because their halos overlap less; the result does not depend on them.

    Parameters
    ----------
    shape, values_per_pixel, halo, flow_halo
        As in :func:`detection_bytes`.
    memory : float
        Bytes; if no tile fits, the smallest side is returned.
    """
    sides = range(LARGEST_TILE, SMALLEST_TILE, -_STEP)
    return next(
        (side for side in sides if detection_bytes(shape, side, values_per_pixel, halo, flow_halo) <= memory),
        SMALLEST_TILE,
    )
