"""Planted defects: their masks are the pixels they change, and nothing else changes."""

import math

import numpy as np
import pytest
from scipy import ndimage

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.image.planting import PLANTED_KINDS, DefectPlan, draw_plans, plant


def texture(shape=(1, 200, 180), seed=0, dtype=np.uint8, low=40, high=200):
    """A smooth random field between two grey levels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, 2, 2))
    noise = (noise - noise.min()) / (np.ptp(noise) or 1)
    values = low + (high - low) * noise
    return (values if np.dtype(dtype).kind == "f" else np.rint(values)).astype(np.float32)


def plan_of(kind, size=20.0, contrast=0.2):
    return DefectPlan(kind, size, None if kind in ("patch", "blurred", "shifted") else contrast)


def check(image, values, normal=None):
    """The labels are the changed pixels, which are finite and normal."""
    changed = ((image.values != values) & ~np.isnan(values)).any(axis=0)
    np.testing.assert_array_equal(image.labels > 0, changed)
    assert np.isfinite(values[:, image.labels > 0]).all()
    assert image.labels.max() == len(image.defects)
    np.testing.assert_array_equal(np.isnan(image.values), np.isnan(values))
    for defect in image.defects:
        rows, cols = np.nonzero(image.labels == defect.label)
        assert len(rows) == defect.area_px
        assert (rows.min(), cols.min()) == (defect.window.row, defect.window.col)
        assert (rows.max() + 1, cols.max() + 1) == (defect.window.stop_row, defect.window.stop_col)
        at_border = rows.min() == 0 or cols.min() == 0
        at_border |= rows.max() + 1 == values.shape[1] or cols.max() + 1 == values.shape[2]
        assert defect.touches_border == at_border
    if normal is not None:
        assert normal[image.labels > 0].all()


@pytest.mark.parametrize("n_channels", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", PLANTED_KINDS)
def test_the_mask_is_the_changed_pixels(kind, dtype, n_channels):
    values = texture((n_channels, 120, 140), dtype=dtype)
    donor = texture((n_channels, 90, 90), seed=1, dtype=dtype, low=0, high=255)
    plans = [plan_of(kind, size) for size in (5.0, 12.0, 30.0)]
    image = plant(values, plans, seed=3, span=[160.0] * n_channels, donors=[donor], dtype=dtype)
    assert len(image.defects) == 3
    assert not image.left_out
    check(image, values)
    assert all(defect.change > 0.009 for defect in image.defects)
    if np.dtype(dtype).kind == "u":
        np.testing.assert_array_equal(image.values, np.rint(image.values))


def test_the_same_seed_gives_the_same_image():
    values = texture()
    plans = draw_plans(10, seed=5)
    assert plans == draw_plans(10, seed=5) != draw_plans(10, seed=6)
    one, same, other = (plant(values, plans, seed=seed, span=[160.0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.values, same.values)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert one.defects == same.defects
    assert (one.values != other.values).any()


def test_sizes_and_contrasts_are_as_planned():
    values = np.full((1, 200, 200), 100, np.float32)
    for seed in range(5):
        plans = [DefectPlan("brightened", 40.0, 0.2), DefectPlan("line", 40.0, 0.2)]
        image = plant(values, plans, seed=seed, span=[100.0], normal=np.pad(np.ones((140, 140), bool), 30))
        change = image.values[0] - 100
        blob, line = sorted(image.defects, key=lambda defect: defect.kind)
        inside = change[image.labels == blob.label]
        assert inside.max() == pytest.approx(20, rel=1e-5)
        assert inside.sum() / 20 == pytest.approx(math.pi / 4 * 40**2, rel=0.05)  # the rim weighs half
        assert np.abs(change[image.labels == line.label]).max() == pytest.approx(20, rel=1e-5)
        assert line.width_px <= 4
        assert line.area_px < 40 * (line.width_px + 2)


def test_many_are_spread_over_kinds_sizes_and_contrasts():
    plans = draw_plans(70, seed=0, sizes=(4, 64), contrasts=(0.05, 0.6))
    assert {kind: sum(plan.kind == kind for plan in plans) for kind in PLANTED_KINDS} == dict.fromkeys(
        PLANTED_KINDS, 10
    )
    for kind in PLANTED_KINDS:
        sizes = np.log([plan.size_px for plan in plans if plan.kind == kind])
        np.testing.assert_array_equal(
            np.histogram(sizes, np.linspace(math.log(4), math.log(64), 11))[0], np.ones(10, int)
        )
    assert draw_plans(0, seed=0) == []
    assert len(draw_plans(3, seed=0)) == 3


def test_they_do_not_touch_each_other():
    values = texture()
    image = plant(values, [plan_of("brightened", 12.0)] * 12, seed=0, span=[160.0], margin=10)
    assert len(image.defects) > 4
    for defect in image.defects:
        own = image.labels == defect.label
        others = (image.labels > 0) & ~own
        assert ndimage.distance_transform_edt(~own)[others].min() > 10


def test_the_border_gets_its_share():
    values = np.full((1, 100, 100), 100, np.float32)
    n, size = 400, 16.0
    at_border = [
        plant(values, [DefectPlan("brightened", size, 0.2)], seed=seed, span=[100.0]).defects[0].touches_border
        for seed in range(n)
    ]
    expected = 1 - (1 - size / 100) ** 2
    assert np.mean(at_border) == pytest.approx(expected, abs=0.09)


def test_only_normal_pixels_are_changed():
    normal = np.zeros((200, 180), bool)
    normal[20:90, 100:180] = True
    values = texture()
    image = plant(values, draw_plans(6, seed=0, sizes=(4, 20)), seed=0, span=[160.0], normal=normal, margin=2)
    assert image.defects
    check(image, values, normal)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_missing_pixels_are_left_alone(odd):
    values = texture((2, 120, 120), dtype=np.float32)
    values[0, 30:60, 30:60] = odd
    values[1, ::17, ::13] = odd
    image = plant(values, draw_plans(21, seed=1, sizes=(4, 10)), seed=0, span=[160.0, 160.0], margin=2)
    assert len(image.defects) > 5
    finite = np.where(np.isfinite(values), values, 0)
    changed = (np.where(np.isfinite(image.values), image.values, 0) != finite).any(axis=0)
    np.testing.assert_array_equal(changed, image.labels > 0)
    np.testing.assert_array_equal(np.isfinite(values), np.isfinite(image.values))
    assert np.isfinite(values).all(axis=0)[image.labels > 0].all()


@pytest.mark.parametrize("shape", [(80, 80), (20, 200), (7, 9), (1, 1)])
def test_small_images_get_what_fits(shape):
    values = texture((1, *shape))
    image = plant(values, draw_plans(14, seed=0), seed=0, span=[160.0])
    assert len(image.defects) + len(image.left_out) == 14
    check(image, values)
    if shape == (80, 80):
        assert image.defects


def test_a_saturated_image_is_not_brightened_and_values_stay_in_range():
    white = np.full((1, 80, 80), 255, np.float32)
    image = plant(white, [plan_of("brightened")], seed=0, span=[200.0], dtype=np.uint8)
    assert image.left_out == (plan_of("brightened"),)
    np.testing.assert_array_equal(image.values, white)
    image = plant(white, [plan_of("line"), plan_of("darkened", 10.0)], seed=0, span=[200.0], dtype=np.uint8)
    assert len(image.defects) == 2  # a line may be dark
    image = plant(texture(low=0, high=255), draw_plans(30, seed=0), seed=0, span=[250.0], dtype=np.uint8, margin=0)
    assert (image.values.min(), image.values.max()) == (0, 255)
    positive = texture(dtype=np.float32, low=0, high=1)
    image = plant(positive, [plan_of("darkened", 30.0, 0.6)] * 3, seed=0, span=[1.0])
    assert image.defects
    assert image.values.min() >= 0
    negative = plant(positive - 0.5, [plan_of("darkened", 30.0, 0.6)] * 3, seed=0, span=[1.0])
    assert negative.values.min() < -0.5


def test_a_constant_image_can_neither_be_blurred_nor_shifted():
    values = np.full((1, 80, 80), 100, np.float32)
    image = plant(values, [plan_of("blurred", 10.0), plan_of("shifted", 10.0)], seed=0, span=[100.0])
    assert not image.defects
    assert len(image.left_out) == 2


def test_without_a_donor_the_image_itself_is_used():
    values = texture(shape=(1, 100, 100))
    image = plant(values, [plan_of("patch")], seed=0, span=[160.0], donors=[values[:, :5, :5]])
    check(image, values)
    assert len(image.defects) == 1


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int32", "float32", "float64", "bool"])
def test_the_plane(dtype):
    low, high = (0, 1) if dtype == "bool" else (10, 200)
    values = texture((2, 100, 90), dtype=dtype, low=low, high=high)
    like = Plane(data=np.zeros((100, 90)), name="cells", pixel_size=(0.5, 0.25), unit="um")
    image = plant(values, [plan_of("blob", 15.0, 0.9)], seed=0, span=[float(high)] * 2, dtype=dtype)
    plane = image.plane(like)
    np.testing.assert_array_equal(plane.read(), image.values)
    assert (plane.title, plane.pixel_size, plane.unit) == ("cells", (0.5, 0.25), "um")
    assert plane.data.dtype == (dtype if np.dtype(dtype).itemsize <= 2 else np.float32)


@pytest.mark.parametrize(
    ("kind", "size", "contrast", "message"),
    [
        ("hole", 10.0, 0.1, "must be one of patch"),
        ("blob", 1.0, 0.1, "2 pixels or more"),
        ("blob", math.nan, 0.1, "2 pixels or more"),
        ("blob", 10.0, None, "needs a contrast"),
        ("patch", 10.0, 0.1, "has no contrast"),
        ("blob", 10.0, 0.0, "above 0"),
    ],
)
def test_impossible_plans(kind, size, contrast, message):
    with pytest.raises(ConfigError, match=message):
        DefectPlan(kind, size, contrast)


def test_what_does_not_fit_together_is_refused():
    values = texture()
    with pytest.raises(ImageError, match=r"\(C, M, N\)"):
        plant(values[0], [], seed=0, span=[1.0])
    with pytest.raises(ImageError, match="mask of normal pixels"):
        plant(values, [], seed=0, span=[1.0], normal=np.ones((3, 3), bool))
    with pytest.raises(ImageError, match="patches"):
        plant(values, [], seed=0, span=[1.0], donors=[np.zeros((2, 9, 9), np.float32)])
    for span in ([], [0.0], [1.0, 1.0], [math.nan]):
        with pytest.raises(ConfigError, match="span"):
            plant(values, [], seed=0, span=span)
    with pytest.raises(ConfigError, match="margin"):
        plant(values, [], seed=0, span=[1.0], margin=-1)
    with pytest.raises(ConfigError, match="0 or more planted"):
        draw_plans(-1, seed=0)
    with pytest.raises(ConfigError, match="sizes"):
        draw_plans(1, seed=0, sizes=(9, 4))
