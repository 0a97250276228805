"""Files: pictures are read lazily, and everything that is written is written as a whole or not at all.

The functions for model files are loaded when they are first used: they need torch, the others do not.
"""

from typing import TYPE_CHECKING, Any

from napari_uflow.store.files import atomic_path
from napari_uflow.store.geojson import write_geojson
from napari_uflow.store.regions import write_regions
from napari_uflow.store.tiff import find_images, read_planes, write_tiff, write_tiff_tiles

if TYPE_CHECKING:
    from napari_uflow.store.checkpoint import load_model, read_card, save_model

__all__ = [
    "atomic_path",
    "find_images",
    "load_model",
    "read_card",
    "read_planes",
    "save_model",
    "write_geojson",
    "write_regions",
    "write_tiff",
    "write_tiff_tiles",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from napari_uflow.store import checkpoint

    globals()[name] = getattr(checkpoint, name)
    return globals()[name]
