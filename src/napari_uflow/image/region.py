"""Normal regions: parts of planes marked normal, and the windows to train on inside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.grid import TileGrid, Window
from napari_uflow.image.plane import LazyArray, Plane
from napari_uflow.image.specimen import specimen_of

__all__ = ["NormalRegion", "common_channels", "sample_windows"]

_SCAN_TILE = 1024
"""Height and width of the parts in which a mask is scanned, in pixels: 1 MB of an 8-bit mask."""


@dataclass(frozen=True, eq=False, init=False)
class NormalRegion:
    """Part of a plane that is normal, that is, free of anomalies.

    Parameters
    ----------
    plane : Plane
        Image.
    mask : array-like (M, N), or None
        True, or a label above 0, in normal pixels; may be lazy. None if the whole plane is normal.
    specimen : str
        Specimen of the plane. Pixels of one specimen are similar, so training and calibration share none. By default
        the specimen follows from the name of the plane, see :func:`~napari_uflow.image.specimen.specimen_of`.
    is_marked_normal : bool
        True for a reported region that the user marked normal: it is always trained on and never held out.

    Raises
    ------
    ImageError
        If the mask does not have the shape of the plane.
    """

    plane: Plane
    mask: LazyArray | None
    specimen: str
    has_given_specimen: bool
    is_marked_normal: bool

    def __init__(
        self,
        plane: Plane,
        mask: LazyArray | None = None,
        specimen: str | None = None,
        *,
        is_marked_normal: bool = False,
    ) -> None:
        if mask is not None and tuple(mask.shape) != plane.shape:
            raise ImageError(
                f"the mask of '{plane.name}' has the shape {tuple(mask.shape)}, but the image has {plane.shape[0]} "
                f"rows and {plane.shape[1]} columns; draw the mask on the image itself"
            )
        object.__setattr__(self, "plane", plane)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "specimen", specimen_of(plane.name) if specimen is None else specimen)
        object.__setattr__(self, "has_given_specimen", specimen is not None)
        object.__setattr__(self, "is_marked_normal", is_marked_normal)

    def without(self, others: "Iterable[NormalRegion]") -> "NormalRegion":
        """Return the region without the normal pixels of others in the same image; itself if there are none."""
        taken: npt.NDArray[np.bool_] | None = None
        for other in dict.fromkeys(others):  # a region may be given several times
            if other.plane.is_same_image(self.plane):
                taken = other.normal() if taken is None else np.logical_or(taken, other.normal(), out=taken)
        if taken is None:
            return self
        mask = self.masked(Window(0, 0, *self.plane.shape)) & ~taken
        return NormalRegion(self.plane, mask, self.specimen, is_marked_normal=self.is_marked_normal)

    def of_specimen(self, specimen: str) -> "NormalRegion":
        """Return the region with another specimen."""
        return NormalRegion(self.plane, self.mask, specimen, is_marked_normal=self.is_marked_normal)

    def normal(self, window: Window | None = None) -> npt.NDArray[np.bool_]:
        """Return a mask of the normal pixels of a window: inside image and mask, and finite in all channels.

        Returns
        -------
        (h, w) array, bool
            True in normal pixels.
        """
        window = Window(0, 0, *self.plane.shape) if window is None else window
        normal = self.masked(window)
        if normal.any():
            inside = window.clipped(self.plane.shape)
            normal[inside.shifted(-window.row, -window.col).slices()] &= self.plane.read_valid(inside)
        return normal

    def read(self, window: Window | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Read the pixels of a window and the mask of the normal ones, with one access to the image.

        Returns
        -------
        values : (C, h, w) array, float32
            Pixels from :meth:`Plane.read`, reflected outside the image.
        normal : (h, w) array, bool
            Mask from :meth:`normal`, False outside the image.
        """
        window = Window(0, 0, *self.plane.shape) if window is None else window
        values = self.plane.read(window)
        return values, self.masked(window) & np.isfinite(values).all(axis=0)

    def masked(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return a mask of the pixels of a window inside the image and the mask, finite or not.

        Returns
        -------
        (h, w) array, bool
            True inside.
        """
        masked = np.zeros(window.shape, dtype=bool)
        inside = window.clipped(self.plane.shape)
        if 0 not in inside.shape:
            values = True if self.mask is None else np.asarray(self.mask[inside.slices()]) > 0
            masked[inside.shifted(-window.row, -window.col).slices()] = values
        return masked


def sample_windows(
    region: NormalRegion,
    tile: int,
    *,
    align: int = 16,
    min_normal: float = 0.5,
    max_windows: int | None = None,
    rng: np.random.Generator | None = None,
) -> list[Window]:
    """Return windows to train on that cover the normal region.

    The windows cover the smallest rectangle that contains the mask (the whole image without a mask), rounded outwards
    to multiples of `align`. The last row and column are moved back to end with that rectangle, so they may overlap the
    ones before. A rectangle smaller than the tile gets one window around its centre. Every window starts at a multiple
    of `align` of 0 or more, and ends within the image's size rounded up to a multiple of `align`.

    Parameters
    ----------
    region : NormalRegion
        Normal region. Its mask is scanned in parts; its pixels are read only if they may be NaN.
    tile : int
        Height and width of the windows, in pixels, a multiple of `align`; limited to the image's size rounded up to a
        multiple of `align`.
    align : int
        Coarsest stride of the network, in pixels.
    min_normal : float
        Smallest fraction, 0 to 1, of normal pixels among those of a window inside the image; at least one pixel must be
        normal.
    max_windows : int or None
        Largest number of windows, chosen at random.
    rng : Generator or None
        Random generator for that choice; required with `max_windows`.

    Returns
    -------
    list of Window
        Windows row by row; empty if none has enough normal pixels.

    Raises
    ------
    ConfigError
        If a parameter is out of its range, or `rng` is missing.
    """
    if align < 1 or tile < align or tile % align:
        raise ConfigError(f"tile must be a positive multiple of align ({align}), not {tile}")
    if not 0 <= min_normal <= 1:
        raise ConfigError(f"min_normal must be from 0 to 1, not {min_normal}")
    if max_windows is not None and (max_windows < 1 or rng is None):
        raise ConfigError(f"max_windows must be 1 or more and requires rng, not max_windows={max_windows}, rng={rng}")
    box = _bounding_box(region)
    rows, height = _starts(box.row, box.stop_row, region.plane.shape[0], tile, align)
    cols, width = _starts(box.col, box.stop_col, region.plane.shape[1], tile, align)
    windows = [Window(row, col, height, width) for row in rows for col in cols]
    if max_windows is not None and rng is not None:
        windows = [windows[i] for i in rng.permutation(len(windows))]
    chosen: list[Window] = []
    for window in windows:
        inside = window.clipped(region.plane.shape)
        n_normal = np.count_nonzero(region.normal(inside))
        if n_normal and n_normal >= min_normal * inside.height * inside.width:
            chosen.append(window)
            if len(chosen) == max_windows:
                break
    return sorted(chosen)


def _bounding_box(region: NormalRegion) -> Window:
    """Return the smallest window that contains the mask; an empty window for an empty mask."""
    shape = region.plane.shape
    if region.mask is None:
        return Window(0, 0, *shape)
    has_row, has_col = np.zeros(shape[0], dtype=bool), np.zeros(shape[1], dtype=bool)
    for tile in TileGrid(shape, tile=_SCAN_TILE, halo=0, align=1):
        rows, cols = tile.inner.slices()
        masked = region.masked(tile.inner)
        has_row[rows] |= masked.any(axis=1)
        has_col[cols] |= masked.any(axis=0)
    if not has_row.any():
        return Window(0, 0, 0, 0)
    (rows_at,), (cols_at,) = np.nonzero(has_row), np.nonzero(has_col)
    row, col = int(rows_at[0]), int(cols_at[0])
    return Window(row, col, int(rows_at[-1]) + 1 - row, int(cols_at[-1]) + 1 - col)


def _starts(start: int, stop: int, size: int, tile: int, align: int) -> tuple[list[int], int]:
    """Return the starts of windows that cover start to stop of an axis, and their length."""
    if stop <= start:
        return [], 0
    aligned_size = -(-size // align) * align
    length = min(tile, aligned_size)
    first, last = start // align * align, -(-stop // align) * align
    if last - first <= length:
        centred = (first + last - length) // 2 // align * align
        return [min(max(centred, 0), aligned_size - length)], length
    return [*range(first, last - length, length), last - length], length


def common_channels(regions: Sequence[NormalRegion]) -> int:
    """Return the number of channels that all regions have.

    Raises
    ------
    ImageError
        If there is no region, or their numbers of channels differ.
    """
    if not regions:
        raise ImageError("there is no normal region; mark at least a part of one image normal")
    n_channels = regions[0].plane.n_channels
    for region in regions[1:]:
        if region.plane.n_channels != n_channels:
            raise ImageError(
                f"'{regions[0].plane.name}' has {n_channels} channels but '{region.plane.name}' has "
                f"{region.plane.n_channels}; choose the same channels for all images"
            )
    return n_channels
