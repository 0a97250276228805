"""A zarr folder runs no code, decompresses to what it declares, and leads nowhere else."""

import bz2
import gzip
import json
import lzma
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.store.images import read_planes
from napari_uflow.store.omezarr import read_zarr

VALUES = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.fixture(params=[2, 3], ids=["v2", "v3"])
def zarr_format(request: pytest.FixtureRequest) -> int:
    return request.param


def metadata_file(path: Path, zarr_format: int) -> Path:
    return path / (".zarray" if zarr_format == 2 else "zarr.json")


def make(path: Path, zarr_format: int, **options: Any) -> Path:
    zarr.create_array(path, data=VALUES, chunks=(32, 32), zarr_format=zarr_format, **options)
    return path


def edit(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def chunk(path: Path) -> Path:
    """Return the file of the first chunk."""
    return next(p for p in sorted(path.rglob("*")) if p.is_file() and p.name in ("0.0", "0"))


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("code of a file ran",))


@pytest.mark.parametrize(
    "entries",
    [
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "pickle"}], "dtype": "|O"},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}]},
        {"compressor": {"id": "pickle"}},
        {"compressor": {"id": "json2"}},
        {"filters": [{"id": "categorize", "labels": [], "dtype": "<u2"}]},
        {"filters": [{"id": ["pickle"]}]},
        {"compressor": "pickle"},
    ],
)
def test_objects_are_refused_before_anything_is_opened(
    entries: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path / "a.zarr", 2)
    edit(path / ".zarray", compressor=None, **{k: v for k, v in entries.items() if k != "compressor"})
    edit(path / ".zarray", **entries)
    chunk(path).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ImageError, match=r"a\.zarr' has (the encoding|pixels that are objects)"):
        read_planes(path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "codec",
    [
        {"name": "numcodecs.pickle", "configuration": {}},
        {"name": "pickle"},
        {"name": "vlen-bytes"},
        "pickle",
        {
            "name": "sharding_indexed",
            "configuration": {"codecs": [{"name": "numcodecs.pickle"}], "chunk_shape": [8, 8]},
        },
    ],
)
def test_objects_are_refused_in_format_3(codec: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", 3)
    edit(path / "zarr.json", codecs=[codec])
    with pytest.raises(ImageError, match=r"has the encoding '(pickle|vlen-bytes)', which is not read"):
        read_planes(path)


COMPRESSORS = {
    "gzip": (numcodecs.GZip(), gzip.compress),
    "zlib": (numcodecs.Zlib(), zlib.compress),
    "bz2": (numcodecs.BZ2(), bz2.compress),
    "lzma": (numcodecs.LZMA(), lzma.compress),
    "zstd": (numcodecs.Zstd(), numcodecs.Zstd().encode),
    "blosc": (numcodecs.Blosc(), numcodecs.Blosc().encode),
    "lz4": (numcodecs.LZ4(), numcodecs.LZ4().encode),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_chunk_that_decompresses_to_more_than_its_size(name: str, tmp_path: Path) -> None:
    codec, compress = COMPRESSORS[name]
    path = make(tmp_path / "a.zarr", 2, compressors=codec)
    (plane,) = read_planes(path)
    np.testing.assert_array_equal(plane.read()[0], VALUES)
    chunk(path).write_bytes(bytes(compress(bytes(80_000_000 if name in ("gzip", "zlib") else 10_000_000))))
    with pytest.raises(ImageError, match=r"0\.0' cannot be read; it decompresses to more"):
        plane.read()
    for damaged in (b"", b"\0", b"damaged" * 9, bytes(compress(bytes(100)))[:-3]):
        chunk(path).write_bytes(damaged)
        with pytest.raises(ImageError, match=r"a chunk is damaged|decompresses to more"):
            plane.read()


def test_zstd_without_a_declared_size_and_of_several_frames(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", 2, compressors=numcodecs.Zstd())
    run = b"".join((1 << 1 | 2**17 << 3).to_bytes(3, "little") + b"\0" for _ in range(99))  # 128 kB of zeros, 99 times
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 0x58) + run + b"\x01\0\0"
    skipped = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    (plane,) = read_planes(path)
    for data in (frame, skipped + frame):
        chunk(path).write_bytes(data)
        with pytest.raises(ImageError, match="decompresses to more"):
            plane.read()


def test_shards_and_checksums_are_read(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=VALUES, chunks=(8, 8), shards=(32, 32), zarr_format=3)
    (plane,) = read_planes(tmp_path / "a.zarr")
    np.testing.assert_array_equal(plane.read()[0], VALUES)
    codecs = zarr.codecs
    zarr.create_array(
        tmp_path / "b.zarr",
        data=VALUES,
        chunks=(8, 8),
        compressors=[codecs.GzipCodec(), codecs.Crc32cCodec()],
        zarr_format=3,
    )
    np.testing.assert_array_equal(read_planes(tmp_path / "b.zarr")[0].read()[0], VALUES)


def test_several_compressors_hide_a_size(tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", 2, filters=[numcodecs.Zlib()], compressors=numcodecs.GZip())
    with pytest.raises(ImageError, match="compressed 2 times"):
        read_planes(path)


def test_declared_sizes_are_bounded(zarr_format: int, tmp_path: Path) -> None:
    options = {"dtype": "u1", "zarr_format": zarr_format}
    zarr.create_array(tmp_path / "a.zarr", shape=(10**8, 8, 8), chunks=(1, 8, 8), **options)
    with pytest.raises(ImageError, match="declares 100,000,000 planes"):
        read_planes(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "b.zarr", shape=(10**5, 10**5), chunks=(10**5, 10**5), **options)
    with pytest.raises(ImageError, match=r"blocks of 10 GB"):
        read_planes(tmp_path / "b.zarr")
    zarr.create_array(tmp_path / "c.zarr", shape=(3, 10**6, 10**6), chunks=(1, 512, 512), **options)
    assert read_planes(tmp_path / "c.zarr", axes="CYX")[0].shape == (10**6, 10**6)


def test_a_chunk_is_no_link_to_another_place(zarr_format: int, tmp_path: Path) -> None:
    path = make(tmp_path / "a.zarr", zarr_format)
    secret = make(tmp_path / "b.zarr", zarr_format)
    (plane,) = read_planes(path)
    for place in (chunk(secret), tmp_path):
        chunk(path).unlink()
        chunk_file = sorted(p for p in secret.rglob("*") if p == chunk(secret))[0].relative_to(secret)
        (path / chunk_file).symlink_to(place)
        with pytest.raises(ImageError, match="is not a file inside"):
            plane.read()


def test_metadata_are_no_link_to_another_place(zarr_format: int, tmp_path: Path) -> None:
    path, secret = make(tmp_path / "a.zarr", zarr_format), make(tmp_path / "b.zarr", zarr_format)
    file = metadata_file(path, zarr_format)
    file.unlink()
    file.symlink_to(metadata_file(secret, zarr_format))
    with pytest.raises(ImageError, match=r"leads out of"):
        read_planes(path)


@pytest.mark.parametrize("place", ["../b.zarr", "..", "/../b.zarr", "inner/../../b.zarr", "linked", "a\0b"])
def test_a_part_of_an_image_is_inside_it(place: str, zarr_format: int, tmp_path: Path) -> None:
    make(tmp_path / "b.zarr", zarr_format)
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    (path / "linked").symlink_to(tmp_path / "b.zarr")
    image = {"multiscales": [{"axes": list("yx"), "datasets": [{"path": place}]}]}
    series = {"bioformats2raw.layout": 3}
    for attributes in (image, series):
        group.attrs.put(attributes if zarr_format == 2 else {"ome": attributes})
        inner = zarr.open_group(path / "OME", mode="w", zarr_format=zarr_format)
        inner.attrs.put({"series": [place]} if zarr_format == 2 else {"ome": {"series": [place]}})
        with pytest.raises(ImageError, match="outside its folder"):
            read_planes(path)


def test_an_image_may_be_a_link_itself(zarr_format: int, tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", zarr_format)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_planes(tmp_path / "link.zarr")[0].read()[0], VALUES)


def test_one_of_several_images(zarr_format: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    series = {"bioformats2raw.layout": 3}
    group.attrs.put(series if zarr_format == 2 else {"ome": series})
    for number, name in enumerate(("slide", "label image", "macro image")):
        inner = zarr.open_group(path / str(number), mode="w", zarr_format=zarr_format)
        image = {"multiscales": [{"name": name, "axes": list("yx"), "datasets": [{"path": "0"}]}]}
        inner.attrs.put(image if zarr_format == 2 else {"ome": image})
        make(path / str(number) / "0", zarr_format)
    assert [plane.name for plane in read_planes(path)] == ["a"]
    for wanted in ("macro image", 2, "2"):
        assert len(read_zarr(path, name="a", series=wanted)) == 1
    with pytest.raises(ImageError, match=r"no series 3; it has: 0 'slide'"):
        read_planes(path, series=3)


@pytest.mark.parametrize("side", [2**31 + 1, 2**62, 10**30])
def test_a_side_that_no_image_has_is_refused(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(40, 40), chunks=(20, 20), dtype="u1", zarr_format=2)
    header = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**header, "shape": [side, 40]}))
    with pytest.raises(ImageError, match=r"a\.zarr'"):
        read_planes(path)[0].read(Window(-8, -8, 60, 60))


@pytest.mark.parametrize("shape", [[], [40]])
def test_an_array_that_is_no_image_is_refused(tmp_path: Path, shape: list[int]) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(40, 40), chunks=(20, 20), dtype="u1", zarr_format=2)
    header = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**header, "shape": shape, "chunks": [20] * len(shape)}))
    with pytest.raises(ImageError, match="a"):
        read_planes(path)
