"""At the picture's border nothing is judged by pixels that are not there."""

import dataclasses
import importlib
import itertools
import math

import numpy as np
import pytest
import torch

from napari_uflow.config import ModelConfig
from napari_uflow.evidence import Evidence
from napari_uflow.features import fill_cache, viewed
from napari_uflow.image import IntensityRange, NormalRegion, Plane, Window
from napari_uflow.model.border import NO_SIDES, border_excess, hold, sides_of, viewed_sides
from napari_uflow.model.cache import FeatureCache
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, drain
from napari_uflow.tiles import TrainingTile

ALL = (True,) * 4
# 0 1 2 3 4        2 2 2 2 2
# of a row of five positions, two held at both ends


def test_the_outermost_positions_take_what_is_further_in():
    x = torch.arange(42).reshape(6, 7)
    held = hold(x, ALL)
    assert held[0].tolist() == held[1].tolist() == held[2].tolist() == [16, 16, 16, 17, 18, 18, 18]
    assert held[5].tolist() == held[4].tolist() == held[3].tolist() == [23, 23, 23, 24, 25, 25, 25]
    np.testing.assert_array_equal(hold(x.numpy(), ALL), held.numpy())


def test_other_sides_are_left_alone():
    x = torch.arange(42).reshape(6, 7)
    assert torch.equal(hold(x, (False,) * 4), x)
    top = hold(x, (True, False, False, False))
    assert torch.equal(top[2:], x[2:])
    assert torch.equal(top[0], x[2])
    right = hold(x, (False, False, False, True))
    assert torch.equal(right[:, :5], x[:, :5])
    assert torch.equal(right[:, 6], x[:, 4])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_small_levels_keep_something_of_their_own(n):
    for sides in itertools.product((False, True), repeat=4):
        held = hold(torch.arange(n)[:, None].expand(n, n), sides)
        assert held.shape == (n, n)
        assert set(held.flatten().tolist()) <= set(range(n))


@pytest.mark.parametrize("view", range(8))
def test_views_and_borders_commute(view):
    x = torch.arange(72).reshape(8, 9)
    for sides in itertools.product((False, True), repeat=4):
        assert torch.equal(hold(viewed(x, view), viewed_sides(sides, view)), viewed(hold(x, sides), view))


def test_where_the_border_is():
    assert sides_of(Window(0, 0, 112, 2048), (110, 2040), 16) == ALL
    assert sides_of(Window(0, 16, 64, 64), (110, 2040), 16) == (True, False, False, False)
    assert sides_of(Window(48, 1984, 64, 64), (110, 2040), 16) == (False, True, False, True)


def stripes(shape=(160, 176)):
    row, col = np.indices(shape)
    return Plane(data=np.sin((row + col) / 3).astype(np.float32), name="stripes")


def cached(region, window, holds):
    """The features of one tile as training gets them."""
    network = UFlow(ModelConfig(tile=64), 1)
    with FeatureCache(1e9) as cache:
        cache.holds_border = holds
        drain(
            fill_cache(cache, network, [TrainingTile(region, window)], IntensityRange((-1.0,), (1.0,)), 1, "features")
        )
        return cache[0]


@pytest.mark.parametrize("holds", [True, False])
def test_stripes_look_at_the_border_as_they_do_inside(holds):
    """Reflection alone folds them at the border and crosses them in the corners."""
    plane = stripes()
    for x in cached(NormalRegion(plane), Window(0, 0, *plane.shape), holds).features:
        x = x.float()
        inside = x[:, x.shape[1] // 2, x.shape[2] // 2]
        spread = x[:, x.shape[1] // 3 : -x.shape[1] // 3].std()
        corner = (x[:, 0, 0] - inside).square().mean().sqrt()
        assert bool(corner < 0.3 * spread) is holds


@pytest.mark.parametrize("holds", [True, False])
def test_a_position_is_normal_where_its_features_come_from_is(holds):
    mask = np.ones((64, 64), bool)
    mask[8:12] = False  # row 2 of the finest level, which rows 0 and 1 take their features from
    tile = cached(NormalRegion(stripes((64, 64)), mask), Window(0, 0, 64, 64), holds)
    rows = tile.is_normal[0].all(dim=1).tolist()
    assert rows == ([False] * 3 + [True] * 13 if holds else [True, True, False] + [True] * 13)


def test_evidence_is_left_out_where_its_features_come_from_something_else():
    maps = (np.ones((16, 16), np.float32),)
    mask = np.ones((64, 64), bool)
    mask[8:12] = False
    evidence = Evidence(maps, maps, maps, (), (4,), 0.0, ALL)
    assert np.isfinite(evidence.only(mask).energies[0]).all(axis=1).tolist() == [False] * 3 + [True] * 13
    kept = dataclasses.replace(evidence, sides=NO_SIDES).only(mask)
    assert np.isfinite(kept.energies[0]).all(axis=1).tolist() == [True, True, False] + [True] * 13


# Whether the border is strange


def test_the_excess_of_corners():
    rng = torch.Generator().manual_seed(0)
    energy = torch.randn(32, 32, generator=rng)
    everywhere = torch.ones(32, 32, dtype=torch.bool)
    assert abs(border_excess(energy, everywhere, ALL)) < 1.5
    for row, col in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        energy[row, col] = 10
    assert border_excess(energy, everywhere, ALL) == pytest.approx(10, rel=0.1)
    # a window with a single border has no corner: the border's positions
    assert abs(border_excess(energy, everywhere, (True, False, False, False))) < 1.5
    assert math.isnan(border_excess(energy, everywhere, NO_SIDES))
    assert math.isnan(border_excess(energy[:5, :5], everywhere[:5, :5], ALL))
    # corners that are not normal do not count
    normal = everywhere.clone()
    normal[[0, 0, -1, -1], [0, -1, 0, -1]] = False
    assert abs(border_excess(energy, normal, ALL)) < 1.5


def striped_fields(n=4):
    rng = np.random.default_rng(0)
    row, col = np.indices((128, 128))
    for i in range(n):
        image = 128 + 60 * np.sin((row + col) / 3 + i) + 5 * rng.normal(size=row.shape)
        yield NormalRegion(Plane(data=image.astype(np.float32), name=f"stripes {i}"))


def trained(config, training, **options):
    from napari_uflow.train import train

    events = []
    model = train(list(striped_fields()), config.replace(tile=128, **options), training, on_event=events.append)
    said = [e for e in events if isinstance(e, Message) and "corners of the normal pictures look strange" in e.text]
    return model, said


def test_training_finds_out(tiny_model_config, tiny_training_config):
    model, said = trained(tiny_model_config, tiny_training_config)
    assert model.config.border == "hold"
    assert model.network().holds_border
    assert len(said) == 1


@pytest.mark.parametrize(("excess", "border"), [(2.4, "keep"), (2.6, "hold"), (math.nan, "hold")])
def test_what_is_strange(monkeypatch, tiny_model_config, tiny_training_config, excess, border):
    module = importlib.import_module("napari_uflow.train")
    monkeypatch.setattr(module, "_border_excess", lambda network, cache: excess)
    model, said = trained(tiny_model_config, tiny_training_config)
    assert model.config.border == border
    assert model.network().holds_border is (border == "hold")
    assert bool(said) is (excess > 2.5)


@pytest.mark.parametrize("border", ["keep", "hold"])
def test_what_was_asked_for_is_done(border, tiny_model_config, tiny_training_config):
    model, said = trained(tiny_model_config, tiny_training_config, border=border)
    assert model.config.border == border
    assert not said
