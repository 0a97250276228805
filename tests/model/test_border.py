"""The border of an image: its features are reflected, or replaced by those further in."""

import importlib
import math

import numpy as np
import pytest
import torch

from napari_uflow.config import ModelConfig
from napari_uflow.image.grid import Window
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.border import Border, border_excess
from napari_uflow.model.inference import score_steps
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, drain
from napari_uflow.training.cache import FeatureCache
from napari_uflow.training.features import augmented, augmented_window, fill_cache
from napari_uflow.training.tiles import TrainingTile

# 0 1 2 3 4        2 2 2 2 2
# of a row of five positions, two replaced at both ends


REPLICATE = Border("replicate")
PYRAMID = ModelConfig(backbone="scattering", levels="pyramid", tile=64)


def whole(*shape):
    """The frame of an image that is the window."""
    return Window(0, 0, *shape)


def frame_of(window, shape):
    """The image in the coordinates of a window."""
    return Window(-window.row, -window.col, *shape)


def test_the_outermost_positions_take_what_is_further_in():
    x = torch.arange(42).reshape(6, 7)
    replaced = REPLICATE.apply(x, whole(6, 7), 1)
    assert replaced[0].tolist() == replaced[1].tolist() == replaced[2].tolist() == [16, 16, 16, 17, 18, 18, 18]
    assert replaced[5].tolist() == replaced[4].tolist() == replaced[3].tolist() == [23, 23, 23, 24, 25, 25, 25]
    np.testing.assert_array_equal(REPLICATE.apply(x.numpy(), whole(6, 7), 1), replaced.numpy())


def test_other_sides_are_left_alone():
    x = torch.arange(42).reshape(6, 7)
    assert torch.equal(REPLICATE.apply(x, None, 1), x)
    assert torch.equal(REPLICATE.apply(x, frame_of(Window(20, 20, 6, 7), (100, 100)), 1), x)
    top = REPLICATE.apply(x, frame_of(Window(0, 20, 6, 7), (100, 100)), 1)
    assert torch.equal(top[2:], x[2:])
    assert torch.equal(top[0], x[2])
    right = REPLICATE.apply(x, frame_of(Window(20, 93, 6, 7), (100, 100)), 1)
    assert torch.equal(right[:, :5], x[:, :5])
    assert torch.equal(right[:, 6], x[:, 4])


def test_positions_that_stick_out_are_not_the_outermost():
    """An image of 22 pixels has five whole positions of 4; a window of 32 has three more."""
    x = torch.arange(8)[:, None].expand(8, 8)
    assert REPLICATE.apply(x, whole(22, 32), 4)[:, 0].tolist() == [2, 2, 2, 2, 2, 2, 2, 2]
    assert REPLICATE.apply(x, whole(27, 32), 4)[:, 0].tolist() == [2, 2, 2, 3, 3, 3, 3, 3]


