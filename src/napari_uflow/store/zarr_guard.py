"""What a zarr folder may make its reader do: known codecs, chunks of the declared size, files inside the folder."""

import asyncio
import bz2
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_uflow.errors import ImageError
from napari_uflow.store.reading import is_inside

__all__ = ["check_encoding", "guarded_store"]

_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})

_FILTERS = frozenset({
    *("adler32", "astype", "bitround", "bytes", "crc32", "crc32c", "delta", "endian", "fixedscaleoffset", "fletcher32"),
    *("jenkins_lookup3", "packbits", "quantize", "sharding_indexed", "shuffle", "transpose"),
})  # fmt: skip
"""Codecs that only move numbers. Others make objects, which can run code (pickle), or are unknown."""

_ROOM = 2**16
"""Bytes that a decoded chunk may have besides its pixels: an index, checksums."""

_HARMLESS = 2**26
"""Bytes that a chunk may decompress to, without harm, before its decoder finds that they are too many."""

_PIECE = 2**20
"""Bytes that are decompressed at a time to count them."""


def check_encoding(metadata: Mapping[str, Any], zarr_format: int, path: Path) -> str | None:
    """Refuse an array whose codecs are not known to be harmless.

    Parameters
    ----------
    metadata : mapping
        Contents of ``.zarray`` or ``zarr.json``.
    zarr_format : int
        2 or 3.
    path : Path
        Folder of the array, for messages.

    Returns
    -------
    str or None
        Name of the compressor.

    Raises
    ------
    ImageError
        If there is another codec than those of numbers, more than one compressor, or pixels that are objects.
    """
    if "O" in str(metadata.get("dtype", "")):
        raise ImageError(f"'{path}' has pixels that are objects; convert it to whole or real numbers")
    if zarr_format == 2:
        codecs = [metadata.get("compressor"), *_listed(metadata.get("filters"))]
        names = [str(_entry(codec, "id")) for codec in codecs if codec is not None]
    else:
        names = list(_names_of(metadata.get("codecs"), depth=0))
    unknown = sorted(set(names) - _COMPRESSORS - _FILTERS)
    if unknown:
        raise ImageError(
            f"'{path}' has the encoding {unknown[0][:50]!r}, which is not read; convert it to one of zarr's own, "
            "such as blosc or zstd"
        )
    compressors = [name for name in names if name in _COMPRESSORS]
    if len(compressors) > 1:
        raise ImageError(f"'{path}' is compressed {len(compressors)} times, which is not read; convert it again")
    return compressors[0] if compressors else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else value


def _names_of(codecs: Any, depth: int) -> Iterator[str]:
    """Yield the names of codecs of zarr 3, and of those inside shards."""
    for codec in _listed(codecs):
        yield str(_entry(codec, "name")).removeprefix("numcodecs.")
        configuration = _entry(codec, "configuration")
        if isinstance(configuration, dict) and depth < 3:
            yield from _names_of(configuration.get("codecs"), depth + 1)


def guarded_store(folder: Path, root: Path, compressor: str | None, chunk_bytes: Callable[[], int]) -> Any:
    """Return a read-only zarr store that refuses files outside a folder and chunks that decompress to too much.

    Parameters
    ----------
    folder : Path
        Folder of the array.
    root : Path
        Folder of the image; no file outside it is read.
    compressor : str or None
        Name of the only compressor.
    chunk_bytes : callable
        Returns the bytes of a decoded chunk, which are known once the array is open.
    """
    from zarr.storage import LocalStore, WrapperStore

    async def check(key: str, value: Any) -> Any:
        if value is not None and compressor is not None and not key.endswith((".zarray", ".zattrs", "zarr.json")):
            limit = 2 * chunk_bytes() + _ROOM
            n_bytes = await asyncio.to_thread(_decoded_bytes, value.to_bytes(), compressor, limit)
            if n_bytes > limit:
                raise ImageError(
                    f"'{folder / key}' cannot be read; it decompresses to more than a chunk, copy it again"
                )
        return value

    class Guarded(WrapperStore):  # type: ignore[misc]
        """Local store with checks."""

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            place = folder / key
            if place.exists() and not (place.is_file() and is_inside(place, root)):
                raise ImageError(
                    f"'{place}' is not a file inside '{root}', and is not read; copy the image with its files"
                )
            return await check(key, await super().get(key, prototype, byte_range))

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    return Guarded(LocalStore(os.fspath(folder), read_only=True))


def _decoded_bytes(data: bytes, compressor: str, limit: int) -> int:
    """Return the bytes that a chunk decompresses to, or a number above the limit; 0 for damaged ones."""
    try:
        match compressor:
            case "blosc":
                return int(struct.unpack_from("<I", data, 4)[0])
            case "lz4":
                return int(struct.unpack_from("<I", data)[0])
            case "zstd":
                return _zstd_bytes(data)
            case "bz2":
                return _counted(data, bz2.BZ2Decompressor, limit)
            case "lzma":
                return _counted(data, lzma.LZMADecompressor, limit)
            case _:
                # deflate makes at most 1032 bytes of one: most chunks need not be counted
                return 0 if len(data) * 1032 <= max(limit, _HARMLESS) else _inflated(data, limit)
    except (struct.error, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
        return 0  # the decoder will say so


def _counted(data: bytes, decompressor: Callable[[], Any], limit: int) -> int:
    n_bytes = 0
    while data and n_bytes <= limit:
        stream = decompressor()
        while not stream.eof and n_bytes <= limit:
            piece = stream.decompress(data, _PIECE)
            data = b""
            n_bytes += len(piece)
            if not piece and stream.needs_input:
                return n_bytes
        data = stream.unused_data
    return n_bytes


def _inflated(data: bytes, limit: int) -> int:
    n_bytes = 0
    while data and n_bytes <= limit:
        stream = zlib.decompressobj(wbits=47)  # gzip or zlib
        while data and not stream.eof and n_bytes <= limit:
            n_bytes += len(stream.decompress(data, _PIECE))
            data = stream.unconsumed_tail
        data = stream.unused_data
    return n_bytes


def _zstd_bytes(data: bytes) -> int:
    """Return the largest size of zstd frames: what they declare, and 128 KB for each block."""
    n_bytes, place = 0, 0
    while place + 5 <= len(data):
        (magic,) = struct.unpack_from("<I", data, place)
        if magic & 0xFFFFFFF0 == 0x184D2A50:  # a frame to be skipped
            place += 8 + int(struct.unpack_from("<I", data, place + 4)[0])
            continue
        if magic != 0xFD2FB528:
            break
        flags = data[place + 4]
        is_single, n_size = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
        n_size = 1 if is_single and not n_size else n_size
        at = place + 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
        declared = int.from_bytes(data[at : at + n_size], "little") + (256 if n_size == 2 else 0)
        at += n_size
        n_blocks, is_last = 0, False
        while not is_last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            at += 3 + (1 if kind == 1 else size)
            n_blocks += 1
        n_bytes += max(declared, n_blocks * 2**17 if not n_size else 0)
        place = at + (4 if flags & 4 else 0)
    return n_bytes
