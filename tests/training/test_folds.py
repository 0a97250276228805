"""Every specimen held out in turn: no network has seen what it is judged on."""

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ModelFileError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import EarlierTraining
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, Progress, drain
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.cache import FeatureCache, Origin, TileLists
from napari_uflow.training.folds import Fold, train_folds_steps
from napari_uflow.training.tiles import Split, TrainingTile, choose_groups
from napari_uflow.training.train import train, train_steps

OPTIMISE = importlib.import_module("napari_uflow.training.optimise")

MODEL = ModelConfig(backbone="scattering", tile=64, flow_steps=1, octaves=2, magnification=1.0, memory_size=100)
TRAINING = TrainingConfig(steps=4, batch_size=2, augmentations=2, check_every=2)


def region(name, seed=0) -> NormalRegion:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(128, 128)), 1.5)
    return NormalRegion(Plane(data=(128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8), name=name))


def regions(n) -> list[NormalRegion]:
    return [region(f"specimen {i}", i) for i in range(n)]


def marked(of: NormalRegion) -> NormalRegion:
    mask = np.zeros(of.plane.shape, bool)
    mask[32:96, 32:96] = True
    return NormalRegion(of.plane, mask, of.specimen, is_marked_normal=True)


@pytest.fixture(scope="module")
def model():
    """A model whose every check is better than the last, with two octaves."""
    losses = itertools.count(0, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
        patch.setattr("napari_uflow.training.octaves._LEAST_PER_CHANNEL", 0.01)
        return train(regions(5), MODEL, TRAINING)


def test_false_alarms_are_counted_on_every_specimen_once(model):
    names = [name for fold in model.record.folds for name in fold]
    assert sorted(names) == [f"specimen {i}" for i in range(5)]
    assert model.record.folds[0] == model.record.holdout_specimens
    assert model.record.counted_specimens == tuple(sorted(names))
    assert [of.name for of in model.calibration.offset.specimens] == sorted(names)
    assert model.calibration.offset.smallest_guaranteed == pytest.approx(1 / 6)


def test_the_network_itself_is_that_of_a_split(model, monkeypatch):
    losses = itertools.count(0, -1)
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
    split = train(regions(5), MODEL.replace(octaves=1), TRAINING.replace(guarantee="split"))
    assert not split.folds
    assert not split.record.folds
    assert not split.calibration.offset.n_specimens  # of a single one nothing can be said
    for key in split.state:
        if ".flow." in f".{key}" or ".norm." in f".{key}":
            torch.testing.assert_close(split.state[key], model.state[key], rtol=0, atol=0)


def test_every_network_has_its_own_normalisation_and_flow_in_all_octaves(model):
    assert len(model.folds) == len(model.record.folds) - 1 > 1
    states = [model.state, *model.folds]
    for key in ("norm.scale_0", "coarser.norm.scale_0"):
        assert len({tuple(state[key].flatten().tolist()) for state in states}) == len(states)
    flows = [{key: value for key, value in state.items() if key.startswith("flow.")} for state in model.folds]
    assert any(not torch.equal(flows[0][key], flows[1][key]) for key in flows[0])


def caches(network, changed=None) -> TileLists:
    """Features of four specimens, two tiles each, drawn at random; those of one may be others."""
    of = []
    for number, specimen in enumerate("abcd"):
        cache = FeatureCache(1e9)
        for tile in range(2):
            generator = torch.Generator().manual_seed(10 * number + tile + 1000 * (specimen == changed))
            x = torch.randn((2 * 2 * network.channels[0], 16, 16), generator=generator)
            cache.add([x], [torch.ones(16, 16, dtype=torch.bool)], None, Origin(specimen, 2 * number + tile))
        of += cache
    return TileLists(of[:6], of[6:])


def learned_without(specimens, changed=None):
    network = UFlow(MODEL.replace(octaves=1), 1)
    before = network.part_state("norm") | network.part_state("flow")
    folds = [Fold(1, frozenset("d")), Fold(2, frozenset(specimens), is_new=True)]
    drain(train_folds_steps(network, caches(network, changed), TRAINING, folds, n_best=3, n_done=3))
    for key, value in (network.part_state("norm") | network.part_state("flow")).items():
        assert torch.equal(value, before[key])  # the network stays as it is
    return folds[1].state


def test_a_fold_knows_nothing_of_its_specimens_and_all_others():
    plain = learned_without("a")
    for changed, is_equal in (("a", True), ("b", False), ("d", False)):
        other = learned_without("a", changed)
        same = [torch.equal(plain[key], other[key]) for key in plain if "perm" not in key and "w_" not in key]
        assert all(same) == is_equal


def test_regions_marked_normal_are_not_learned_where_their_specimen_is_held_out():
    network = UFlow(MODEL.replace(octaves=1), 1)
    tiles = caches(network)
    mark = Origin("a", 20, is_marked_normal=True)
    x = torch.zeros((2 * 2 * network.channels[0], 16, 16))
    cache = FeatureCache(1e9)
    cache.add([x], [torch.ones(16, 16, dtype=torch.bool)], None, mark)
    with_mark = TileLists([*tiles.train, *cache], tiles.holdout)
    assert mark not in [tile.origin for tile in Fold(1, frozenset("a")).tiles(with_mark)]
    assert mark in [tile.origin for tile in Fold(1, frozenset("b")).tiles(with_mark)]


def test_tiles_without_augmented_copies_count_as_often():
    tiles = Fold(1, frozenset("a")).tiles(caches(UFlow(MODEL.replace(octaves=1), 1)), repeats=3)
    assert [tile.origin.specimen for tile in tiles] == list("bbcc") + list("dd") * 3


def split_of(train, holdout) -> Split:
    tiles = {name: TrainingTile(region(name), None) for name in (*train, *holdout)}
    return Split(tuple(tiles[name] for name in train), tuple(tiles[name] for name in holdout))


@pytest.mark.parametrize(
    ("n", "n_held", "sizes"),
    [(10, 3, [3, 2, 2, 2, 1]), (5, 1, [1] * 5), (20, 4, [4] * 5), (3, 1, [1, 1, 1]), (2, 1, [])],
)
def test_a_network_misses_as_few_specimens_as_possible(n, n_held, sizes):
    names = [f"s{i}" for i in range(n)]
    groups = choose_groups(split_of(names[n_held:], names[:n_held]), TrainingConfig())
    assert sorted(map(len, groups)) == sorted(sizes)
    assert sorted(name for group in groups for name in group) == (sorted(names) if sizes else [])


@pytest.mark.parametrize(
    ("guarantee", "n", "is_in_turn"), [("auto", 49, True), ("auto", 50, False), ("cross", 60, True)]
)
def test_many_specimens_are_split(guarantee, n, is_in_turn):
    names = [f"s{i}" for i in range(n)]
    groups = choose_groups(split_of(names[10:], names[:10]), TrainingConfig(guarantee=guarantee))
    assert bool(groups) == is_in_turn
    assert not choose_groups(split_of(names[10:], names[:10]), TrainingConfig(guarantee="split"))
    assert not choose_groups(split_of(names, ()), TrainingConfig(guarantee="cross"))  # nothing is to be held out


def test_groups_divide_each_condition():
    names = [f"{stain} {i}" for stain in "AB" for i in range(4)]
    split = split_of([*names[1:4], *names[5:]], [names[0], names[4]])
    for seed in range(5):
        groups = choose_groups(split, TrainingConfig(condition_pattern="([AB]) ", seed=seed))
        for stain in "AB":
            assert {sum(name[0] == stain for name in group) for group in groups} <= {0, 1}


def test_a_file_keeps_the_networks_of_all_folds(model, tmp_path):
    save_model(tmp_path / "m.safetensors", model)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.record == model.record
    assert loaded.calibration == model.calibration
    assert set(loaded.state) == set(model.state)
    for mine, its in zip(model.folds, loaded.folds, strict=True):
        assert set(mine) == set(its)
        assert all(torch.equal(mine[key], its[key]) for key in mine)


@pytest.mark.parametrize("change", ["one less", "not finite"])
def test_a_file_with_other_networks_of_folds_is_refused(model, tmp_path, change):
    folds = model.folds[:-1] if change == "one less" else [dict(model.folds[0]), *model.folds[1:]]
    if change == "not finite":
        folds[0]["norm.mean_0"] = folds[0]["norm.mean_0"] * np.nan
    state = {key: value for key, value in vars(model).items() if key != "folds"}
    save_model(tmp_path / "m.safetensors", type(model)(**state, folds=tuple(folds)))
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "m.safetensors")


