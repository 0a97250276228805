"""Files: pictures are read lazily, and everything that is written is written as a whole or not at all."""

from napari_uflow.store.checkpoint import load_model, read_card, save_model
from napari_uflow.store.files import atomic_path
from napari_uflow.store.regions import write_regions
from napari_uflow.store.tiff import find_images, read_planes, write_tiff, write_tiff_tiles

__all__ = [
    "atomic_path",
    "find_images",
    "load_model",
    "read_card",
    "read_planes",
    "save_model",
    "write_regions",
    "write_tiff",
    "write_tiff_tiles",
]
