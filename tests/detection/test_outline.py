import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_uflow.detection import outline
from napari_uflow.detection.contrast import find_contrast
from napari_uflow.detection.outline import OutlineCanvas, outline_steps
from napari_uflow.detection.pieces import cut_into_pieces
from napari_uflow.errors import Stopped
from napari_uflow.image.plane import Plane
from napari_uflow.nfa.growth import grow_regions
from napari_uflow.nfa.labelling import label_mask
from napari_uflow.nfa.segment import LevelRegions
from napari_uflow.progress import FINISH, Progress, drain

CORNERS = np.ones((3, 3))
PROGRESS = Progress("Outlining", 0, 1)


def plane_of(image):
    return Plane(data=np.asarray(image), axes="YX" if np.ndim(image) == 2 else "YXC")


def drawn(grown, evidence, image, stride, background=2.0):
    steps = outline_steps(grown, evidence, plane_of(image), stride, background=background, progress=PROGRESS)
    return drain(steps)


def one_region(core, evidence, normal_level=1.0):
    return grow_regions(
        LevelRegions(np.asarray(core, dtype=np.int32), np.array([-3.0])), evidence, normal_level=normal_level
    )


def count(mask):
    return ndimage.label(mask, CORNERS)[1]


@st.composite
def scenes(draw):
    """Regions and their growth, an image, and a stride that need not be whole."""
    stride = draw(st.sampled_from([1.0, 1.5, 2.0, 8 / 3, 4.0, 8.0]))
    shape = (draw(st.integers(1, 70)), draw(st.integers(1, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grid = tuple(int(np.ceil(n / stride - 1e-9)) for n in shape)
    evidence = ndimage.gaussian_filter(rng.normal(size=grid), draw(st.sampled_from([0, 0.7, 1.5])))
    evidence = (evidence / max(float(np.abs(evidence).max()), 1e-9) * 4).astype(np.float32)
    evidence[rng.random(grid) < draw(st.sampled_from([0.0, 0.1]))] = np.nan
    cores, n = ndimage.label(np.nan_to_num(evidence, nan=-9) > draw(st.sampled_from([0.5, 1.5, 2.5])))
    order = np.concatenate([[0], 1 + rng.permutation(n)])
    log10_nfa = np.sort(rng.choice(np.linspace(-9, 1, draw(st.sampled_from([3, 1000]))), n))
    regions = LevelRegions(order[cores].astype(np.int32), log10_nfa)
    grown = grow_regions(regions, evidence, normal_level=0.3, fraction=draw(st.sampled_from([0.0, 0.5])))
    n_channels = draw(st.integers(1, 3))
    image = rng.normal(100, 5, (*shape, n_channels)).astype(np.float32)
    if draw(st.booleans()):  # anomalies that differ in brightness, in lines and spots of their own
        image[rng.random(shape) < 0.1] += 60
        image[:: rng.integers(2, 9)] -= 40
    image[rng.random(shape) < draw(st.sampled_from([0.0, 0.05]))] = np.nan
    return grown, evidence, image, stride, draw(st.sampled_from([2, 3, 64]))


@pytest.mark.slow
@settings(max_examples=100)
@given(scenes())
def test_outlines_keep_the_number_of_false_alarms(scene):
    grown, evidence, image, stride, span = scene
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outline, "_PIECE_POSITIONS", span)
        found = drawn(grown, evidence, image, stride)
        np.testing.assert_array_equal(found, drawn(grown, evidence, image, stride))
    log10_nfa = grown.log10_nfa.astype(np.float32)
    for threshold in np.unique(log10_nfa):
        significant = 1 + np.flatnonzero(log10_nfa <= threshold)
        assert label_mask(found, threshold).max() <= count(np.isin(grown.cores, significant))
    # Every region that has a position has a pixel.
    present = np.unique(grown.labels[grown.labels > 0])
    assert set(np.unique(found[found < 2])) == set(log10_nfa[present - 1])
    if not float(stride).is_integer():
        return  # the last position may be that of a pixel whose centre is before it
    rows, cols = (np.arange(n) // int(stride) for n in found.shape)
    labels = grown.labels[np.ix_(rows, cols)]
    outside = (found < 2) & (labels == 0)
    assert not (outside & np.isnan(evidence)[np.ix_(rows, cols)]).any()
    for value in np.unique(found[outside]):
        near = np.isin(labels, 1 + np.flatnonzero(log10_nfa == value))
        near = ndimage.maximum_filter(near, 2 * int(stride) + 1, mode="constant")
        assert near[outside & (found == value)].all()


@settings(max_examples=100)
@given(scenes())
def test_pieces_are_connected_and_linked(scene):
    grown, evidence, _, _, span = scene
    pieces = cut_into_pieces(grown, evidence, span)
    np.testing.assert_array_equal(np.concatenate([[0], pieces.region])[pieces.labels], grown.labels)
    assert (np.diff(pieces.region) >= 0).all()
    for piece, (top, left, bottom, right) in enumerate(pieces.boxes, start=1):
        assert ndimage.label(pieces.labels == piece)[1] == 1
        assert max(bottom - top, right - left) <= span
        assert (pieces.labels[top:bottom, left:right] == piece).sum() == (pieces.labels == piece).sum()
    assert (pieces.links[:, 0] < pieces.links[:, 1]).all()


def disc(shape, centre, radius):
    rows, cols = np.indices(shape)
    return np.hypot(rows - centre[0], cols - centre[1]) < radius


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_crack_becomes_thin(stride, n_channels):
    rng = np.random.default_rng(0)
    image = rng.normal(100, 4, (192, 192, n_channels))
    truth = np.zeros((192, 192), dtype=bool)
    for col in range(40, 150):
        row = int(96 + 8 * np.sin(col / 15))
        truth[row : row + 2, col] = True
    image[truth, -1] -= 60  # in one channel only
    image = image.astype(np.float32)
    n = 192 // stride
    near = truth.reshape(n, stride, n, stride).any(axis=(1, 3))
    evidence = ndimage.gaussian_filter(near.astype(np.float32), 1) * 8
    core = ndimage.label(evidence > 3)[0] == 1
    mask = drawn(one_region(core, evidence), evidence, image, stride) <= 0
    assert iou(mask, truth) > 0.6
    assert count(mask) == 1


def test_an_anomaly_of_texture_keeps_the_outline_of_the_evidence():
    rng = np.random.default_rng(0)
    truth = disc((256, 256), (120, 130), 45)
    image = np.where(truth, rng.normal(100, 3, truth.shape), rng.normal(100, 12, truth.shape)).astype(np.float32)
    share = truth.reshape(32, 8, 32, 8).mean(axis=(1, 3))
    evidence = 6 * share
    mask = drawn(one_region(share > 0.9, evidence), evidence, image, 8) <= 0
    assert iou(mask, truth) > 0.9


def test_an_object_in_a_gradient_of_illumination():
    rng = np.random.default_rng(0)
    truth = disc((160, 160), (70, 80), 14)
    image = np.add.outer(np.arange(160), np.arange(160)) + rng.normal(0, 3, truth.shape) + 40 * truth
    share = ndimage.gaussian_filter(truth.reshape(20, 8, 20, 8).mean(axis=(1, 3)), 1)
    mask = drawn(one_region(share > 0.8 * share.max(), 9 * share), 9 * share, image.astype(np.float32), 8) <= 0
    assert iou(mask, truth) > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8), (5, 17)])
