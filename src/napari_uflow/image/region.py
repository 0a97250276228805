"""What is normal: a part of a plane, the windows to train on inside it, and the fields to hold out."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.grid import TileGrid, Window
from napari_uflow.image.plane import LazyArray, Plane

__all__ = ["NormalRegion", "common_channels", "specimen_of", "hold_out_specimens", "sample_windows"]

_SCAN_TILE = 1024
"""Pixels of a mask that are looked at together, squared: 1 MB of a mask of 8 bits."""

_TILE_SUFFIX = re.compile(
    r"^(.+?)(?:[_\-. ](?:x\d+[_\-]?y\d+|y\d+[_\-]?x\d+|r(?:ow)?\d+[_\-]?c(?:ol)?\d+|"
    r"(?:tile|crop|patch)[_\-]?\d+(?:[_\-]\d+)?))*$",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False, init=False)
class NormalRegion:
    """The statement "this part of this plane is normal".

    Parameters
    ----------
    plane : Plane
        The image.
    mask : array-like, shape (M, N), or None
        True, or a label above 0, where the image is normal; may be lazy. None: all of it is.
    specimen : str
        Name of the specimen, the independent sample, that the plane comes from. Pixels of one specimen are alike, so
        training and checking share none. By default it follows from the plane's name, see `training.regions`.
    is_marked_normal : bool
        True for something that was reported as an anomaly and that the user called normal: it is always trained on and
        never held out.

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
        """Return the region without what others mark in the same image; itself where there is nothing to take out."""
        masks = [
            other.normal()
            for other in others
            if other.plane.data is self.plane.data
            and other.plane.index == self.plane.index
            and other.plane.shape == self.plane.shape
        ]
        if not masks:
            return self
        taken: npt.NDArray[np.bool_] = np.logical_or.reduce(masks)
        mask = self.masked(Window(0, 0, *self.plane.shape)) & ~taken
        return NormalRegion(self.plane, mask, self.specimen, is_marked_normal=self.is_marked_normal)

    def of_specimen(self, specimen: str) -> "NormalRegion":
        """Return the same region as one of another specimen."""
        return NormalRegion(self.plane, self.mask, specimen, is_marked_normal=self.is_marked_normal)

    def normal(self, window: Window | None = None) -> npt.NDArray[np.bool_]:
        """Return where the window is normal: inside the image, inside the mask, and all channels finite.

        Returns
        -------
        ndarray of bool, shape (h, w)
        """
        window = Window(0, 0, *self.plane.shape) if window is None else window
        normal = self.masked(window)
        if normal.any():
            inside = window.clipped(self.plane.shape)
            normal[inside.shifted(-window.row, -window.col).slices()] &= self.plane.read_valid(inside)
        return normal

    def read(self, window: Window | None = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the pixels of a window and where they are normal, reading the image once.

        Returns
        -------
        values : ndarray of float32, shape (C, h, w)
            As `Plane.read` returns them, mirrored outside of the image.
        normal : ndarray of bool, shape (h, w)
            As `normal` returns it, False outside of the image.
        """
        window = Window(0, 0, *self.plane.shape) if window is None else window
        values = self.plane.read(window)
        return values, self.masked(window) & np.isfinite(values).all(axis=0)

    def masked(self, window: Window) -> npt.NDArray[np.bool_]:
        """Return where the window is inside the image and the mask, whatever its pixels.

        Returns
        -------
        ndarray of bool, shape (h, w)
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

    The windows lie side by side over the smallest rectangle that holds the mask (the whole image where there is no
    mask), its borders rounded outwards to multiples of `align`. The last row and column are moved back to end with
    that rectangle, so an image that is not a multiple of the tile is covered too, with overlap. A rectangle smaller
    than the tile gets one window, around its middle. Every window starts at a multiple of `align` at 0 or later, and
    ends at or before the image's size rounded up to a multiple of `align`.

    Parameters
    ----------
    region : NormalRegion
        Its mask is looked at piece by piece; its pixels only where they may be NaN.
    tile : int
        Height and width of the windows, in pixels, a multiple of `align`. Along an axis on which the image is
        smaller they have the image's size rounded up to a multiple of `align`.
    align : int
        The coarsest stride of the network, in pixels.
    min_normal : float
        From 0 to 1: a window is returned if at least this part of its pixels inside the image is normal, and in any
        case one pixel.
    max_windows : int or None
        Return no more than so many, chosen at random.
    rng : Generator or None
        Makes that choice; needed with `max_windows`.

    Returns
    -------
    list of Window
        Row by row; empty if no window is normal enough.

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
        raise ConfigError(f"max_windows must be 1 or more and needs rng, not max_windows={max_windows}, rng={rng}")
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
    """Return the smallest window that holds the mask; an empty one if the mask is."""
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
    """Return where windows start that cover start to stop of an axis, and how long they are."""
    if stop <= start:
        return [], 0
    aligned_size = -(-size // align) * align
    length = min(tile, aligned_size)
    first, last = start // align * align, -(-stop // align) * align
    if last - first <= length:
        centred = (first + last - length) // 2 // align * align
        return [min(max(centred, 0), aligned_size - length)], length
    return [*range(first, last - length, length), last - length], length


def hold_out_specimens(specimens: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Choose whole fields to be kept out of training.

    Parameters
    ----------
    fields : iterable of str
        Names of fields; their order and repetitions do not matter.
    fraction : float
        Part of the fields to hold out, from 0 (none) to below 1. Of two fields or more, at least one is held out and
        at least one is left; of eight or more, at least three are held out, which is what a guarantee of false alarms
        takes. A single field is never held out.
    seed : int
        The same names, fraction and seed give the same choice.

    Returns
    -------
    frozenset of str

    Raises
    ------
    ConfigError
        If the fraction is out of its range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"the fraction of fields to hold out must be 0 or more and below 1, not {fraction}")
    names = sorted(set(specimens))
    if len(names) < 2 or fraction == 0:
        return frozenset()
    least = 3 if len(names) >= 8 else 1
    n_held_out = min(max(round(fraction * len(names)), least), len(names) - 1)
    return frozenset(names[i] for i in np.random.default_rng(seed).permutation(len(names))[:n_held_out])


def specimen_of(name: str, pattern: str | None = None) -> str:
    """Return the name of the field that a file comes from.

    Parameters
    ----------
    name : str
        Name of the file without its ending, such as "slide4_x000_y128".
    pattern : str or None
        Regular expression, searched in the name, whose only group is the field. By default the place of a tile is
        taken off the end: "_x000_y128", "_r0_c1", "_tile12", "_crop3" and the like.

    Returns
    -------
    str
        Such as "slide4".

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or finds no field in the name.
    """
    if pattern is None:
        match = _TILE_SUFFIX.match(name)
        return match[1] if match else name
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the field pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"the field pattern {pattern!r} must have one group in round brackets, the field, not {compiled.groups}"
        )
    match = compiled.search(name)
    if match is None or not match[1]:
        raise ConfigError(f"the field pattern {pattern!r} finds no field in the file name '{name}'")
    return match[1]


def common_channels(regions: Sequence[NormalRegion]) -> int:
    """Return the number of channels that every one of the regions has.

    Raises
    ------
    ImageError
        If there is no region, or their numbers of channels differ.
    """
    if not regions:
        raise ImageError("no normal region was given; mark at least one part of one image as normal")
    n_channels = regions[0].plane.n_channels
    for region in regions[1:]:
        if region.plane.n_channels != n_channels:
            raise ImageError(
                f"'{regions[0].plane.name}' has {n_channels} channels but '{region.plane.name}' has "
                f"{region.plane.n_channels}; choose the same channels for all images"
            )
    return n_channels
