"""Read zarr folders: images with OME-Zarr metadata (OME-NGFF 0.1 to 0.5), and plain arrays."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.store.calibration import UNKNOWN, Calibration
from napari_uflow.store.reading import DECODER_ERRORS, check_block, check_planes, check_sides, is_inside, unreadable
from napari_uflow.store.series import chosen_series
from napari_uflow.store.zarr_guard import check_encoding, guarded_store

__all__ = ["is_zarr", "read_zarr"]

_MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Metadata files; a group or array has one of them."""

_KNOWN_AXES = "TCZYX"
"""Axes in the fixed order of the first versions of OME-Zarr."""

_FREE_LETTERS = "QRPUVW"
"""Letters for other axes."""

_N_NAMED = 5
"""Most parts of a group that a message lists."""

_BYTES_AT_ONCE = 2**28
"""Bytes of chunks that are decoded at the same time, but at least one chunk."""

_Channels = int | str | Sequence[int | str] | None


def is_zarr(path: Path) -> bool:
    """Return True for a folder that is a zarr group or array, or has the ending of one."""
    return os.path.isdir(path) and (path.suffix.lower() == ".zarr" or _has_marks(path))


def _has_marks(path: Path) -> bool:
    return any(os.path.isfile(path / mark) for mark in _MARKS)


def read_zarr(
    path: Path,
    *,
    name: str,
    channels: _Channels = None,
    axes: str | None = None,
    series: int | str | None = None,
) -> list[Plane]:
    """Open a zarr folder and return its planes; only the required chunks of pixels are read.

    An image with several sizes is opened at the first, the finest one; a folder of bioformats2raw gives all its images.
    Missing chunks have the array's fill value.

    Parameters
    ----------
    path : Path
        Folder of an image, of an array, or of several images.
    name : str
        Name of the image; of several images, their names in the folder are appended.
    channels : int, str, sequence of them, or None
        As in :func:`~napari_uflow.planes_of`; names are the labels in the OME metadata, if they are unique.
    axes : str or None
        One letter per axis, in place of the axes in the metadata.
    series : int, str or None
        One of several images, by its name in the folder or by number from 0.

    Returns
    -------
    list of Plane
        Planes; the pixel size is the product of all scales in the metadata, `unit` is "um" for all spellings.

    Raises
    ------
    ImageError
        If zarr is not installed or older than version 3; the folder is a plate, a well, or contains no image; it is
        damaged, leads out of itself or has codecs that make objects; or it does not fit `channels`, `axes` or `series`.
    """
    node = _node(path, path)
    _refuse_plates(node)
    parts = _series(node) if "multiscales" not in node.ome and "bioformats2raw.layout" in node.ome else [""]
    images = [_part(node, part) if part else node for part in parts]
    chosen = chosen_series([_title(p, i) for p, i in zip(parts, images, strict=True)], parts, series, path)
    planes = []
    for number in chosen:
        part, image = parts[number], images[number]
        title = f"{name} {part}" if len(chosen) > 1 else name
        if "multiscales" in image.ome:
            planes += _planes_of_image(image, channels, axes, name=title, source=str(path))
        elif image.is_array:
            own = image.dimension_names if axes is None else axes
            data = _opened(image)
            _check_size(data, own, path)
            planes += planes_of(data, own, channels=channels, name=title, source=str(path))
        else:
            raise ImageError(_no_image(image))
    return planes


@dataclass(frozen=True)
class _Node:
    """Metadata of a group or an array.

    Attributes
    ----------
    path : Path
        Folder.
    root : Path
        Folder of the image, which nothing leads out of.
    zarr_format : int
        Version of the format, 2 or 3.
    is_array : bool
        False for a group.
    metadata : mapping
        Contents of the file of metadata of an array.
    ome : mapping
        OME metadata: the attributes, or in version 0.5 those under "ome".
    dimension_names : str or None
        One letter per axis, if the array names its axes.
    """

    path: Path
    root: Path
    zarr_format: int
    is_array: bool
    metadata: Mapping[str, Any] = field(repr=False)
    ome: Mapping[str, Any] = field(repr=False)
    dimension_names: str | None = None


def _part(node: _Node, part: str) -> _Node:
    """Return a group or array inside another one, which the metadata name."""
    place = node.path / part.strip("/")
    if not is_inside(place, node.root):
        raise ImageError(
            f"'{node.path}' refers to {part[:100]!r} outside its folder, which is not read; copy all files"
        )
    return _node(place, node.root)


