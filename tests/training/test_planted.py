"""Planted defects: where they are planted, their features, and what is chosen by them."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_uflow.cli import main
from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.errors import ConfigError
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scale_of, scaled_regions
from napari_uflow.model.joint import APERTURES
from napari_uflow.model.memory import key_of
from napari_uflow.model.record import OutcomeKind, TrainingOutcome
from napari_uflow.model.uflow import UFlow
from napari_uflow.progress import Message, Progress, TrainingPoint, drain
from napari_uflow.store.card import ModelCard
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.training.magnification import chosen_magnification, magnification_steps
from napari_uflow.training.merit import Maxima
from napari_uflow.training.optimise import BestStep
from napari_uflow.training.pixel_size import working_regions
from napari_uflow.training.planted import (
    PlantedFeatures,
    PlantedSet,
    _positions,
    best_evidence,
    planted_set,
    sources_of,
)
from napari_uflow.training.tiles import choose_tiles
from napari_uflow.training.train import train

TRAIN = importlib.import_module("napari_uflow.training.train")
MAGNIFICATION = importlib.import_module("napari_uflow.training.magnification")

PLANTED = importlib.import_module("napari_uflow.training.planted")

MODEL = ModelConfig(backbone="scattering", tile=96, flow_steps=1, memory_size=200)
TRAINING = TrainingConfig(steps=2, batch_size=2, augmentations=1, check_every=1, holdout=0.4)


@pytest.fixture(autouse=True)
def few_defects(monkeypatch):
    """Plant three defects of each kind: the features of more take long."""
    monkeypatch.setattr(PLANTED, "_MOST_DEFECTS", 21)


def texture(shape, seed=0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (128 + 30 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def specimens(n=8, shape=(96, 96), **options) -> list[NormalRegion]:
    return [NormalRegion(Plane(data=texture(shape, i), name=f"specimen {i}"), **options) for i in range(n)]


def sources(regions, magnification=1.0, training=TRAINING, most_pixels=1e9):
    network = UFlow(MODEL.replace(magnification=magnification), 1)
    working = scaled_regions(regions, magnification)
    split = choose_tiles(working, network.tile, network.align, training, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    options = {"min_normal": training.min_normal, "most_pixels": most_pixels}
    return sources_of(regions, working, split, network, rng, **options), split


# Where defects are planted


def test_held_out_specimens_are_used_if_there_are_three():
    found, split = sources(specimens(8, (96, 600)))
    assert len(split.holdout_specimens) == 3
    assert len(found) == 9
    assert {source.specimen for source in found} == split.holdout_specimens
    assert all(source.key == key_of(source.specimen) for source in found)  # its own positions are remembered


@pytest.mark.parametrize("magnification", [1.0, 2.0, 0.5])
def test_training_tiles_join_fewer_held_out_specimens_and_none_is_compared_with_itself(magnification):
    regions = specimens(4, (192, 192))
    found, split = sources(regions, magnification)
    assert len(split.holdout_specimens) < 3
    assert {source.specimen for source in found} == {region.specimen for region in regions}
    assert all(source.key == key_of(source.specimen) for source in found)
    for source in found:
        assert np.array_equal(source.values, source.plane.read(source.window))
        assert max(source.window.shape) <= 256


def test_parts_of_the_only_specimen_trained_on_have_its_key_beside_a_held_out_one():
    """The memory knows both by specimen: they are compared with each other."""
    found, split = sources(specimens(2, (192, 192)))
    assert len(split.specimens) == len(split.holdout_specimens) == 1
    assert {source.key for source in found} == {key_of(f"specimen {i}") for i in range(2)}


@pytest.mark.parametrize("magnification", [1.0, 2.0])
def test_parts_of_a_single_specimen_have_keys_of_their_own(magnification):
    found, split = sources(specimens(1, (96, 480)), magnification)
    assert split.is_divided_by_place
    assert sum(source.key is None for source in found) == len(split.holdout) > 0  # not remembered
    keys = [source.key for source in found if source.key is not None]
    assert len(set(keys)) == len(keys) == len(split.train)
    assert len(found) == len(split.train) + len(split.holdout)


def test_regions_marked_normal_are_left_alone():
    regions = specimens(4)
    mask = np.zeros((96, 96), bool)
    mask[:32, :32] = True
    marked = [NormalRegion(region.plane, mask, region.specimen, is_marked_normal=True) for region in regions]
    found, _ = sources([*regions, *marked])
    assert len(found) == 4
    assert all(not source.normal[:32, :32].any() and source.normal[40:, 40:].all() for source in found)


def of_sizes(n, shape=(96, 96), coarse=0.2) -> list[NormalRegion]:
    """Return specimens with pixels of 0.1 um, and every other one with coarse ones; all of equal pixels."""
    sizes = [coarse if i % 2 else 0.1 for i in range(n)]
    planes = [replace(r.plane, pixel_size=(s, s), unit="um") for r, s in zip(specimens(n, shape), sizes, strict=True)]
    return [NormalRegion(plane) for plane in planes]


@pytest.mark.parametrize("magnification", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("n", [4, 8])
def test_each_image_has_its_own_magnification(n, magnification):
    """Of the training tiles (4) and of the held-out images (8): a part lies where its tile does."""
    regions = of_sizes(n, (192, 192))
    network = UFlow(MODEL.replace(magnification=magnification), 1)
    working = working_regions(regions, network.config, PixelSize(0.1, 0.1, "um"))
    split = choose_tiles(working, network.tile, network.align, TRAINING, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    found = sources_of(regions, working, split, network, rng, min_normal=0.5, most_pixels=1e9)
    assert {source.plane.pixel_size[0]: source.ratio for source in found} == pytest.approx({0.1: 1.0, 0.2: 2.0})
    for source in found:
        assert np.array_equal(source.values, source.plane.read(source.window))
        assert source.cost == pytest.approx((source.window.height * source.ratio + 64) ** 2, rel=0.01)
        side = 192 if source.specimen in split.holdout_specimens else 96 / magnification / source.ratio
        assert source.window.shape == pytest.approx((min(side, 192), min(side, 192)))
        assert source.window.row % source.window.height == 0


@pytest.mark.parametrize("magnification", [1.0, 2.0])
@pytest.mark.parametrize("n", [1, 4])
def test_all_regions_of_an_image_are_used(monkeypatch, n, magnification):
    """Of one specimen, divided by place, and of more; two regions share a tile, one has tiles of its own."""
    monkeypatch.setattr(PLANTED, "_MOST_SOURCES", 100)
    regions = []
    for region in specimens(n, (96, 480)):
        masks = np.zeros((3, 96, 480), bool)
        masks[0, :, 10:40] = masks[1, :, 50:80] = masks[2, :, 200:480] = True
        regions += [NormalRegion(region.plane, mask, region.specimen) for mask in masks]
    marked = np.zeros((96, 480), bool)
    marked[40:56, 440:480] = True
    regions.append(NormalRegion(regions[0].plane, marked, regions[0].specimen, is_marked_normal=True))
    training = TRAINING.replace(min_normal=0.1)
    found, split = sources(regions, magnification, training)
    places = {
        (region.specimen, i % 3)
        for source in found
        for i, region in enumerate(regions[:-1])
        if source.plane is region.plane
        and np.array_equal(source.normal, region.without(regions[-1:]).normal(source.window))
    }
    assert places == {(region.specimen, i % 3) for i, region in enumerate(regions[:-1])}
    parts = [(id(source.plane), source.window, source.normal.tobytes()) for source in found]
    assert len(set(parts)) == len(parts)
    assert any(tile.given is not None for tile in split.holdout) == (n == 1)


def test_a_part_that_is_given_several_times_counts_once():
    regions = specimens(4, (96, 96))
    again = [*regions, *regions, *(NormalRegion(region.plane, None, region.specimen) for region in regions)]
    assert len(sources(again)[0]) == len(sources(regions)[0]) == 4


def test_a_limit_of_pixels():
    found, _ = sources(specimens(), most_pixels=2.5 * 160 * 160)
    assert len(found) == 2


# What is planted


def planted_in(regions, seed=0, **options):
    found, _ = sources(regions)
    return planted_set(found, [200.0], seed, **options)


def test_the_seed_decides_about_the_defects():
    one, same, other = (planted_in(specimens(5), seed) for seed in (1, 1, 2))
    assert 18 <= one.n_defects <= 21
    for a, b in zip(one.copies, same.copies, strict=True):
        assert np.array_equal(a.values, b.values)
        assert np.array_equal(a.labels, b.labels)
    assert any(not np.array_equal(a.values, b.values) for a, b in zip(one.copies, other.copies, strict=False))


def test_copies_differ_from_their_source_in_the_defects_alone():
    planted = planted_in(specimens(5))
    for copy in planted.copies:
        source = planted.sources[copy.source]
        assert np.array_equal((copy.values != source.values).any(axis=0), copy.labels > 0)
        assert copy.labels.max() == copy.n_defects


def test_too_few_images_or_pixels():
    assert planted_in(specimens(3)) is None
    assert planted_in(specimens(5), most_pixels=6 * 160 * 160) is None


def test_positions_of_defects_at_any_magnification():
    labels = np.zeros((64, 64), np.int32)
    labels[4, 4], labels[40:44, 50:52] = 1, 2
    for z in (0.5, 1.0, 2.0):
        side = int(64 * z / 8)
        owner, at = _positions(labels, z, (side, side))
        assert set(owner) == {1, 2}
        rows, cols = at[owner == 2] // side * 8 / z, at[owner == 2] % side * 8 / z
        assert rows.min() <= 40
        assert cols.min() <= 50
        assert rows.max() + 8 / z >= 44
        assert np.abs(rows - 42).max() <= 8 + 2 + 8 / z


# Their features


def network_for(regions, magnification=1.0) -> tuple[UFlow, IntensityRange]:
    """Return a network whose normalisation and memory are of something, and whose flow is not the identity."""
    network = UFlow(MODEL.replace(magnification=magnification), 1).eval()
    generator = torch.Generator().manual_seed(0)
    features = network.features(torch.rand(1, 1, 96, 96, generator=generator))[0]
    network.norm.fit(0, lambda: [(network.of_flow([features])[0], torch.ones(1, 12, 12, dtype=torch.bool))])
    network.memory.keep(features[0].flatten(1).T[:50], torch.arange(50))
    for parameter in network.flow.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return network, IntensityRange((0.0,), (255.0,))


def features_of(regions, network, intensity):
    return drain(PlantedFeatures.compute_steps(network, planted_in(regions), intensity, "phase"))


def test_evidence_of_positions_is_that_of_whole_images():
    regions = specimens(5)
    network, intensity = network_for(regions)
    features = features_of(regions, network, intensity)
    likelihoods = features.likelihoods(network)
    source = planted_in(regions).sources[0]
    image = torch.from_numpy(np.pad(intensity.apply(source.values), ((0, 0), (32, 32), (32, 32)), mode="symmetric"))
    raw = network.features(image[None])[0][:, :, 4:-4, 4:-4]
    latents = network.latents((raw,))
    energy = (latents.z[0].square().sum(dim=1) - 2 * latents.ln_det[0]) / latents.z[0].shape[1]
    whole = energy.detach().numpy().ravel()
    assert likelihoods.normal[:144] == pytest.approx(whole, rel=0.02, abs=0.02)
    distances = network.memory.distance(raw)[0].flatten(1).T.numpy()
    assert features._normal.distances[:144] == pytest.approx(distances, rel=0.02, abs=1e-3)
    assert features._normal.distances.shape[1] == features._planted.distances.shape[1] == APERTURES


def test_a_held_out_image_is_not_compared_with_its_own_positions():
    regions = specimens(5)
    network, intensity = network_for(regions)
    found = planted_in(regions)
    source = found.sources[0]
    assert source.key == key_of(source.specimen)
    image = torch.from_numpy(np.pad(intensity.apply(source.values), ((0, 0), (32, 32), (32, 32)), mode="symmetric"))
    own = network.features(image[None])[0][0, :, 4:-4, 4:-4].flatten(1).T
    others, keys = network.memory.vectors, network.memory.keys
    without = features_of(regions, network, intensity)
    network.memory.keep(torch.cat([others, own]), torch.cat([keys, torch.full((len(own),), source.key)]))
    beside = features_of(regions, network, intensity)
    of_defects = without._tiles[without._planted.owner] == 0
    assert of_defects.any()
    np.testing.assert_array_equal(beside._normal.distances[:144], without._normal.distances[:144])
    np.testing.assert_array_equal(beside._planted.distances[of_defects], without._planted.distances[of_defects])
    network.memory.keep(network.memory.vectors, torch.zeros_like(network.memory.keys))  # as if of another specimen
    compared = features_of(regions, network, intensity)
    assert compared._normal.distances[:144].max() < 0.1 * without._normal.distances[:144].min()


def test_sharp_and_wide_distances_are_kinds_of_evidence_of_their_own():
    regions = specimens(5)
    network, intensity = network_for(regions)
    features = features_of(regions, network, intensity)
    likelihoods = features.likelihoods(network)
    kinds = [
        features._scaled(likelihoods.normal, likelihoods.planted),
        *(
            features._scaled(features._normal.distances[:, i], features._planted.distances[:, i])
            for i in range(APERTURES)
        ),
    ]
    for evidence, parts in (("likelihood", kinds[:1]), ("memory", kinds[1:]), ("likelihood+memory", kinds)):
        highest = np.full(features.n_tiles, -np.inf)
        np.maximum.at(highest, features._normal.owner, np.mean([normal for normal, _ in parts], axis=0))
        assert features.maxima(likelihoods, evidence).of_tiles == pytest.approx(highest)


@pytest.mark.parametrize("evidence", ["likelihood", "memory", "likelihood+memory"])
def test_every_defect_and_every_tile_has_a_maximum(evidence):
    regions = specimens(5)
    network, intensity = network_for(regions)
    features = features_of(regions, network, intensity)
    maxima = features.maxima(features.likelihoods(network), evidence)
    assert len(maxima.of_defects) == features.n_defects == planted_in(regions).n_defects
    assert len(maxima.of_tiles) == features.n_tiles == 5
    assert np.isfinite(maxima.of_defects).all()
    assert np.isfinite(maxima.of_tiles).all()
    assert set(maxima.tiles) <= set(range(5))
    assert 0 <= maxima.merit <= 1


@pytest.mark.slow
def test_the_same_defects_are_measured_at_another_magnification():
    regions = specimens(5)
    at_1, at_2 = (features_of(regions, *network_for(regions, z)) for z in (1.0, 2.0))
    assert at_1.n_defects == at_2.n_defects
    assert at_1.n_tiles == at_2.n_tiles


def test_the_magnification_of_a_source_is_that_of_its_image():
    """Coarse pixels at magnification 1 are seen as others at 2."""
    regions = specimens(5)
    network, intensity = network_for(regions)
    planted = planted_in(regions)
    coarse = PlantedSet(tuple(replace(source, ratio=2.0) for source in planted.sources), planted.copies)
    mixed = PlantedSet((*coarse.sources[:3], *planted.sources[3:]), planted.copies)
    at_2 = UFlow(MODEL.replace(magnification=2.0), 1).eval()
    at_2.load_state_dict(network.state_dict(), strict=False)
    at_2.memory.keep(network.memory.vectors, network.memory.keys)
    given = {"at 1": (network, planted), "at 2": (at_2, planted)}
    given |= {"coarse": (network, coarse), "mixed": (network, mixed)}
    found = {}
    for name, (of, what) in given.items():
        features = drain(PlantedFeatures.compute_steps(of, what, intensity, "phase"))
        found[name] = features.likelihoods(of)
    assert np.array_equal(found["coarse"].normal, found["at 2"].normal)
    assert np.array_equal(found["coarse"].planted, found["at 2"].planted)
    assert len(found["at 1"].normal) == 5 * 12**2
    assert len(found["mixed"].normal) == 3 * 24**2 + 2 * 12**2
    assert len(found["at 1"].planted) < len(found["mixed"].planted) < len(found["coarse"].planted)


# Choices


def maxima_of(of_defects, n_tiles=12) -> Maxima:
    of_defects = np.asarray(of_defects, dtype=float)
    return Maxima(of_defects, np.linspace(0, 1, n_tiles), np.arange(len(of_defects)) % n_tiles)


RNG = np.random.default_rng(0)
WEAK = RNG.uniform(0, 1, 72)
STRONG = WEAK + 0.3


def test_a_step_that_finds_more_is_better_whatever_its_loss():
    steps = BestStep()
    assert steps.add(0, 1.0, {}, maxima_of(WEAK))
    assert steps.add(25, 3.0, {}, maxima_of(STRONG))
    assert not steps.add(50, 0.5, {}, maxima_of(WEAK))
    assert steps.best.step == 25


def test_of_steps_alike_the_one_of_the_lowest_loss_is_best():
    steps = BestStep()
    nudged = STRONG.copy()
    nudged[0] -= 0.2
    assert steps.add(0, 2.0, {}, maxima_of(STRONG))
    assert steps.add(25, 1.0, {}, maxima_of(nudged))
    assert not steps.add(50, 1.5, {}, maxima_of(STRONG))
    assert not steps.add(75, 0.2, {}, maxima_of(WEAK))
    assert steps.best.step == 25


def test_small_losses_of_detection_do_not_add_up():
    """Each step is compared with the highest merit, not with the one before."""
    steps = BestStep()
    for step in range(40):
        steps.add(step, -step, {}, maxima_of(STRONG - 0.02 * step))
    assert steps.best.step < 10


def test_the_highest_merit_is_kept_beside_many_steps_of_lower_loss():
    steps = BestStep()
    for step in range(60):
        steps.add(step, -step, {}, maxima_of(STRONG - 0.0001 * step))
    assert steps.add(60, -60, {}, maxima_of(STRONG))
    assert not steps.add(61, -61, {}, maxima_of(WEAK))


def test_without_planted_defects_the_loss_decides():
    steps = BestStep()
    assert [steps.add(i, loss, {}) for i, loss in enumerate([3.0, 1.0, 2.0, 1.0])] == [True, True, False, False]
    assert steps.best.step == 1


class Scripted:
    """Features of planted defects whose evidence is given."""

    def __init__(self, **by_evidence):
        self._by_evidence = by_evidence

    def maxima(self, likelihoods, evidence):
        return maxima_of(self._by_evidence[evidence.replace("+", "_")])


@pytest.mark.parametrize(
    ("both", "likelihood", "memory", "chosen"),
    [
        (WEAK, WEAK, WEAK, "likelihood+memory"),
        (WEAK, STRONG, WEAK, "likelihood"),
        (WEAK, STRONG, STRONG + 0.3, "memory"),
        (STRONG, WEAK, WEAK, "likelihood+memory"),
        (STRONG, np.r_[STRONG[1:], STRONG[0] + 0.01], WEAK, "likelihood+memory"),
    ],
)
def test_one_kind_of_evidence_alone_must_be_clearly_better(both, likelihood, memory, chosen):
    features = Scripted(likelihood_memory=both, likelihood=likelihood, memory=memory)
    assert best_evidence(features, None) == chosen


@pytest.mark.parametrize(
    ("at_1", "others", "chosen"),
    [
        (WEAK, {2.0: STRONG}, 2.0),
        (WEAK, {2.0: STRONG, 0.5: STRONG + 0.3}, 0.5),
        (STRONG, {2.0: WEAK, 0.5: WEAK}, 1.0),
        (WEAK, {2.0: WEAK + 1e-4}, 1.0),
        (WEAK, {}, 1.0),
    ],
)
def test_another_magnification_must_be_clearly_better(at_1, others, chosen):
    measured = {1.0: maxima_of(at_1), **{z: maxima_of(x) for z, x in others.items()}}
    assert chosen_magnification(measured) == chosen


# In a training


@pytest.fixture
def plants(monkeypatch):
    """Let small trainings plant defects, too."""
    monkeypatch.setattr(TRAIN, "_PLANTED_PART", 10.0)


@pytest.mark.usefixtures("plants")
def test_a_training_tells_what_it_brought(tmp_path, capsys):
    events = []
    model = train(specimens(), MODEL, TRAINING, on_event=events.append)
    found = model.record.planted
    assert found.n_tiles >= 4
    assert 12 <= found.n_defects <= 21
    assert found.merit >= found.merit_untrained - (found.error or 0)
    assert [e.text for e in events if isinstance(e, Message) and e.text.startswith("Planted defects: ")] != []
    ends = [event for event in events if isinstance(event, Progress) and event.phase.endswith("planted defects")]
    assert [event.done == event.total for event in ends].count(True) == 1
    points = [event for event in events if isinstance(event, TrainingPoint)]
    assert len(points) == 2
    assert all(0 <= point.planted <= 1 for point in points)
    assert model.config.evidence in ("likelihood+memory", "likelihood", "memory")

    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.record == model.record
    assert loaded.history == model.history
    main(["show", str(tmp_path / "model.safetensors")])
    assert f"planted defects:        {found.text()}" in capsys.readouterr().out


@pytest.mark.usefixtures("plants")
@pytest.mark.parametrize("begins_with_a_model", [False, True])
def test_what_an_interrupted_training_brought_is_measured_from_its_beginning(monkeypatch, begins_with_a_model):
    training = TRAINING.replace(steps=4, check_every=2, learning_rate=0.05)
    first = train(specimens(), MODEL, TRAINING.replace(steps=1)) if begins_with_a_model else None
    seen = []
    job = TRAIN.train_steps(specimens(), MODEL if first is None else first.config, training, init_from=first)
    before = drain(job, seen.append, lambda: isinstance(seen[-1], TrainingPoint))
    learned = {k: v + 1e-3 if k.startswith("flow.") and v.is_floating_point() else v for k, v in before.state.items()}
    before = replace(before, state=learned)
    weights, likelihoods = [], PlantedFeatures.likelihoods

    def recorded(self, network):
        weights.append({name: value.clone() for name, value in network.flow.state_dict().items()})
        return likelihoods(self, network)

    monkeypatch.setattr(PlantedFeatures, "likelihoods", recorded)
    model = train(specimens(), before.config, training, init_from=before, continues=True)
    beginning = UFlow(before.config, 1, training.seed).flow.state_dict()
    snapshot = {name.removeprefix("flow."): value for name, value in learned.items() if name.startswith("flow.")}
    for found, expected in zip(weights, [snapshot] if begins_with_a_model else [beginning, snapshot], strict=False):
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    if begins_with_a_model:  # which is not known, so that nothing is compared with it
        assert not model.record.planted.has_trained


@pytest.mark.slow
@pytest.mark.usefixtures("plants")
def test_a_seed_decides_about_the_choice():
    one, same = (train(specimens(), MODEL, TRAINING) for _ in range(2))
    assert one.record.planted == same.record.planted
    assert one.history == same.history


@pytest.mark.slow
@pytest.mark.usefixtures("plants")
@pytest.mark.parametrize("name", ["likelihood", "memory"])
def test_evidence_that_is_clearly_better_alone_is_chosen_and_told(monkeypatch, name):
    monkeypatch.setattr(TRAIN, "best_evidence", lambda features, likelihoods: name)
    events = []
    model = train(specimens(), MODEL, TRAINING, on_event=events.append)
    assert model.config.evidence == name
    assert any(isinstance(event, Message) and f"The {name} alone" in event.text for event in events)
    given = train(specimens(), MODEL.replace(evidence="likelihood+memory"), TRAINING)
    assert given.config.evidence == "likelihood+memory"


@pytest.mark.slow
@pytest.mark.usefixtures("plants")
def test_patience_lasts_as_long_as_the_loss_falls(monkeypatch):
    """The first step finds most; the loss falls up to the fifth check."""
    losses = iter([9.0, 8.0, 7.0, 6.0, 5.0, 5.5, 5.5, 5.5, 5.5])
    shifts = iter([0.0, 0.5, *[0.0] * 9])
    optimise = importlib.import_module("napari_uflow.training.optimise")
    monkeypatch.setattr(optimise, "_held_out", lambda *args: (next(losses), 1.0))
    monkeypatch.setattr(optimise._Optimisation, "_maxima", lambda self: maxima_of(WEAK + next(shifts)))
    model = train(specimens(), MODEL, TRAINING.replace(steps=20, patience=2, guarantee="split"))
    assert [point["is_best"] for point in model.history] == [True, False, False, False, False, False]
    assert model.record.outcome == TrainingOutcome(OutcomeKind.CONVERGED, 1)


def test_too_few_pixels_for_planted_defects_leave_the_choice_to_the_loss():
    model = train(specimens(3, (64, 64)), MODEL.replace(tile=64), TRAINING)
    assert model.record.planted is None
    assert all(np.isnan(point["planted"]) for point in model.history)
    assert model.config.evidence == "likelihood+memory"


def test_a_card_of_before_has_no_planted_defects():
    card = ModelCard(
        model=MODEL,
        training=TRAINING,
        intensity=IntensityRange((0.0,), (1.0,)),
        calibration=None,
        history=(),
        record=TRAIN.TrainingRecord(),
        has_backbone=True,
    )
    values = card.to_dict()
    del values["record"]["planted"]
    assert ModelCard.from_dict(values).record.planted is None


# The magnification


def script_magnification(monkeypatch, **by_magnification):
    def measured(network, regions, pixel_size, model, *rest):
        return maxima_of(by_magnification[f"at_{model.magnification:g}".replace(".", "_")])
        yield

    monkeypatch.setattr(MAGNIFICATION, "_measured", measured)


@pytest.mark.slow
def test_the_chosen_magnification_is_stored_and_told(monkeypatch):
    script_magnification(monkeypatch, at_1=WEAK, at_2=STRONG)
    events = []
    model = train(specimens(), MODEL.replace(magnification=0), TRAINING.replace(steps=0), on_event=events.append)
    assert model.config.magnification == 2
    told = [event.text for event in events if isinstance(event, Message) and "at magnification 2" in event.text]
    assert len(told) == 1
    assert told[0].endswith("the network sees the images at magnification 2")
    assert "at magnification 0.5" not in told[0]  # these images are small
    again = train(specimens(), MODEL.replace(magnification=0), TRAINING.replace(steps=0), init_from=model)
    assert again.config.magnification == 2


def test_the_magnification_stays_where_no_other_is_clearly_better(monkeypatch):
    script_magnification(monkeypatch, at_1=WEAK, at_2=np.r_[WEAK[:-1], WEAK[-1] + 1], at_0_5=WEAK)
    network = UFlow(MODEL, 1).eval()
    events = []
    steps = magnification_steps(network, specimens(8, (256, 256)), MODEL.replace(magnification=0), TRAINING)
    assert drain(steps, events.append) == 1
    assert "the images keep magnification 1, as no other is clearly better" in events[-1].text
    assert "at magnification 0.5" in events[-1].text


def test_too_few_images_for_a_magnification():
    events = []
    model = train(
        specimens(2, (96, 96)), MODEL.replace(magnification=0), TRAINING.replace(steps=0), on_event=events.append
    )
    assert model.config.magnification == 1
    assert any(isinstance(event, Message) and "too few normal images" in event.text for event in events)


@pytest.mark.slow
@pytest.mark.parametrize("pixel_size", [None, PixelSize(0.1, 0.1, "um")])
def test_magnifications_are_measured_with_untrained_models(monkeypatch, pixel_size):
    seen = set()
    fill_cache = MAGNIFICATION.fill_cache

    def recorded(cache, network, tiles, *rest):
        z = network.config.magnification
        seen.update((round(scale_of(tile.region.plane) / z, 3), tile.region.plane.pixel_size[0] * z) for tile in tiles)
        return fill_cache(cache, network, tiles, *rest)

    monkeypatch.setattr(MAGNIFICATION, "fill_cache", recorded)
    events = []
    config = MODEL.replace(magnification=0)
    regions = of_sizes(8, coarse=0.2)
    steps = magnification_steps(UFlow(config, 1).eval(), regions, config, TRAINING, pixel_size)
    assert drain(steps, events.append) in (1.0, 2.0)
    assert "at magnification 1" in events[-1].text
    if pixel_size is None:
        assert seen == {(1.0, 0.1), (1.0, 0.2)}
    else:  # the others may all have been planted into
        assert (2.0, 0.1) in seen
        assert seen <= {(1.0, 0.1), (2.0, 0.1)}


def test_a_pyramid_is_not_magnified():
    model = train(specimens(3), MODEL.replace(magnification=0, levels="pyramid"), TRAINING.replace(steps=0))
    assert model.config.magnification == 1


def test_a_magnification_is_0_or_not_too_small():
    assert ModelConfig(magnification=0).magnification == 0
    with pytest.raises(ConfigError, match=r"0\.125 or more"):
        ModelConfig(magnification=0.1)