def test_tiny_images(shape):
    grid = tuple(-(-n // 8) for n in shape)
    evidence = np.full(grid, 5.0, dtype=np.float32)
    found = drawn(one_region(np.ones(grid), evidence), evidence, np.zeros(shape, dtype=np.uint8), 8)
    assert (found == -3).all()


def test_image_without_a_region():
    evidence = np.zeros((3, 4), dtype=np.float32)
    grown = grow_regions(LevelRegions(np.zeros((3, 4), dtype=np.int32), np.empty(0)), evidence, normal_level=1.0)
    assert (drawn(grown, evidence, np.zeros((24, 32), dtype=np.uint8), 8) == 2).all()


def test_an_object_at_the_border():
    rng = np.random.default_rng(1)
    truth = disc((96, 96), (0, 95), 18)
    image = (rng.normal(50, 3, truth.shape) + 50 * truth).astype(np.float32)
    share = truth.reshape(12, 8, 12, 8).mean(axis=(1, 3))
    mask = drawn(one_region(share == 1, 5 * share), 5 * share, image, 8) <= 0
    assert iou(mask, truth) > 0.9


def test_only_windows_around_regions_are_read():
    class Recorded:
        shape, dtype = (4000, 4000), np.dtype(np.uint8)
        largest = 0

        def __getitem__(self, key):
            part = tuple(k.stop - k.start for k in key)
            self.largest = max(self.largest, part[0] * part[1])
            return np.zeros(part, dtype=np.uint8)

    data = Recorded()
    evidence = np.zeros((500, 500), dtype=np.float32)
    evidence[10, :] = 5  # as wide as the image: read piece by piece
    evidence[300:302, 77] = 5
    labels, _ = ndimage.label(evidence > 0)
    grown = grow_regions(LevelRegions(labels.astype(np.int32), np.array([-3.0, -2.0])), evidence, normal_level=1.0)
    found = drain(outline_steps(grown, evidence, Plane(data=data), 8, background=2.0, progress=PROGRESS))
    assert label_mask(found, 0.0).max() == 2
    assert 0 < data.largest <= (768 + 2 * 48) ** 2


def test_infinite_pixels_and_a_huge_range_are_no_error():
    evidence = np.zeros((8, 8), dtype=np.float32)
    evidence[3:5, 3:5] = 5
    image = np.random.default_rng(0).normal(0, 5e37, (64, 64, 2)).astype(np.float32)
    image[::7] = np.inf
    image[::5] = -np.inf
    assert (drawn(one_region(evidence > 0, evidence), evidence, image, 8) <= 0).any()
    image[:] = np.nan
    assert (drawn(one_region(evidence > 0, evidence), evidence, image, 8) <= 0).any()


def test_contrast_needs_pixels_to_compare_with():
    image = np.zeros((1, 20, 20), dtype=np.float32)
    inside = np.zeros((20, 20), dtype=bool)
    inside[5:15, 5:15] = True
    assert find_contrast(image, inside, np.zeros_like(inside)) is None
    assert find_contrast(image, inside, ~inside) is None
    image[0, 8:10, 5:15] = 50
    contrast = find_contrast(image, inside, ~inside)
    assert contrast is not None
    assert contrast.differs[8:10, 6:14].all()
    assert contrast.differs.sum() < 50


def test_stop():
    evidence = np.full((2, 2), 5.0)
    steps = outline_steps(
        one_region(np.ones((2, 2)), evidence),
        evidence,
        plane_of(np.zeros((16, 16))),
        8,
        background=2.0,
        progress=PROGRESS,
    )
    next(steps)
    with pytest.raises(Stopped):
        steps.send(FINISH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0.5}, "at least 1"),
        ({"stride": 7.0}, "do not fit"),
        ({"background": -3.0}, "below that of the background"),
        ({"evidence": np.zeros((3, 2))}, "one shape"),
        ({"plane": plane_of(np.zeros((1, 16)))}, "do not fit"),
    ],
)
def test_errors(change, message):
    evidence = np.full((2, 2), 5.0)
    values = {"evidence": evidence, "plane": plane_of(np.zeros((16, 16))), "stride": 8.0, "background": 2.0}
    with pytest.raises(ValueError, match=message):
        OutlineCanvas(one_region(np.ones((2, 2)), evidence), **{**values, **change})