def _title(part: str, image: _Node) -> str:
    """Return the name of an image: the one in its metadata, else that of its folder."""
    multiscales = image.ome.get("multiscales")
    first = multiscales[0] if isinstance(multiscales, list) and multiscales else None
    name = first.get("name") if isinstance(first, dict) else None
    return name if isinstance(name, str) and name.strip() and not name.isdigit() else part


def _node(path: Path, root: Path) -> _Node:
    names: Any = None
    if os.path.isfile(path / "zarr.json"):
        zarr_format, metadata = 3, _metadata(path / "zarr.json", root)
        is_array = metadata.get("node_type") == "array"
        attributes, names = metadata.get("attributes"), metadata.get("dimension_names")
    elif _has_marks(path):
        zarr_format, is_array = 2, os.path.isfile(path / ".zarray")
        metadata = _metadata(path / ".zarray", root) if is_array else {}
        attributes = _metadata(path / ".zattrs", root) if os.path.isfile(path / ".zattrs") else {}
    else:
        raise ImageError(f"'{path}' has no zarr metadata ({', '.join(_MARKS)}); copy or convert the image again")
    ome = attributes.get("ome", attributes) if isinstance(attributes, dict) else {}
    letters = "".join(str(n).upper() for n in names) if isinstance(names, list) else ""
    is_known = bool(letters) and len(letters) == len(names) and set(letters) <= set(_KNOWN_AXES)
    ome = ome if isinstance(ome, dict) else {}
    return _Node(path, root, zarr_format, is_array, metadata, ome, letters if is_known else None)


def _metadata(path: Path, root: Path) -> dict[str, Any]:
    if not is_inside(path, root):
        raise ImageError(f"'{path}' leads out of '{root}', and is not read; copy the image with its files")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error, "it is damaged, copy the image again") from error
    if not isinstance(metadata, dict):
        raise ImageError(f"'{path}' is damaged: it contains no metadata; copy the image again")
    return metadata


def _refuse_plates(node: _Node) -> None:
    if "plate" in node.ome:
        position = node.path / _first_path(node.ome["plate"], "wells", "A/1") / "0"
        raise ImageError(
            f"'{node.path}' is a plate of many wells; give the image of one position, such as '{position}'"
        )
    if "well" in node.ome:
        position = node.path / _first_path(node.ome["well"], "images", "0")
        raise ImageError(
            f"'{node.path}' is a well of a plate; give the image of one of its positions, such as '{position}'"
        )


def _first_path(metadata: Any, key: str, default: str) -> str:
    try:
        return str(metadata[key][0]["path"])
    except (KeyError, IndexError, TypeError):
        return default


def _series(node: _Node) -> list[str]:
    """Return the names of the images in a folder of bioformats2raw: those it lists, or 0, 1 and so on."""
    listed = _part(node, "OME").ome.get("series") if _has_marks(node.path / "OME") else None
    if isinstance(listed, list) and listed:
        check_planes(len(listed), node.path)
        return [str(part).strip("/") for part in listed]
    parts: list[str] = []
    while _has_marks(node.path / str(len(parts))):
        parts.append(str(len(parts)))
    if not parts:
        raise ImageError(_no_image(node))
    return parts


def _no_image(node: _Node) -> str:
    parts = sorted(p.name for p in node.path.iterdir() if _has_marks(p))
    if not parts:
        return f"'{node.path}' contains no image: the zarr group is empty; copy or convert it again"
    named = ", ".join(parts[:_N_NAMED]) + (", ..." if len(parts) > _N_NAMED else "")
    return (
        f"'{node.path}' has no OME metadata of an image; give one of the images in it ({named}), such as "
        f"'{node.path / parts[0]}'"
    )


def _planes_of_image(node: _Node, channels: _Channels, axes: str | None, *, name: str, source: str) -> list[Plane]:
    try:
        multiscale = node.ome["multiscales"][0]
        level = multiscale["datasets"][0]
        part = str(level["path"])
        own_axes = [*(multiscale.get("axes") or ())]
        version = multiscale.get("version", node.ome.get("version"))
        scales = [
            transformation.get("scale")
            for holder in (level, multiscale)
            for transformation in holder.get("coordinateTransformations") or ()
            if transformation.get("type") == "scale"
        ]
        labels = [channel.get("label") for channel in (node.ome.get("omero") or {}).get("channels") or ()]
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ImageError(f"the OME metadata of '{node.path}' are damaged; copy or convert the image again") from error
    place = node.path / part.strip("/")
    if is_inside(place, node.root) and not _has_marks(place):
        raise ImageError(f"'{place}', listed in the metadata of '{node.path}', is missing; copy the image again")
    data = _opened(_part(node, part))
    if axes is None:
        axes = _letters(own_axes, version, len(data.shape), node.path)
    _check_size(data, axes, node.path)
    sizes = dict(zip(axes.upper(), data.shape, strict=False)) if axes is not None else {}
    calibration = _calibration(scales, own_axes, None if axes is None else axes.upper())
    is_named = len(labels) == sizes.get("C", 1) and all(isinstance(n, str) and n for n in labels)
    return planes_of(
        data,
        axes,
        channels=channels,
        channel_names=labels if is_named and len(set(labels)) == len(labels) else None,
        name=name,
        source=source,
        **calibration.fields,
    )


