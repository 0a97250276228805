"""Windows of an image, the tiles that cover it, and mosaics of the maps of its tiles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ConfigError

__all__ = ["Mosaic", "Tile", "TileGrid", "Window"]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Half-open rectangle of pixels that may extend beyond the image on every side.

    Parameters
    ----------
    row, col : int
        First row and column, in pixels; negative above and left of the image.
    height, width : int
        Number of rows and columns, 0 or more.

    Raises
    ------
    ConfigError
        If the height or the width is negative.
    """

    row: int
    col: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 0 or self.width < 0:
            raise ConfigError(f"height and width of a window must be 0 or more, not {self.height} and {self.width}")

    @classmethod
    def around(cls, windows: "Iterable[Window]") -> "Window":
        """Return the smallest window that contains all windows, of which there must be at least one."""
        windows = list(windows)
        row, col = min(w.row for w in windows), min(w.col for w in windows)
        return cls(row, col, max(w.stop_row for w in windows) - row, max(w.stop_col for w in windows) - col)

    @property
    def stop_row(self) -> int:
        """First row after the window."""
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        """First column after the window."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.height, self.width

    def slices(self) -> tuple[slice, slice]:
        """Return rows and columns as slices for an array.

        Raises
        ------
        ConfigError
            If the window starts above or left of the image: a negative start would count from the array's end.
        """
        if self.row < 0 or self.col < 0:
            raise ConfigError(f"{self} starts outside the image; clip it before it is used as an index")
        return slice(self.row, self.stop_row), slice(self.col, self.stop_col)

    def grown(self, halo: int) -> "Window":
        """Return the window with `halo` more pixels (negative: fewer) on each of its four sides."""
        return Window(self.row - halo, self.col - halo, self.height + 2 * halo, self.width + 2 * halo)

    def clipped(self, shape: Sequence[int]) -> "Window":
        """Return the part inside an image of `shape` (M, N); its height or width is 0 if there is none."""
        row, stop_row = (min(max(v, 0), shape[0]) for v in (self.row, self.stop_row))
        col, stop_col = (min(max(v, 0), shape[1]) for v in (self.col, self.stop_col))
        return Window(row, col, stop_row - row, stop_col - col)

    def shifted(self, row: int, col: int) -> "Window":
        """Return the window moved down by `row` and right by `col` pixels."""
        return Window(self.row + row, self.col + col, self.height, self.width)

    def scaled(self, stride: int) -> "Window":
        """Return the window in positions of a map with one value per `stride` x `stride` pixels.

        Raises
        ------
        ConfigError
            If the stride is less than 1, or a border of the window is not a multiple of it.
        """
        if stride < 1:
            raise ConfigError(f"stride must be 1 or more, not {stride}")
        values = (self.row, self.col, self.height, self.width)
        if any(v % stride for v in values):
            raise ConfigError(f"{self} cannot be divided by the stride {stride}")
        return Window(*(v // stride for v in values))

    def contains(self, other: "Window") -> bool:
        """Return True if `other` lies completely inside this window."""
        return (
            self.row <= other.row
            and self.col <= other.col
            and other.stop_row <= self.stop_row
            and other.stop_col <= self.stop_col
        )

    def overlaps(self, other: "Window") -> bool:
        """Return True if a pixel lies in both windows."""
        return (
            self.row < other.stop_row
            and other.row < self.stop_row
            and self.col < other.stop_col
            and other.col < self.stop_col
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """Part of an image to process: `outer` is read, including the halo, and `inner` is kept.

    Parameters
    ----------
    outer, inner : Window
        `outer` contains `inner` and may extend beyond the image; `inner` never does.
    """

    outer: Window
    inner: Window


class TileGrid(Sequence[Tile]):
    """The tiles that cover an image, row by row.

    The inner windows partition the image. Their borders are multiples of `align`, except for the image's own end.
    `outer` is `inner` grown by the halo and clipped to the image's size rounded up to a multiple of `align`, so its
    height and width are multiples of `align` and it extends beyond the image by less than `align` pixels.

    The number of tiles is the smallest that the tile size allows, and they divide the image evenly: 1040 pixels in
    tiles of 512 are 352 + 336 + 352, not 512 + 512 + 16. An image smaller than a tile is one tile.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns (M, N) of the image, in pixels, 1 or more.
    tile : int
        Largest height and width of an inner window, in pixels; a multiple of `align`.
    halo : int
        Pixels read around the inner window; 0 or a multiple of `align`.
    align : int
        Coarsest stride of the network, in pixels.

    Raises
    ------
    ConfigError
        If a size is out of its range or is not a multiple of `align`.
    """

    def __init__(self, shape: tuple[int, int], tile: int, halo: int, align: int = 16) -> None:
        if len(shape) != 2 or min(shape) < 1:
            raise ConfigError(f"shape must be two numbers of 1 or more (rows, columns), not {tuple(shape)}")
        if align < 1:
            raise ConfigError(f"align must be 1 or more, not {align}")
        if tile < align or tile % align:
            raise ConfigError(f"tile must be a positive multiple of {align}, not {tile}")
        if halo < 0 or halo % align:
            raise ConfigError(f"halo must be 0 or a multiple of {align}, not {halo}")
        self._shape = (int(shape[0]), int(shape[1]))
        self._tile, self._halo, self._align = tile, halo, align
        self._row_borders = _borders(self._shape[0], tile, align)
        self._col_borders = _borders(self._shape[1], tile, align)

    shape = property(lambda self: self._shape, doc="Rows and columns (M, N) of the image, in pixels.")
    tile = property(lambda self: self._tile, doc="Largest height and width of an inner window, in pixels.")
    halo = property(lambda self: self._halo, doc="Pixels read around an inner window.")
    align = property(lambda self: self._align, doc="Divisor of every border, in pixels.")

    def __repr__(self) -> str:
        return f"TileGrid(shape={self._shape}, tile={self._tile}, halo={self._halo}, align={self._align})"

    @property
    def n_rows(self) -> int:
        """Number of rows of tiles."""
        return len(self._row_borders) - 1

    @property
    def n_cols(self) -> int:
        """Number of columns of tiles."""
        return len(self._col_borders) - 1

    def __len__(self) -> int:
        return self.n_rows * self.n_cols

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)} tiles")
        i, j = divmod(index % len(self), self.n_cols)
        row, stop_row = self._row_borders[i : i + 2]
        col, stop_col = self._col_borders[j : j + 2]
        outer_row, outer_stop_row = self._outer(row, stop_row, self._shape[0])
        outer_col, outer_stop_col = self._outer(col, stop_col, self._shape[1])
        return Tile(
            outer=Window(outer_row, outer_col, outer_stop_row - outer_row, outer_stop_col - outer_col),
            inner=Window(row, col, stop_row - row, stop_col - col),
        )

    def _outer(self, start: int, stop: int, size: int) -> tuple[int, int]:
        # An inner end that is not aligned is the image's own; it is rounded up before it grows.
        aligned_stop = _round_up(stop, self._align)
        return max(start - self._halo, 0), min(aligned_stop + self._halo, _round_up(size, self._align))


def _round_up(value: int, align: int) -> int:
    return -(-value // align) * align


def _borders(size: int, tile: int, align: int) -> list[int]:
    """Return the borders that divide `size` pixels into the fewest and most even parts of at most `tile` pixels."""
    n_units = -(-size // align)
    n_tiles = -(-n_units // (tile // align))
    return [min(i * n_units // n_tiles * align, size) for i in range(n_tiles + 1)]


class Mosaic:
    """Map of a whole image at the resolution of one level, assembled from the maps of its tiles.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns (M, N) of the image, in pixels.
    stride : int
        Pixels per value of the map along each axis; a divisor of the grid's `align`.
    dtype : dtype
        Type of the values.
    fill : float
        Value of positions that no tile has covered yet.

    Raises
    ------
    ConfigError
        If a size is out of its range, or `dtype` cannot represent `fill`.
    """

    def __init__(
        self, shape: tuple[int, int], stride: int, dtype: npt.DTypeLike = np.float32, fill: float = np.nan
    ) -> None:
        if len(shape) != 2 or min(shape) < 1:
            raise ConfigError(f"shape must be two numbers of 1 or more (rows, columns), not {tuple(shape)}")
        if stride < 1:
            raise ConfigError(f"stride must be 1 or more, not {stride}")
        if np.dtype(dtype).kind not in "fc" and not np.isfinite(fill):
            raise ConfigError(f"fill must be a finite number for a map of {np.dtype(dtype)}, not {fill}")
        self._shape = (int(shape[0]), int(shape[1]))
        self._stride = stride
        map_shape = (-(-self._shape[0] // stride), -(-self._shape[1] // stride))
        self._values: npt.NDArray[Any] = np.full(map_shape, fill, dtype=dtype)
        self._is_known = np.zeros(map_shape, dtype=bool)

    def put(self, tile: Tile, values: npt.NDArray[Any]) -> None:
        """Store the inner part of a tile's map.

        Parameters
        ----------
        tile : Tile
            Tile whose windows start at multiples of the stride.
        values : (h_outer / stride, w_outer / stride) array
            Map of the whole outer window.

        Raises
        ------
        ConfigError
            If the tile does not fit the stride or the image, or the values do not fit the tile.
        """
        outer = tile.outer.scaled(self._stride)
        if values.shape != outer.shape:
            raise ConfigError(f"values of {tile} at stride {self._stride} must be {outer.shape}, not {values.shape}")
        inner = tile.inner
        if not (tile.outer.contains(inner) and Window(0, 0, *self._shape).contains(inner)):
            raise ConfigError(f"{inner} must lie inside {tile.outer} and inside the image of {self._shape}")
        if self._cuts_cells(inner):
            raise ConfigError(f"{inner} cuts through values of {self._stride} x {self._stride} pixels")
        row, col = inner.row // self._stride, inner.col // self._stride
        kept = Window(row, col, -(-inner.stop_row // self._stride) - row, -(-inner.stop_col // self._stride) - col)
        self._values[kept.slices()] = values[kept.shifted(-outer.row, -outer.col).slices()]
        self._is_known[kept.slices()] = True

    def _cuts_cells(self, inner: Window) -> bool:
        return any(
            start % self._stride or (stop % self._stride and stop != size)
            for start, stop, size in zip(
                (inner.row, inner.col), (inner.stop_row, inner.stop_col), self._shape, strict=True
            )
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (M, N) of the image, in pixels."""
        return self._shape

    @property
    def stride(self) -> int:
        """Pixels of the image per value of the map along each axis."""
        return self._stride

    @property
    def values(self) -> npt.NDArray[Any]:
        """Map (ceil(M / stride), ceil(N / stride)); not a copy."""
        return self._values

    @property
    def is_complete(self) -> bool:
        """True if every value has been stored."""
        return bool(self._is_known.all())
