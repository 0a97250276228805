"""Masks in files: the one that belongs to an image, and its planes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.store.files import stem_of
from napari_uflow.store.images import IMAGE_SUFFIXES, read_planes
from napari_uflow.store.omezarr import is_zarr

__all__ = ["FileMask", "MaskFolder", "read_masks"]

_ENDS = ("_mask", "")
_LOSSY = frozenset({".jpg", ".jpeg"})
_HALF_OF_A_BYTE = 127


@dataclass(frozen=True, eq=False)
class FileMask:
    """Mask of one plane of an image, whose pixels are read on demand.

    Attributes
    ----------
    plane : Plane
        Plane of the mask's file.
    above : float
        A pixel counts if it is above this in some channel.
    """

    plane: Plane
    above: float = 0.0

    dtype = np.dtype(bool)
    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (M, N), in pixels."""
        return self.plane.shape

    def __getitem__(self, key: Any) -> NDArray[np.bool_]:
        """Read the mask of rows and columns, two slices without a step."""
        (start, stop, _), (left, right, _) = (s.indices(n) for s, n in zip(key, self.shape, strict=True))
        values = self.plane.read(Window(start, left, max(0, stop - start), max(0, right - left)))
        return np.asarray((values > self.above).any(axis=0))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the whole mask, (M, N) bool."""
        return np.array(self[:, :], dtype=dtype, copy=copy)


class MaskFolder:
    """Folder of masks, each of which has the name of its image.

    Parameters
    ----------
    folder : path-like
        Folder; its image files of every kind that can be read are masks.

    Raises
    ------
    ImageError
        If there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        if not os.path.isdir(self._folder):
            raise ImageError(f"there is no folder of masks '{folder}'")
        self._by_name: defaultdict[str, list[Path]] = defaultdict(list)
        for path in sorted(self._folder.iterdir()):
            if not path.name.startswith(".") and (path.suffix.lower() in IMAGE_SUFFIXES or is_zarr(path)):
                for name in _names(path):
                    self._by_name[name.casefold()].append(path)

    def __str__(self) -> str:
        return str(self._folder)

    def find(self, image: str | os.PathLike[str]) -> Path | None:
        """Find the mask of an image.

        Parameters
        ----------
        image : path-like
            File of the image, such as ``a.ome.tif``.

        Returns
        -------
        Path or None
            File with the name of the image, ``a`` or ``a.ome``, and ``_mask``; otherwise one of its name alone.
            Capital letters do not matter, unless files differ in them only. None if there is none.

        Raises
        ------
        ImageError
            If several files fit as well as each other.
        """
        image = Path(image)
        for end in _ENDS:
            names = {name + end for name in _names(image)}
            found = {path for name in names for path in self._by_name[name.casefold()]} - {image}
            if len(found) > 1:
                found = {path for path in found if names & _names(path)} or found
            if len(found) > 1:
                listed = " and ".join(f"'{path.name}'" for path in sorted(found))
                raise ImageError(f"'{image.name}' has several masks in '{self._folder}': {listed}; keep one of them")
            if found:
                return found.pop()
        return None


def _names(path: Path) -> set[str]:
    """Return the name of a file without its ending, and without ".ome.tif"."""
    return {path.stem, stem_of(path)}


def read_masks(path: str | os.PathLike[str], planes: Sequence[Plane], *, axes: str | None = None) -> list[FileMask]:
    """Open the file of a mask and return the mask of each plane of an image; hardly a pixel is read.

    Parameters
    ----------
    path : path-like
        File of the mask. Pixels above 0 in any channel but alpha count; of a JPEG, whose compression changes black,
        those above 127.
    planes : sequence of Plane
        All planes of the image.
    axes : str, optional
        Axes of the image's file if they were given; used if the mask has as many.

    Returns
    -------
    list of FileMask
        One per plane. A mask of one plane is that of every plane; those of a stack belong to the planes at the same
        positions, or, if its axes have other names, to the planes in the same order.

    Raises
    ------
    ImageError
        If the file cannot be read, or does not fit the image.
    """
    path = Path(path)
    masks = _read(path, axes)
    if len(masks) == 1 and len(planes) > 1 and masks[0].n_channels > 1 and "C" in masks[0].axes:
        raise ImageError(
            f"the mask '{path}' has {masks[0].n_channels} channels, but its image is a stack of {len(planes)} planes; "
            f"save the mask as one plane, or as a stack of as many planes"
        )
    chosen = masks * len(planes) if len(masks) == 1 else _matched(path, masks, planes)
    for mask, plane in zip(chosen, planes, strict=True):
        if mask.shape != plane.shape:
            raise ImageError(
                f"the mask '{path}' has {mask.shape[0]} x {mask.shape[1]} pixels, but its image has "
                f"{plane.shape[0]} x {plane.shape[1]}; save the mask at the size of the image"
            )
    above = _HALF_OF_A_BYTE if path.suffix.lower() in _LOSSY else 0
    return [FileMask(mask, above) for mask in chosen]


def _read(path: Path, axes: str | None) -> list[Plane]:
    if axes is not None:
        try:
            return read_planes(path, axes=axes)
        except ImageError:  # of an image with more axes than its mask
            pass
    try:
        return read_planes(path)
    except ImageError as error:
        raise ImageError(f"the mask '{path}' cannot be used: {error}") from error


def _matched(path: Path, masks: Sequence[Plane], planes: Sequence[Plane]) -> list[Plane]:
    """Return the masks of a stack in the order of the planes of the image."""
    by_position = {tuple(sorted(mask.index.items())): mask for mask in masks}
    positions = [tuple(sorted(plane.index.items())) for plane in planes]
    if len(by_position) == len(masks) and set(by_position) == set(positions):
        return [by_position[position] for position in positions]
    sizes, own = _sizes(planes), _sizes(masks)
    has_other_names = set(planes[0].index) != set(masks[0].index)
    if len(masks) != len(planes) or not (has_other_names and (1 in (len(sizes), len(own)) or sizes == own)):
        raise ImageError(
            f"the mask '{path}' is a stack of {_by(own, masks)} planes, but its image has {_by(sizes, planes)}; save "
            f"it as one plane, or as a stack like the image's"
        )
    return list(masks)


def _sizes(planes: Sequence[Plane]) -> list[int]:
    """Return the lengths of the axes along which planes are stacked."""
    lengths = [len({plane.index[a] for plane in planes}) for a in planes[0].index]
    return [n for n in lengths if n > 1]


def _by(sizes: Sequence[int], planes: Sequence[Plane]) -> str:
    return " x ".join(map(str, sizes)) if len(sizes) > 1 else str(len(planes))