def test_a_window_that_begins_within_the_replaced_positions():
    x = torch.arange(6)[:, None].expand(6, 6)
    assert REPLICATE.apply(x, frame_of(Window(4, 40, 24, 24), (100, 100)), 4)[:, 0].tolist() == [1, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_small_images_keep_something_of_their_own(n):
    x = torch.arange(n * n).reshape(n, n)
    replaced = REPLICATE.apply(x, whole(4 * n, 4 * n), 4)
    assert (replaced == x).any()
    assert replaced.shape == (n, n)
    assert torch.equal(REPLICATE.apply(x, whole(3, 3), 4), x)  # no position is wholly inside


@pytest.mark.parametrize("k", range(8))
@pytest.mark.parametrize("frame", [whole(32, 36), whole(29, 34), Window(-4, 0, 100, 36), Window(0, -40, 30, 76)])
def test_augmentations_and_borders_commute(k, frame):
    x = torch.arange(72).reshape(8, 9)
    replaced = REPLICATE.apply(augmented(x, k), augmented_window(frame, (32, 36), k), 4)
    assert torch.equal(replaced, augmented(REPLICATE.apply(x, frame, 4), k))


def stripes(shape=(160, 176)):
    row, col = np.indices(shape)
    return Plane(data=np.sin((row + col) / 3).astype(np.float32), name="stripes")


def cached(region, window, is_replicated):
    """The features of one tile as training gets them."""
    network = UFlow(PYRAMID, 1)
    with FeatureCache(1e9) as cache:
        drain(
            fill_cache(cache, network, [TrainingTile(region, window)], IntensityRange((-1.0,), (1.0,)), 1, "features")
        )
        if is_replicated:
            cache.apply_border(REPLICATE, network.strides)
        return cache[0]


@pytest.mark.parametrize("shape", [(160, 176), (164, 180), (161, 177), (155, 171)])
@pytest.mark.parametrize("is_replicated", [True, False])
def test_stripes_have_the_same_features_at_the_border_as_inside(is_replicated, shape):
    """Reflection alone folds them at the border and crosses them in the corners."""
    window = Window(0, 0, *(-(-n // 16) * 16 for n in shape))
    for x, stride in zip(cached(NormalRegion(stripes(shape)), window, is_replicated).features, (4, 8, 16), strict=True):
        x = x.float()
        inside = x[:, x.shape[1] // 2, x.shape[2] // 2]
        sd = x[:, x.shape[1] // 3 : -x.shape[1] // 3].std()
        for row, col in ((0, 0), (shape[0] // stride - 1, shape[1] // stride - 1)):
            corner = (x[:, row, col] - inside).square().mean().sqrt()
            assert bool(corner < 0.3 * sd) is is_replicated


@pytest.mark.parametrize("is_replicated", [True, False])
def test_a_position_is_normal_where_its_features_come_from_is(is_replicated):
    mask = np.ones((64, 64), bool)
    mask[8:12] = False  # row 2 of the finest level, which rows 0 and 1 take their features from
    tile = cached(NormalRegion(stripes((64, 64)), mask), Window(0, 0, 64, 64), is_replicated)
    rows = tile.is_normal[0].all(dim=1).tolist()
    assert rows == ([False] * 3 + [True] * 13 if is_replicated else [True, True, False] + [True] * 13)


@pytest.mark.parametrize("height", [60, 64])
@pytest.mark.parametrize("is_replicated", [True, False])
def test_scores_are_omitted_if_their_features_come_from_something_else(is_replicated, height):
    network = UFlow(PYRAMID.replace(border="replicate" if is_replicated else "reflect"), 1).eval()
    plane = stripes((height, 64))
    scores = drain(score_steps(network, IntensityRange((-1.0,), (1.0,)), plane))
    mask = np.ones((height, 64), bool)
    n = height // 4
    mask[4 * (n - 3) : 4 * (n - 2)] = False  # the last two rows take their features from it
    known = np.isfinite(scores.only(mask).energies[0]).all(axis=1).tolist()
    assert known == [True] * (n - 3) + ([False] * 3 if is_replicated else [False, True, True])


# The excess of the border


def test_the_excess_of_corners():
    rng = torch.Generator().manual_seed(0)
    energy = torch.randn(32, 32, generator=rng)
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    frame = whole(32, 32)
    assert abs(border_excess(energy, everywhere, frame, 1)) < 1.5
    for row, col in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        energy[row, col] = 10
    assert border_excess(energy, everywhere, frame, 1) == pytest.approx(10, rel=0.1)
    assert border_excess(energy, everywhere, frame, 1, corners=False) < 2
    # a window with a single border has no corner
    top = frame_of(Window(0, 40, 32, 32), (200, 200))
    assert math.isnan(border_excess(energy, everywhere, top, 1))
    assert abs(border_excess(energy, everywhere, top, 1, corners=False)) < 2
    assert math.isnan(border_excess(energy, everywhere, frame_of(Window(40, 40, 32, 32), (200, 200)), 1, corners=False))
    assert math.isnan(border_excess(energy[:5, :5], everywhere[:5, :5], whole(5, 5), 1))
    # corners that are not normal do not count
    normal = everywhere.clone()
    normal[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    assert math.isnan(border_excess(energy, normal, frame, 1))


def test_the_excess_of_an_image_that_is_no_multiple():
    """The outermost whole position is what counts, not what sticks out."""
    energy = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    energy[14, 14] = 40
    everywhere = torch.ones(16, 16, dtype=torch.bool)
    assert border_excess(energy, everywhere, whole(62, 62), 4) > 5
    assert border_excess(energy, everywhere, whole(64, 64), 4) < 2


def striped_images(n=4):
    rng = np.random.default_rng(0)
    row, col = np.indices((128, 128))
    for i in range(n):
        image = 128 + 60 * np.sin((row + col) / 3 + i) + 5 * rng.normal(size=row.shape)
        yield NormalRegion(Plane(data=image.astype(np.float32), name=f"stripes {i}"))


def trained(config, training, **options):
    from napari_uflow.training.train import train

    events = []
    config = config.replace(tile=128, **{"levels": "pyramid", **options})
    model = train(list(striped_images()), config, training, on_event=events.append)
    said = [e for e in events if isinstance(e, Message) and e.text.startswith("Corners of normal images score")]
    return model, said


@pytest.mark.slow
def test_training_finds_out(tiny_model_config, tiny_training_config):
    model, said = trained(tiny_model_config, tiny_training_config)
    assert model.config.border == "replicate"
    assert model.network().border == REPLICATE
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("excess", "border"), [(2.4, "reflect"), (2.6, "replicate"), (math.nan, "replicate")])
def test_the_excess_decides(monkeypatch, tiny_model_config, tiny_training_config, excess, border):
    module = importlib.import_module("napari_uflow.training.normalise")
    monkeypatch.setattr(module, "_largest_excess", lambda network, cache: excess)
    model, said = trained(tiny_model_config, tiny_training_config)
    assert model.config.border == border
    assert model.network().border == Border(border)
    assert bool(said) is (excess > 2.5)


@pytest.mark.slow
def test_joint_levels_need_no_decision(tiny_model_config, tiny_training_config):
    """Their positions are judged by the class of their distance from the border."""
    model, said = trained(tiny_model_config, tiny_training_config, levels="joint")
    assert model.config.border == "reflect"
    assert not said


@pytest.mark.slow
@pytest.mark.parametrize("levels", ["joint", "pyramid"])
@pytest.mark.parametrize("border", ["reflect", "replicate"])
def test_what_was_asked_for_is_done(border, levels, tiny_model_config, tiny_training_config):
    model, said = trained(tiny_model_config, tiny_training_config, border=border, levels=levels)
    assert model.config.border == border
    assert not said
