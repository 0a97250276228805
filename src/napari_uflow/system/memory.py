"""How large the tiles of a detection may be for the memory there is; nothing is loaded for it."""

from __future__ import annotations

__all__ = ["LARGEST_TILE", "MOST_OF_PROCESSOR", "SMALLEST_TILE", "detection_bytes", "tile_that_fits"]

SMALLEST_TILE = 512
"""Smaller tiles, in pixels, are chosen only where the memory turned out to be too little."""
LARGEST_TILE = 2048
MOST_OF_PROCESSOR = 0.7e9
"""Bytes for the tiles on a processor, at most: larger ones gain little there, and other programs want memory, too."""
_STEP = 128
# Bytes per pixel of what is looked at, besides and for each value of the features: from the greatest resident size of
# detections with tiles of 384 to 1024 pixels (scattering). An estimate for other backbones.
_BYTES_PER_PIXEL = 200
_BYTES_PER_VALUE = 55


def detection_bytes(shape: tuple[int, int], tile: int, values_per_pixel: float, halo: int, flow_halo: int) -> float:
    """Return about how much memory the network takes in an image, besides the maps of the whole image.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    tile : int
        Side of the tiles, in pixels.
    values_per_pixel : float
        Values of the features of all levels, over the pixels.
    halo : int
        Pixels that the backbone sees around a tile.
    flow_halo : int
        Pixels that the flow sees around a tile.

    Returns
    -------
    float
        Bytes: a band of features over the whole width, and what is computed of one tile.
    """
    rows, cols = shape
    band = cols * min(tile + 2 * flow_halo, rows) * values_per_pixel * 4
    seen = min(tile + 2 * halo, rows + halo) * min(tile + 2 * halo, cols + halo)
    return band + seen * (_BYTES_PER_PIXEL + _BYTES_PER_VALUE * values_per_pixel)


def tile_that_fits(shape: tuple[int, int], values_per_pixel: float, halo: int, flow_halo: int, memory: float) -> int:
    """Return the largest side of tiles, 512 to 2048 pixels, for which a detection keeps to so many bytes.

    Larger tiles take less time: less is looked at twice. What is found does not depend on them. Parameters are those of
    :func:`detection_bytes`; where no size keeps to the memory it is the smallest.
    """
    sides = range(LARGEST_TILE, SMALLEST_TILE, -_STEP)
    return next(
        (side for side in sides if detection_bytes(shape, side, values_per_pixel, halo, flow_halo) <= memory),
        SMALLEST_TILE,
    )
