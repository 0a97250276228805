import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.image.region import NormalRegion


def region_of(image: np.ndarray, axes: str = "YX", mask: np.ndarray | None = None) -> NormalRegion:
    return NormalRegion(planes_of(image, axes)[0], mask)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_small_regions_count_whole(rng: np.random.Generator) -> None:
    images = [rng.normal(100, 10, (2, 300, 70)).astype(np.float32) for _ in range(3)]
    masks = [rng.random((300, 70)) < 0.5 for _ in range(3)]
    fitted = IntensityRange.fit(
        [region_of(p, "CYX", m) for p, m in zip(images, masks, strict=True)],
        rng=rng,
        low_percentile=1,
        high_percentile=90,
    )
    normal = np.concatenate([p[:, m] for p, m in zip(images, masks, strict=True)], axis=1)
    low, high = np.percentile(normal.astype(np.float64), [1, 90], axis=1)
    np.testing.assert_allclose(fitted.low, low)
    np.testing.assert_allclose(fitted.high, high)


def test_large_regions_are_sampled(rng: np.random.Generator) -> None:
    image = rng.random((1100, 1000), dtype=np.float32)
    fitted = IntensityRange.fit(
        [region_of(image)] * 3, rng=rng, low_percentile=5, high_percentile=95, max_pixels=20_000
    )
    np.testing.assert_allclose([fitted.low[0], fitted.high[0]], [0.05, 0.95], atol=0.02)


def test_what_is_not_normal_does_not_count(rng: np.random.Generator) -> None:
    image = np.full((40, 40), 5.0)
    image[:20] = 1000
    image[25, 25], image[30, 30], image[26, 26] = np.nan, np.inf, 6
    mask = np.zeros((40, 40), np.int32)
    mask[20:] = 4
    fitted = IntensityRange.fit([region_of(image, mask=mask)], rng=rng, low_percentile=0, high_percentile=100)
    assert fitted == IntensityRange((5,), (6,))


def test_constant_and_sparse_channels(rng: np.random.Generator) -> None:
    image = np.zeros((3, 50, 50), np.int32)
    image[0] = 7
    image[1, 3, 3] = 200
    image[2] = -(2**31)
    fitted = IntensityRange.fit([region_of(image, "CYX")], rng=rng)
    assert fitted.low[:2] == (7, 0)
    assert fitted.high[:2] == (8, 200)
    scaled = fitted.apply(planes_of(image, "CYX")[0].read())
    assert (scaled[0] == 0).all()
    assert (scaled[2] == 0).all()


def test_no_normal_pixel_is_an_error(rng: np.random.Generator) -> None:
    with pytest.raises(ImageError, match="no normal pixel"):
        IntensityRange.fit([region_of(np.zeros((9, 9)), mask=np.zeros((9, 9)))], rng=rng)
    with pytest.raises(ImageError, match="no normal region"):
        IntensityRange.fit([], rng=rng)


@pytest.mark.parametrize(
    "options",
    [{"low_percentile": 99.95}, {"low_percentile": -1}, {"high_percentile": 101}, {"max_pixels": 10}],
)
def test_bad_options_are_refused(options: dict, rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError):
        IntensityRange.fit([region_of(np.zeros((9, 9)))], rng=rng, **options)


floats = st.floats(width=32)


@settings(deadline=None)
@given(
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.one_of(floats, st.floats(-1e6, 1e6, width=32)), min_size=1)
)
def test_scaled_pixels_are_finite_and_in_order(low: float, span: float, pixels: list[float]) -> None:
    values = np.array(pixels, dtype=np.float32)[None, None]
    before = values.copy()
    scaled = IntensityRange((low,), (low + span,)).apply(values)
    np.testing.assert_array_equal(values, before)
    assert scaled.dtype == np.float32
    assert (scaled[~np.isfinite(values)] == 0.5).all()
    assert ((scaled >= -1) & (scaled <= 2)).all()
    finite = np.isfinite(values)
    order = np.argsort(values[finite])
    assert (np.diff(scaled[finite][order]) >= 0).all()


def test_scaling_by_hand() -> None:
    scaled = IntensityRange((10, 0), (20, 1)).apply(np.array([[[10, 15, 20, 25]], [[-9, 0, 1, 9]]], np.float32))
    np.testing.assert_array_equal(scaled, [[[0, 0.5, 1, 1.5]], [[-1, 0, 1, 2]]])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e30, 1e30), st.floats(1e-3, 1e3)), min_size=1, max_size=3))
def test_a_range_survives_json(pairs: list[tuple[float, float]]) -> None:
    pairs = [(low, low + span) for low, span in pairs if low + span > low] or [(0, 1)]
    fitted = IntensityRange(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
    assert IntensityRange.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"low": [1]},
        {"low": 1, "high": 2},
        {"low": [2], "high": [1]},
        {"low": [], "high": []},
        {"low": [-1e308], "high": [1e308]},
    ],
)
def test_a_broken_dict_is_refused(values: dict) -> None:
    with pytest.raises(ConfigError):
        IntensityRange.from_dict(values)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ImageError, match="2 channels but the model was trained on 1"):
        IntensityRange((0,), (1,)).apply(Plane(data=np.zeros((2, 3, 3)), axes="CYX").read())
    with pytest.raises(ImageError, match="1 channels"):
        IntensityRange((0,), (1,)).apply(np.zeros((3, 3), np.float32))
