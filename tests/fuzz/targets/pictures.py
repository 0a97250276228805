"""Changed PNG, JPEG and BMP files: headers, chunks, EXIF, compressed pixels, wrong endings."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutated_bytes
from tests.fuzz.targets.tiff import read_windows


@cache
def _seeds() -> list[tuple[str, bytes]]:
    """Return ending and bytes of each file to change."""
    texture = np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8)
    grey, rgb = Image.fromarray(texture), Image.fromarray(np.dstack([texture] * 3))
    exif = Image.Exif()
    exif[0x112] = 6
    deep = texture.astype(np.uint16) * 200
    seeds = [
        (".png", imagecodecs.png_encode(values))
        for values in (deep, np.dstack([deep] * 2), np.dstack([deep] * 3), np.dstack([texture] * 4))
    ]
    for ending, image, options in (
        (".png", grey.convert("P"), {"transparency": 3}),
        (".png", grey.convert("1"), {}),
        (".png", rgb, {"exif": exif}),
        (".png", grey, {"save_all": True, "append_images": [grey.rotate(180)]}),
        (".jpg", rgb, {"exif": exif}),
        (".jpg", grey, {"progressive": True}),
        (".jpg", rgb.convert("CMYK"), {}),
        (".bmp", rgb, {}),
        (".bmp", grey.convert("P"), {}),
        (".bmp", grey.convert("1"), {}),
        (".bmp", rgb.convert("RGBA"), {}),
    ):
        file = io.BytesIO()
        image.save(file, {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP"}[ending], **options)
        seeds.append((ending, file.getvalue()))
    return seeds


def _make(rng: random.Random, folder: Path) -> Path:
    ending, data = rng.choice(_seeds())
    last = rng.choice((60, 300, len(data)))
    data = mutated_bytes(rng, data, 0, min(last, len(data)))
    if ending == ".png" and rng.random() < 0.8:
        data = _with_checksums(data)
    if rng.random() < 0.1:
        ending = rng.choice((".png", ".jpg", ".bmp"))
    path = folder / f"image{ending}"
    path.write_bytes(data)
    return path


def _with_checksums(data: bytes) -> bytes:
    """Return a PNG file with the checksums of its chunks, so that its changes are looked at."""
    changed, place = bytearray(data), 8
    while place + 12 <= len(changed):
        (size,) = struct.unpack_from(">I", changed, place)
        end = place + 8 + size
        if end + 4 > len(changed):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(changed[place + 4 : end]))
        place = end + 4
    return bytes(changed)


TARGET = Target("pictures", _make, read_windows)
