import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ConfigError
from napari_uflow.image.grid import Mosaic, TileGrid, Window


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    align = draw(st.sampled_from([1, 2, 4, 16]))
    tile = align * draw(st.integers(1, 8))
    size = st.integers(1, 6 * tile)
    return TileGrid((draw(size), draw(size)), tile, align * draw(st.integers(0, 3)), align)


windows = st.builds(
    Window, st.integers(-30, 30), st.integers(-30, 30), height=st.integers(0, 30), width=st.integers(0, 30)
)


@settings(deadline=None)
@given(grids())
def test_inner_windows_partition_the_image(grid: TileGrid) -> None:
    n_kept = np.zeros(grid.shape, dtype=int)
    for tile in grid:
        assert Window(0, 0, *grid.shape).contains(tile.inner)
        n_kept[tile.inner.slices()] += 1
    assert (n_kept == 1).all()
    assert len(list(grid)) == len(grid) == grid.n_rows * grid.n_cols
    assert grid[-1] == grid[len(grid) - 1] == grid[:][-1]


@settings(deadline=None)
@given(grids())
def test_borders_are_aligned_and_outer_is_inner_with_its_halo(grid: TileGrid) -> None:
    align, (m, n) = grid.align, grid.shape
    aligned_m, aligned_n = -(-m // align) * align, -(-n // align) * align
    for outer, inner in ((t.outer, t.inner) for t in grid):
        assert inner.row % align == inner.col % align == 0
        assert inner.stop_row % align == 0 or inner.stop_row == m
        assert inner.stop_col % align == 0 or inner.stop_col == n
        assert max(inner.shape) <= grid.tile
        assert outer.height % align == outer.width % align == 0
        assert outer.row == max(inner.row - grid.halo, 0)
        assert outer.col == max(inner.col - grid.halo, 0)
        assert outer.stop_row == min(-(-inner.stop_row // align) * align + grid.halo, aligned_m)
        assert outer.stop_col == min(-(-inner.stop_col // align) * align + grid.halo, aligned_n)
        assert outer.contains(inner)


@settings(deadline=None)
@given(grids())
def test_no_sliver_and_no_tile_too_many(grid: TileGrid) -> None:
    units = [-(-size // grid.align) for size in grid.shape]
    n_per_tile = grid.tile // grid.align
    assert (grid.n_rows, grid.n_cols) == tuple(-(-u // n_per_tile) for u in units)
    for tile in grid:
        if grid.n_rows > 1:
            assert -(-tile.inner.height // grid.align) >= n_per_tile // 2
        if grid.n_cols > 1:
            assert -(-tile.inner.width // grid.align) >= n_per_tile // 2


def test_a_strip_by_hand() -> None:
    grid = TileGrid((110, 2048), tile=1024, halo=64, align=16)
    assert [t.inner for t in grid] == [Window(0, 0, 110, 1024), Window(0, 1024, 110, 1024)]
    assert [t.outer for t in grid] == [Window(0, 0, 112, 1088), Window(0, 960, 112, 1088)]


def test_tiles_share_the_image_evenly() -> None:
    assert [t.inner.width for t in TileGrid((8, 1040), tile=512, halo=0)] == [336, 352, 352]


def test_a_small_image_is_one_tile() -> None:
    (tile,) = TileGrid((1, 1), tile=512, halo=64, align=32)
    assert (tile.inner, tile.outer) == (Window(0, 0, 1, 1), Window(0, 0, 32, 32))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((0, 5), 16, 0, 16), "shape"),
        (((5,), 16, 0, 16), "shape"),
        (((5, 5), 0, 0, 16), "tile"),
        (((5, 5), 24, 0, 16), "tile must be a positive multiple of 16, not 24"),
        (((5, 5), 16, 8, 16), "halo must be 0 or a multiple of 16, not 8"),
        (((5, 5), 16, -16, 16), "halo"),
        (((5, 5), 16, 0, 0), "align"),
    ],
)
def test_bad_sizes_are_named(sizes: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TileGrid(*sizes)


@settings(deadline=None)
@given(grids(), st.data())
def test_mosaic_of_tiles_is_the_whole_map(grid: TileGrid, data: st.DataObject) -> None:
    stride = data.draw(st.sampled_from([s for s in (1, 2, 4, 8, 16) if grid.align % s == 0]))
    m, n = (-(-size // stride) for size in grid.shape)
    # The map on an endless plane, of which each tile computes its outer part.
    whole = np.arange((m + 32) * (n + 32), dtype=np.float32).reshape(m + 32, n + 32)
    mosaic = Mosaic(grid.shape, stride)
    assert mosaic.values.shape == (m, n)
    for tile in grid:
        assert not mosaic.is_complete
        mosaic.put(tile, whole[tile.outer.scaled(stride).slices()])
    assert mosaic.is_complete
    np.testing.assert_array_equal(mosaic.values, whole[:m, :n])


def test_mosaic_starts_with_its_fill() -> None:
    assert np.isnan(Mosaic((3, 3), 2).values).all()
    mosaic = Mosaic((3, 3), 2, dtype=np.int32, fill=-1)
    assert mosaic.values.dtype == np.int32
    assert (mosaic.values == -1).all()


def test_mosaic_refuses_what_does_not_fit() -> None:
    (tile,) = TileGrid((10, 10), tile=16, halo=0)
    with pytest.raises(ConfigError, match="must be"):
        Mosaic((10, 10), 4).put(tile, np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(ConfigError, match="inside the image"):
        Mosaic((9, 9), 4).put(tile, np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(ConfigError, match="cuts through"):
        Mosaic((20, 20), 4).put(tile, np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(ConfigError, match="stride"):
        Mosaic((20, 20), 0)
    with pytest.raises(ConfigError, match="shape"):
        Mosaic((20, 0), 1)
    with pytest.raises(ConfigError, match="fill"):
        Mosaic((20, 20), 4, dtype=np.uint8)


@settings(deadline=None)
@given(windows, windows)
def test_windows_contain_what_they_are_clipped_to(a: Window, b: Window) -> None:
    inside = a.clipped((10, 20))
    assert Window(0, 0, 10, 20).contains(inside)
    assert Window(0, 0, 10, 20).contains(a) == (inside == a)
    assert a.grown(3).contains(a)
    assert a.grown(3).grown(-3) == a
    assert a.shifted(2, -3).shifted(-2, 3) == a
    if a.contains(b):
        assert b.height <= a.height
        assert b.width <= a.width


def test_window_by_hand() -> None:
    window = Window(4, 8, 12, 16)
    assert (window.stop_row, window.stop_col, window.shape) == (16, 24, (12, 16))
    assert window.slices() == (slice(4, 16), slice(8, 24))
    assert window.scaled(4) == Window(1, 2, 3, 4)
    with pytest.raises(ConfigError, match="stride 8"):
        window.scaled(8)
    with pytest.raises(ConfigError, match="stride must be"):
        window.scaled(0)
    with pytest.raises(ConfigError, match="outside the image"):
        Window(-1, 0, 2, 2).slices()
    with pytest.raises(ConfigError, match="0 or more"):
        Window(0, 0, -1, 2)


@pytest.mark.parametrize(
    ("other", "is_overlapping"),
    [
        (Window(12, 23, 2, 2), True),
        (Window(0, 0, 50, 50), True),
        (Window(9, 19, 2, 2), True),
        (Window(8, 20, 2, 5), False),
        (Window(15, 20, 5, 5), False),
        (Window(10, 30, 5, 5), False),
        (Window(10, 10, 5, 10), False),
    ],
)
def test_windows_overlap_where_both_have_a_pixel(other, is_overlapping):
    window = Window(10, 20, 5, 10)
    assert window.overlaps(other) == other.overlaps(window) == is_overlapping
