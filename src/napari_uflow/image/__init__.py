"""Pictures as the rest of the package sees them: windows, tiles, planes, normal regions and their brightness."""

from napari_uflow.image.grid import Mosaic, Tile, TileGrid, Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import LazyArray, Plane, planes_of
from napari_uflow.image.region import NormalRegion, common_channels, field_of, hold_out_fields, sample_windows

__all__ = [
    "IntensityRange",
    "LazyArray",
    "Mosaic",
    "NormalRegion",
    "Plane",
    "Tile",
    "TileGrid",
    "Window",
    "common_channels",
    "field_of",
    "hold_out_fields",
    "planes_of",
    "sample_windows",
]
