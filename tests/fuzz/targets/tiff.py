"""Changed TIFF files: tags, offsets, sizes, compressed data."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutated_bytes

from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes


@cache
def _seeds() -> list[tuple[str, bytes, int]]:
    """Return the ending, the bytes and the place of the first tags of each file to change."""
    texture = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    stack = np.resize(texture, (2, 3, 48, 48))
    files = {
        "plain.tif": (texture, {}),
        "zlib.tif": (texture, {"compression": "zlib", "rowsperstrip": 32}),
        "lzw.tif": (texture, {"compression": "lzw", "predictor": True}),
        "tiled.tif": (texture, {"tile": (64, 64), "compression": "zlib"}),
        "jpeg.tif": (texture, {"tile": (64, 64), "compression": "jpeg"}),
        "big.tif": (texture, {"bigtiff": True}),
        "packbits.tif": (texture, {"compression": "packbits"}),
        "rgb.tif": (np.dstack([texture] * 3), {"photometric": "rgb"}),
        "float.tif": (texture.astype(np.float32), {"compression": "zlib", "predictor": 3}),
        "pages.tif": (np.resize(texture, (5, 40, 40)), {}),
        "palette.tif": (
            texture,
            {"photometric": "palette", "colormap": np.resize(texture, (3, 256)).astype(np.uint16)},
        ),
        "cmyk.tif": (np.dstack([texture] * 4), {"photometric": "separated", "compression": "zlib"}),
        "white.tif": (texture, {"photometric": "miniswhite", "extratags": [(274, 3, 1, 6, True)]}),
        "planes.tif": (np.stack([texture] * 4), {"photometric": "rgb", "planarconfig": "separate"}),
        "multiplied.tif": (np.dstack([texture] * 4), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        "jpeg2000.tif": (texture, {"tile": (64, 64), "compression": "jpeg2000"}),
        "bits.tif": (texture > 100, {}),
        "imagej.tif": (stack, {"imagej": True, "metadata": {"axes": "TZYX"}, "resolution": (3, 3)}),
        "ome.ome.tif": (stack, {"metadata": {"axes": "TCYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}}),
    }
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (values, options) in files.items():
            path = Path(folder, name)
            tifffile.imwrite(path, values, **options)
            with tifffile.TiffFile(path) as tiff:
                tags = tiff.pages[0].offset
            seeds.append(("".join(path.suffixes), path.read_bytes(), tags))
    return seeds


def _make(rng: random.Random, folder: Path) -> Path:
    ending, data, tags = rng.choice(_seeds())
    places = ((0, 400), (max(0, len(data) - 800), len(data)), (tags, tags + 250))
    first, last = rng.choice(places) if rng.random() < 0.85 else (0, len(data))
    path = folder / f"image{ending}"
    path.write_bytes(mutated_bytes(rng, data, first, last))
    return path


def read_windows(path: Path) -> None:
    """Read a window of the first planes, and the corner of the last one."""
    planes = read_planes(path)
    for plane in planes[:4]:
        plane.read(Window(-8, -8, min(200, plane.shape[0] + 16), min(200, plane.shape[1] + 16)))
    last = planes[-1]
    last.read(Window(max(0, last.shape[0] - 32), max(0, last.shape[1] - 32), 32, 32))


TARGET = Target("tiff", _make, read_windows)
