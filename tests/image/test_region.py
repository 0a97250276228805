import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.image.region import NormalRegion, common_channels, sample_windows
from napari_uflow.image.specimen import hold_out_specimens, specimen_of


def region_of(shape: tuple[int, int], mask: np.ndarray | None = None) -> NormalRegion:
    return NormalRegion(Plane(data=np.zeros(shape, np.uint8), name="slide"), mask)


def test_normal_is_inside_masked_and_finite() -> None:
    image = np.zeros((2, 3, 4), np.float32)
    image[1, 0, 0] = np.nan
    labels = np.array([[1, 7, 0, 1], [0, 1, 1, 1], [0, -1, 1, 1]])
    region = NormalRegion(Plane(data=image, axes="CYX"), labels)
    expected = np.array([[0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(region.normal(), expected)
    np.testing.assert_array_equal(region.normal(Window(-1, -2, 6, 9)), np.pad(expected, ((1, 2), (2, 3))))
    assert not region.normal(Window(-9, 50, 2, 3)).any()
    values, normal = region.read(Window(-1, -2, 6, 9))
    np.testing.assert_array_equal(normal, np.pad(expected, ((1, 2), (2, 3))))
    assert values.shape == (2, 6, 9)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float32])
def test_masks_of_any_kind(dtype: type) -> None:
    mask = np.eye(5, dtype=dtype)
    np.testing.assert_array_equal(region_of((5, 5), mask).normal(), np.eye(5, dtype=bool))
    np.testing.assert_array_equal(region_of((5, 5), da.from_array(mask, chunks=2)).normal(), np.eye(5, dtype=bool))


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ImageError, match=r"'slide' has the shape \(5, 4\)"):
        region_of((5, 5), np.ones((5, 4)))


def test_specimen_is_the_name_of_the_image() -> None:
    plane = Plane(data=np.zeros((4, 4)), name="slide")
    assert NormalRegion(plane).specimen == "slide"
    assert NormalRegion(plane, specimen="mouse 3").specimen == "mouse 3"


@settings(deadline=None)
@given(st.integers(1, 4), st.sampled_from([1, 8, 16]), st.data())
def test_windows_cover_a_normal_image(n_units: int, align: int, data: st.DataObject) -> None:
    tile = n_units * align
    shape = data.draw(st.tuples(st.integers(1, 5 * tile), st.integers(1, 5 * tile)))
    aligned = Window(0, 0, *(-(-n // align) * align for n in shape))
    covered = np.zeros(aligned.shape, dtype=bool)
    for window in sample_windows(region_of(shape), tile, align=align):
        assert window.row % align == window.col % align == 0
        assert window.shape == (min(tile, aligned.height), min(tile, aligned.width))
        assert aligned.contains(window)
        covered[window.slices()] = True
    assert covered.all()


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.integers(1, 5),
)
def test_windows_are_normal_enough_and_a_choice_is_a_part(
    shape: tuple[int, int], seed: int, min_normal: float, max_windows: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=bool)
    corner = [int(rng.integers(n)) for n in shape]
    mask[corner[0] :, corner[1] :] = rng.random((shape[0] - corner[0], shape[1] - corner[1])) < 0.8
    region = region_of(shape, mask)
    windows = sample_windows(region, 32, align=8, min_normal=min_normal)
    for window in windows:
        inside = window.clipped(shape)
        part = mask[inside.slices()]
        assert part.any()
        assert part.mean() >= min_normal
    if min_normal == 0:
        for row, col in zip(*np.nonzero(mask), strict=True):
            assert any(w.contains(Window(int(row), int(col), 1, 1)) for w in windows)
    chosen = sample_windows(region, 32, align=8, min_normal=min_normal, max_windows=max_windows, rng=rng)
    assert set(chosen) <= set(windows)
    assert len(chosen) == len(set(chosen)) == min(max_windows, len(windows))


def test_a_small_mask_in_the_middle_gets_a_window_around_it() -> None:
    mask = np.zeros((256, 256), dtype=bool)
    mask[120:144, 120:144] = True
    region = region_of((256, 256), mask)
    assert sample_windows(region, 32) == [Window(112, 112, 32, 32)]
    assert sample_windows(region, 64, min_normal=0.1) == [Window(96, 96, 64, 64)]
    assert sample_windows(region, 64) == []


def test_strip_and_empty_mask() -> None:
    assert sample_windows(region_of((110, 2048)), 1024) == [Window(0, 0, 112, 1024), Window(0, 1024, 112, 1024)]
    assert sample_windows(region_of((40, 40), np.zeros((40, 40), bool)), 32) == []
    image = NormalRegion(Plane(data=np.full((40, 40), np.nan)))
    assert sample_windows(image, 32, min_normal=0) == []


@pytest.mark.parametrize(
    "options",
    [{"tile": 20}, {"tile": 0}, {"min_normal": 1.1}, {"min_normal": -0.1}, {"max_windows": 3}, {"max_windows": 0}],
)
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        sample_windows(region_of((40, 40)), **{"tile": 32, **options})


names = st.lists(st.text(max_size=3), max_size=12)


@pytest.mark.slow
@settings(deadline=None)
@given(names, st.floats(0, 1, exclude_max=True), st.integers(0, 100))
def test_held_out_fields(specimens: list[str], fraction: float, seed: int) -> None:
    held_out = hold_out_specimens(specimens, fraction, seed)
    assert held_out <= set(specimens)
    assert held_out == hold_out_specimens([*specimens[::-1], *specimens], fraction, seed)
    if len(set(specimens)) >= 2 and fraction > 0:
        assert (3 if len(set(specimens)) >= 8 else 1) <= len(held_out) < len(set(specimens))
    else:
        assert not held_out


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        hold_out_specimens(["a", "b"], fraction, 0)


@pytest.mark.parametrize(
    ("name", "specimen"),
    [
        ("slide4_x000_y128", "slide4"),
        ("slide4_y000_x128", "slide4"),
        ("slide4_r0_c1", "slide4"),
        ("slide4_row0_col1", "slide4"),
        ("slide4_tile12", "slide4"),
        ("slide4-tile_3_4", "slide4"),
        ("slide4_crop3", "slide4"),
        ("slide4_x0_y0_crop3", "slide4"),
        ("slide_12", "slide_12"),
        ("mouse_c1", "mouse_c1"),
        ("tile12", "tile12"),
        ("textile12", "textile12"),
        ("", ""),
    ],
)
def test_specimen_of_a_tile(name: str, specimen: str) -> None:
    assert specimen_of(name) == specimen


def test_specimen_by_a_pattern() -> None:
    assert specimen_of("2024-05-01_mouse3_s1", r"_(mouse\d+)_") == "mouse3"


@pytest.mark.parametrize("pattern", ["(", "mouse", "(a)(b)", "(rat)", "(x*)"])
def test_bad_patterns_are_named(pattern: str) -> None:
    with pytest.raises(ConfigError, match="specimen pattern"):
        specimen_of("mouse3", pattern)


def test_common_channels() -> None:
    one, two = region_of((4, 4)), NormalRegion(planes_of(np.zeros((2, 4, 4)), "CYX", name="b")[0])
    assert common_channels([one, one]) == 1
    with pytest.raises(ImageError, match="'slide' has 1 channels but 'b' has 2"):
        common_channels([one, two])
    with pytest.raises(ImageError, match="no normal region"):
        common_channels([])