def _check_size(data: "_Pixels", axes: str | None, path: Path) -> None:
    check_sides(data.shape, path)
    if len(data.shape) < 2:
        return  # no image, which is said when its axes are read
    letters = "?" * (len(data.shape) - 2) + "YX" if axes is None or len(axes) != len(data.shape) else axes.upper()
    check_planes(math.prod(n for a, n in zip(letters, data.shape, strict=True) if a not in "YXCS"), path)


def _letters(own_axes: Sequence[Any], version: Any, n_axes: int, path: Path) -> str | None:
    """Return one letter per axis; None if the metadata do not name them."""
    if not own_axes:
        return _KNOWN_AXES if n_axes == len(_KNOWN_AXES) and version in (None, "0.1", "0.2", "0.3") else None
    letters: list[str] = []
    unknown: list[str] = []
    for axis in own_axes:
        given, kind = (axis.get("name"), axis.get("type")) if isinstance(axis, dict) else (axis, None)
        letter = str(given).upper()
        if letter not in tuple(_KNOWN_AXES):
            letter = {"time": "T", "channel": "C"}.get(str(kind), "")
        if not letter:
            letter = _FREE_LETTERS[len(unknown) % len(_FREE_LETTERS)]
            unknown.append(str(given))
        letters.append(letter)
    if unknown:
        raise ImageError(
            f"'{path}' has unknown axes ({', '.join(unknown)}); name them with axes=, one letter each, such as "
            f"axes='{''.join(letters)}' (T time, Z depth, C channels, Y rows, X columns, other letters for separate "
            f"planes)"
        )
    return "".join(letters)


def _calibration(scales: Sequence[Any], own_axes: Sequence[Any], axes: str | None) -> Calibration:
    """Return the sizes along the axes; unknown if the metadata do not give a scale for each of them."""
    if axes is None or len(own_axes) != len(axes):
        return UNKNOWN
    if not scales or not all(isinstance(scale, list) and len(scale) == len(axes) for scale in scales):
        return UNKNOWN
    sizes = {}
    for i, letter in enumerate(axes):
        unit = own_axes[i].get("unit") if isinstance(own_axes[i], dict) else None
        sizes[letter] = (math.prod(_number(scale[i]) for scale in scales), unit or None)
    return Calibration.of(sizes)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 else math.nan


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Zarr array whose damaged chunks raise an `ImageError`; basic slices read the chunks they touch."""

    array: Any
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a decoded chunk."""
        return math.prod(int(n) for n in self.array.chunks) * self.dtype.itemsize

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        import zarr

        n_chunks = max(1, min(10, _BYTES_AT_ONCE // max(self.chunk_bytes, 1)))
        try:
            with zarr.config.set({"async.concurrency": n_chunks}):
                return np.asarray(self.array[key])
        except ImageError:
            raise
        except DECODER_ERRORS as error:
            raise unreadable(self.path, error, "a chunk is damaged, copy it again") from error


def _opened(node: _Node) -> _Pixels:
    try:
        import zarr
    except ImportError as error:
        raise ImageError(f"'{node.path}' requires the package zarr: pip install napari-uflow[zarr]") from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise ImageError(f"'{node.path}' requires zarr 3 or newer: pip install --upgrade zarr")
    if not node.is_array:
        raise ImageError(f"'{node.path}' cannot be read; it contains no pixels, copy or convert the image again")
    compressor = check_encoding(node.metadata, node.zarr_format, node.path)
    opened: list[_Pixels] = []
    store = guarded_store(node.path, node.root, compressor, lambda: opened[0].chunk_bytes)
    try:
        # The format is given, because a folder may contain the metadata of both.
        opened.append(_Pixels(zarr.open_array(store, mode="r", zarr_format=node.zarr_format), node.path))
        chunk_bytes = opened[0].chunk_bytes
    except ImageError:
        raise
    except DECODER_ERRORS as error:
        reason = "it is damaged or has an encoding that zarr does not support"
        raise unreadable(node.path, error, reason) from error
    check_block(chunk_bytes, node.path)
    return opened[0]