def test_a_resumed_training_keeps_the_groups_and_counts_corrections(model):
    """A region that is called normal is learned by the others, and stays where false alarms are counted."""
    of = regions(5)
    marks = [marked(one) for one in of]
    refined = train([*of, *marks], MODEL, TRAINING.replace(steps=2), init_from=model)
    assert refined.record.folds == model.record.folds
    assert refined.record.n_marked_normal == 5
    assert refined.record.n_marked_held_out == 1
    assert refined.calibration.offset.n_specimens == 5


def test_new_specimens_join_the_groups(model):
    grown = train(regions(7), MODEL, TRAINING.replace(steps=2), init_from=model)
    for before, now in zip(model.record.folds, grown.record.folds, strict=True):
        assert set(before) <= set(now)
    assert grown.calibration.offset.n_specimens == 7


def test_a_specimen_that_was_away_is_in_no_group_and_not_counted(model):
    """While it was away, the networks of all groups could have learned from it, and the first training did."""
    of = regions(5)
    for away in (model.record.folds[0][0], model.record.folds[2][0]):
        rest = [one for one in of if one.specimen != away]
        without = train([*rest, region("new", 9)], MODEL, TRAINING.replace(steps=0), init_from=model)
        assert away not in without.record.counted_specimens
        back = train([*of, region("new", 9)], MODEL, TRAINING.replace(steps=0), init_from=without)
        assert away not in back.record.counted_specimens
        assert set(back.record.counted_specimens) == {one.specimen for one in rest} | {"new"}
        assert back.calibration.offset.n_specimens == 5


