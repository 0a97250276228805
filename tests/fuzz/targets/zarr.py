"""Changed OME-Zarr folders: metadata of groups and arrays, chunks, links."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from tests.fuzz.harness import Target
from tests.fuzz.mutate import mutated_bytes, mutated_json
from tests.fuzz.targets.tiff import read_windows

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")

_CODECS: tuple[Any, ...] = (
    *(
        {"id": name}
        for name in ("pickle", "json2", "zlib", "gzip", "bz2", "lzma", "zstd", "blosc", "lz4", "delta", "vlen-utf8")
    ),
    *({"name": name} for name in ("bytes", "numcodecs.pickle", "gzip", "zstd", "vlen-bytes", "sharding_indexed")),
)


def _multiscale(axes: str) -> dict[str, Any]:
    described = [{"name": a, "type": "space", "unit": "micrometer"} for a in axes]
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5][-len(axes) :]}]
    return {"version": "0.4", "axes": described, "datasets": [{"path": "0", "coordinateTransformations": scale}]}


@cache
def _seeds() -> Path:
    """Return a folder of images to change; it is removed with the process."""
    kept = tempfile.TemporaryDirectory(prefix="uflow-fuzz-zarr-")
    folder = Path(kept.name)
    _kept.append(kept)
    texture = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    for zarr_format in (2, 3):
        image = {"multiscales": [_multiscale("zyx")], "omero": {"channels": [{"label": "a"}]}}
        _write(folder / f"image{zarr_format}", np.stack([texture] * 2), image, zarr_format)
        series = zarr.open_group(folder / f"series{zarr_format}", mode="w", zarr_format=zarr_format)
        several = {"bioformats2raw.layout": 3}
        series.attrs.update(several if zarr_format == 2 else {"ome": several})
        for part in "01":
            place = folder / f"series{zarr_format}" / part
            _write(place, texture, {"multiscales": [_multiscale("yx")]}, zarr_format)
        zarr.create_array(
            folder / f"plain{zarr_format}", data=texture.astype("u2"), chunks=(50, 70), zarr_format=zarr_format
        )
    zarr.create_array(folder / "shards", data=texture, chunks=(24, 24), shards=(48, 48), zarr_format=3)
    return folder


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _write(place: Path, values: np.ndarray, ome: dict[str, Any], zarr_format: int) -> None:
    group = zarr.open_group(place, mode="w", zarr_format=zarr_format)
    group.attrs.update(ome if zarr_format == 2 else {"ome": {"version": "0.5", **ome}})
    group.create_array("0", data=values, chunks=(*(1,) * (values.ndim - 2), 40, 40))


def _make(rng: random.Random, folder: Path) -> Path:
    seed = rng.choice(sorted(_seeds().iterdir()))
    path = folder / "image.zarr"
    shutil.copytree(seed, path)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    metadata = [p for p in files if p.name in _METADATA]
    chunks = [p for p in files if p.name not in _METADATA]
    for _ in range(rng.choice((1, 1, 2))):
        file = rng.choice([p for p in metadata if not p.is_symlink()] or chunks)
        match rng.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                _write_json(file, mutated_json(rng, _json(file)))
            case 5:
                codecs = [rng.choice(_CODECS) for _ in range(rng.randrange(1, 3))]
                changes = {"compressor": codecs[0], "filters": codecs[1:], "codecs": codecs}
                _write_json(file, {**_json(file), **changes})
            case 6:
                file.write_bytes(mutated_bytes(rng, file.read_bytes()))
            case 7:
                file.unlink(missing_ok=True)
                file.symlink_to(rng.choice(("/etc/passwd", "/dev/zero", "..", file.name, metadata[0])))
            case _:
                chunk = rng.choice(chunks)
                chunk.write_bytes(mutated_bytes(rng, chunk.read_bytes()))
    return path


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), errors="replace")


_seeds()  # once, before processes are forked
TARGET = Target("zarr", _make, read_windows)