def test_a_specimen_of_which_a_region_was_learned_is_not_held_out_later(model):
    """All networks have learned the region that was marked normal."""
    of = [*regions(5), *(region(f"new {i}", 10 + i) for i in range(6))]
    refined = train([*of[:5], *map(marked, of[5:])], MODEL, TRAINING.replace(steps=0), init_from=model)
    assert refined.record.earlier_specimens == tuple(f"new {i}" for i in range(6))
    grown = train(of, MODEL, TRAINING.replace(steps=0), init_from=refined)
    assert grown.record.holdout_specimens == model.record.holdout_specimens
    assert grown.record.counted_specimens == model.record.counted_specimens


def test_new_networks_make_up_for_all_steps_of_the_model(model, monkeypatch):
    """Also if the training that they are missing from was interrupted."""
    found = []
    monkeypatch.setattr("napari_uflow.training.train.train_folds_steps", lambda *a, **o: iter(found.append(o) or ()))
    earlier = EarlierTraining(None, 1000, EarlierTraining(None, 7, None, is_same=True))
    of = dataclasses.replace(model, folds=(), record=dataclasses.replace(model.record, folds=(), resumed_from=earlier))
    for continues in (True, False):
        train(regions(5), MODEL, TRAINING.replace(steps=6), init_from=of, continues=continues)
    assert [options["n_before"] for options in found] == [1000, 1000 + 4]


def test_a_stop_while_specimens_are_held_out_in_turn_keeps_the_model(monkeypatch):
    events = []

    def is_in_turn():
        return isinstance(events[-1], Progress) and "without group" in events[-1].phase

    losses = itertools.count(0, -1)
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
    stopped = drain(train_steps(regions(5), MODEL, TRAINING), events.append, is_in_turn)
    messages = [event.text for event in events if isinstance(event, Message)]
    assert any("counted only on 1 specimen held out" in text for text in messages)
    assert not stopped.record.folds
    assert not stopped.folds
    assert stopped.calibration.offset.smallest_guaranteed == np.inf
    assert stopped.history


@pytest.mark.parametrize("evidence", ["memory", "likelihood"])
def test_without_training_and_with_one_kind_of_evidence(evidence, tmp_path):
    found = train(regions(5), MODEL.replace(evidence=evidence), TRAINING.replace(steps=0))
    assert found.calibration.offset.n_specimens == 5
    save_model(tmp_path / "m.safetensors", found)
    assert load_model(tmp_path / "m.safetensors").record == found.record


def test_a_pyramid_is_held_out_in_turn_too():
    found = train(regions(4), MODEL.replace(levels="pyramid", octaves=1, evidence="likelihood"), TRAINING)
    assert found.calibration.offset.n_specimens == 4
    assert len(found.folds) == 3
