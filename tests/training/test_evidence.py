"""The memory of normal positions and the scale of the evidence, from one tile to a resumed training."""

import importlib
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_uflow.config import ModelConfig, TrainingConfig, training_preset
from napari_uflow.detection.detect import detect
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.classes import N_CLASSES
from napari_uflow.model.inference import score_steps
from napari_uflow.model.joint import APERTURES
from napari_uflow.model.memory import key_of, specimen_part
from napari_uflow.model.packaged import PACKAGED
from napari_uflow.model.record import OutcomeKind, TrainingOutcome
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import Message, Progress, Snapshot, TrainingPoint, drain, run_chunks
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.training.refine import learned_by, refinement_of, repeated
from napari_uflow.training.train import train, train_steps

CALIBRATE = importlib.import_module("napari_uflow.training.calibrate")
OPTIMISE = importlib.import_module("napari_uflow.training.optimise")
DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")

MODEL = ModelConfig(backbone="scattering", tile=64, flow_steps=1)
INSTANT = training_preset("instant").replace(holdout=0.3)
POSITIONS = 8 * 16
"""Of an image of 64 x 128 pixels."""


def region(name, seed, shape=(64, 128), **options):
    """Smooth noise, uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    image = (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)
    return NormalRegion(Plane(data=image, name=name), **options)


def specimens(n=3, **options):
    return [region(f"specimen {i}", i, **options) for i in range(n)]


def run(regions, model=None, training=INSTANT, **options) -> TrainedModel:
    return train(regions, model or (None if "init_from" in options else MODEL), training, device=DEVICE, **options)


def remembered(model) -> dict[int, int]:
    """Number of vectors of each key in the memory."""
    keys, counts = model.state["memory.keys"].unique(return_counts=True)
    assert len(model.state["memory.vectors"]) == counts.sum()
    return dict(zip(keys.tolist(), counts.tolist(), strict=True))


def distances(model, plane, without=None):
    """Distances of all positions of an image from the memory of a model, of each aperture."""
    network = model.network()
    with network.memory.without(without):
        return network.memory.distance(features_of(network, model, plane))[0].numpy()


def features_of(network, model, plane):
    """Joint features of an image whose sides are multiples of 16, as training computes them."""
    window = Window(0, 0, *plane.shape)
    outer = network.reading_window(window, plane.shape)
    (features,) = network.features(torch.from_numpy(model.intensity.apply(plane.read(outer)))[None])
    rows, cols = window.shifted(-outer.row, -outer.col).scaled(8).slices()
    return features[:, :, rows, cols]


def inside(model, statistic="median"):
    """Median, or width, of the distances of normal positions inside of an image, of each aperture."""
    return model.state[f"scale.{statistic}"][1:, N_CLASSES - 1].numpy()


def median_of(distances):
    """Median of the distances of each aperture."""
    return np.median(distances.reshape(APERTURES, -1), axis=1)


def farthest(some, others):
    """Largest distance of vectors from the nearest one of others."""
    return float(torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).max())


# What is remembered


@pytest.mark.parametrize(("n", "n_held_out"), [(2, 1), (3, 1), (8, 3)])
def test_every_position_trained_on_or_held_out_is_remembered(n, n_held_out):
    """By its specimen, if only one of them is trained on or held out, too."""
    model = run(specimens(n))
    assert len(model.record.holdout_specimens) == n_held_out
    assert len(model.record.specimens) == n - n_held_out
    assert remembered(model) == {key_of(one.specimen): POSITIONS for one in specimens(n)}


def test_positions_are_remembered_sharp_and_wide():
    model = run(specimens())
    network = model.network()
    vectors = model.state["memory.vectors"]
    assert vectors.shape[1] == APERTURES * network.channels[0]
    for one in specimens():
        own = features_of(network, model, one.plane).flatten(2)[0].T
        assert farthest(own, vectors) < 0.01 * vectors.norm(dim=1).median()  # kept in float16


def test_augmented_tiles_are_not_remembered():
    once, augmented = (run(specimens(), training=INSTANT.replace(augmentations=n)) for n in (1, 8))
    assert remembered(augmented) == remembered(once)
    vectors = [model.state["memory.vectors"] for model in (once, augmented)]
    assert farthest(*vectors) == farthest(*vectors[::-1]) == 0


def test_positions_that_are_not_normal_are_not_remembered():
    mask = np.ones((64, 128), bool)
    mask[9, 20] = mask[:, 64:] = False
    mask[:, 72:] = True
    regions = [replace_mask(one, mask) for one in specimens()]
    model = run(regions)
    assert set(remembered(model).values()) == {POSITIONS - 1 - 8}


def replace_mask(one, mask):
    return NormalRegion(one.plane, mask)


def test_a_large_memory_is_drawn_from():
    model = run(specimens(), MODEL.replace(memory_size=100))
    assert sum(remembered(model).values()) == 100
    assert len(remembered(model)) == 3
    assert all(15 < n < 55 for n in remembered(model).values())
    everything = run(specimens()).state["memory.vectors"]
    assert farthest(model.state["memory.vectors"], everything) == 0


def test_a_specimen_of_the_memory_is_measured_without_itself():
    """Trained on or held out, it is at distance 0 of itself, and as far from the others as a new one."""
    model = run(specimens(4))
    for one in specimens(4):
        assert (median_of(distances(model, one.plane)) < 0.1 * inside(model)).all()
        of_others = distances(model, one.plane, key_of(one.specimen))
        assert median_of(of_others) == pytest.approx(inside(model), rel=0.3)
    assert median_of(distances(model, region("new", 50).plane)) == pytest.approx(inside(model), rel=0.3)


@pytest.mark.parametrize(("n", "n_held_out"), [(3, 1), (8, 3)])
def test_a_held_out_image_is_calibrated_on_as_if_its_specimen_were_not_remembered(monkeypatch, n, n_held_out):
    seen = {}

    def fit_steps(images, *args, **options):
        seen.update({image.specimen: image.maps[0] for image in images})
        return fit(images, *args, **options)

    fit = CALIBRATE.Calibration.fit_steps
    monkeypatch.setattr(CALIBRATE.Calibration, "fit_steps", fit_steps)
    model = run(specimens(n), MODEL.replace(evidence="memory"), INSTANT.replace(guarantee="split"))
    assert len(seen) == n_held_out
    assert set(seen) == set(model.record.holdout_specimens)
    network = model.network()
    vectors, keys = network.memory.vectors, network.memory.keys
    for one in specimens(n):
        if one.specimen in seen:
            others = keys != key_of(one.specimen)
            assert others.sum() == (n - 1) * POSITIONS
            network.memory.keep(vectors[others], keys[others])
            expected = drain(score_steps(network, model.intensity, one.plane)).evidence[0]
            np.testing.assert_allclose(seen[one.specimen], expected, rtol=1e-3, atol=1e-3)
            network.memory.keep(vectors, keys)
            with_own = drain(score_steps(network, model.intensity, one.plane)).evidence[0]
            assert (with_own <= seen[one.specimen] + 1e-3).all()
            assert np.median(with_own) < np.median(seen[one.specimen]) - 0.5


def test_the_evidence_of_a_new_image_is_not_larger_than_in_the_calibration():
    """It is compared with one specimen more than each image calibrated on, so false alarms are not more."""
    model = run(specimens(4), MODEL.replace(evidence="memory"))
    network, plane = model.network(), region("new", 50).plane
    with_all = drain(score_steps(network, model.intensity, plane)).evidence[0]
    for name in model.record.holdout_specimens:
        with network.remembering_others(name):
            as_calibrated = drain(score_steps(network, model.intensity, plane)).evidence[0]
        assert (with_all <= as_calibrated).all()
        assert (with_all < as_calibrated).any()


@pytest.mark.parametrize("evidence", ["likelihood", "memory", "likelihood+memory"])
def test_kinds_of_evidence(evidence, odd_plane, normal_planes, tiny_model_config):
    regions = [NormalRegion(plane) for plane in normal_planes]
    model = run(regions, tiny_model_config.replace(evidence=evidence))
    network = model.network()
    assert network.uses_memory == ("memory" in evidence) == (len(network.memory) > 0)
    assert network.uses_likelihood == ("likelihood" in evidence)
    score = detect(model, odd_plane, device=DEVICE).score
    assert score[40:80, 88:128].mean() > 2 * np.median(score)


def test_evidence_is_the_mean_of_its_kinds(normal_planes, tiny_model_config, odd_plane):
    network = run([NormalRegion(plane) for plane in normal_planes], tiny_model_config).network()
    features = network.features(torch.from_numpy(odd_plane.read()[None] / np.float32(255)))
    latents = network.latents(features)
    found = {}
    for kind in ("likelihood", "memory", "likelihood+memory"):
        network.config = network.config.replace(evidence=kind)
        found[kind] = run_chunks(network.evidence_in_chunks(features[0], latents, None))
    expected = (found["likelihood"] + APERTURES * found["memory"]) / (1 + APERTURES)
    torch.testing.assert_close(found["likelihood+memory"], expected)
    assert not torch.allclose(found["likelihood"], found["memory"], atol=0.1)
    classes = np.full(features[0].shape[-2:], N_CLASSES - 1)
    sharp, wide = network.memory.distance(features[0]).unbind(dim=1)
    of_apertures = (network.scale.apply(1, sharp, classes) + network.scale.apply(2, wide, classes)) / 2
    torch.testing.assert_close(found["memory"], of_apertures)


# Few images


@pytest.mark.parametrize("evidence", ["memory", "likelihood+memory"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_single_tile_remembers_nothing_and_is_judged_by_its_likelihood(evidence, steps):
    model = run(specimens(1, shape=(64, 64)), MODEL.replace(evidence=evidence), INSTANT.replace(steps=steps))
    assert remembered(model) == {}
    network = model.network()
    assert not network.uses_memory
    assert network.uses_likelihood
    assert network.scale.width[0].min() > 0
    found = detect(model, region("other", 9).plane, device=DEVICE)
    assert np.isfinite(found.score).all()
    assert found.score.std() > 0


def test_tiles_of_a_single_specimen_are_compared_with_each_other():
    (one,) = specimens(1, shape=(128, 256))
    model = run([one])
    assert model.record.specimens == model.record.holdout_specimens
    found = remembered(model)
    assert len(found) == model.record.n_tiles > 1
    assert set(specimen_part(torch.tensor(list(found))).tolist()) == {key_of(one.specimen) >> 31}
    assert key_of(one.specimen) not in found
    held_out = distances(model, Plane(data=one.plane.data[64:, 192:]))
    assert median_of(held_out) == pytest.approx(inside(model), rel=0.5)
    assert model.calibration is not None


def test_the_held_out_part_of_a_single_specimen_is_not_remembered():
    """New images are as far from the memory as that part is, which the false alarms are calibrated on."""
    (one,) = specimens(1, shape=(128, 256))
    model = run([one])
    n_remembered = model.record.n_tiles * 64
    assert model.record.n_holdout_tiles > 0
    assert sum(remembered(model).values()) == n_remembered < 16 * 32
    for of_aperture, median in zip(distances(model, one.plane), inside(model), strict=True):
        assert (of_aperture < 0.1 * median).sum() == n_remembered
        assert (of_aperture[:, -8:] > 0.1 * median).all()  # the last tiles along the longer side are held out


@pytest.mark.parametrize(("n", "n_remembered"), [(1, 0), (2, 2)])
def test_nothing_held_out(n, n_remembered):
    """A single specimen cannot be compared with a memory of itself; two can with each other's."""
    events = []
    training = INSTANT.replace(holdout=0.0)
    model = train(specimens(n), MODEL.replace(evidence="memory"), training, device=DEVICE, on_event=events.append)
    said = [event.text for event in events if isinstance(event, Message) and "has no memory" in event.text]
    assert len(said) == (n == 1)
    assert model.record.n_holdout_tiles == 0
    assert len(remembered(model)) == n_remembered
    assert model.calibration is not None
    if n == 2:  # in the calibration, too: a memory of the image itself would find it far too normal
        found = detect(model, region("new", 50).plane, device=DEVICE)
        assert found.score.mean() < 1.5


# Without training


BACKBONES = ["scattering", pytest.param("efficientnet_lite2", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_instant_preset_trains_nothing_and_finds_the_square(backbone):
    package = PACKAGED.get("tf_efficientnet_lite2.in1k")
    if backbone == "efficientnet_lite2" and package.path() is None:
        pytest.skip(f"{package.origin} is not installed")
    events = []
    fields = [fibre_field(seed, shape=(256, 256)).image for seed in range(8)]
    regions = [NormalRegion(Plane(data=field, name=f"fibres {seed}")) for seed, field in enumerate(fields)]
    model = run(regions, MODEL.replace(backbone=backbone), training_preset("instant"), on_event=events.append)
    assert not any(isinstance(event, TrainingPoint) for event in events)
    assert not any(isinstance(event, Progress) and event.phase == "Training" for event in events)
    assert model.history == ()
    assert model.record.outcome == TrainingOutcome(OutcomeKind.DONE)
    assert model.record.outcome.is_complete
    x = torch.rand(1, 1, 64, 64)
    network = model.network()
    features = network.norm(network.of_flow(network.features(x)))
    (z,) = network.latents(network.features(x)).z
    torch.testing.assert_close(z.square().sum(dim=1), features[0].square().sum(dim=1), rtol=1e-3, atol=1e-2)
    image = fibre_field(11, shape=(160, 200)).image.copy()
    image[50:90, 80:120] = 230
    labels = detect(model, Plane(data=image), device=DEVICE).labels
    assert (labels[50:90, 80:120] > 0).mean() > 0.9
    assert (labels > 0).sum() < 2 * 40 * 40
    clean = detect(model, Plane(data=fibre_field(12, shape=(160, 160)).image), device=DEVICE)
    assert (clean.labels > 0).mean() < 0.1


def test_the_only_specimen_left_of_several_is_compared_with_the_others():
    first = run(specimens(5))
    name = first.record.specimens[0]
    only = [one for one in specimens(5) if one.plane.name == name]
    marked = region("new", 77, is_marked_normal=True)
    again = run([*only, marked], training=INSTANT, init_from=first)
    assert remembered(again) == remembered(first) | {key_of("new"): POSITIONS}
    assert again.state["scale.median"][1:].min() > 0.05


def test_an_instant_model_is_refined_and_resumed_without_steps():
    model = run(specimens())
    training = refinement_of(model)
    assert (training.steps, training.max_tiles) == (0, model.training.max_tiles)
    marked = region("new", 77, is_marked_normal=True)
    refined = run([*specimens(), *repeated([marked], 4, 2)], training=training, init_from=model)
    assert remembered(refined)[key_of("new")] == POSITIONS
    for key, value in model.state.items():
        if key.startswith(("flow.", "norm.")):
            assert torch.equal(value, refined.state[key])


def test_a_refinement_without_steps_and_memory_says_that_it_learns_nothing():
    marked = region("new", 77, is_marked_normal=True)
    for evidence, parts in (("likelihood", set()), ("memory", {"memory"})):
        model = run(specimens(), MODEL.replace(evidence=evidence))
        events = []
        options = {"training": refinement_of(model), "init_from": model, "on_event": events.append}
        refined = run([*specimens(), marked], **options)
        told = [e.text for e in events if isinstance(e, Message) and e.warning and "are not learned" in e.text]
        assert (learned_by(refined), len(told)) == (parts, not parts)
        events.clear()
        run(specimens(), **options)  # there is nothing to learn
        assert not any("are not learned" in event.text for event in events if isinstance(event, Message))


# Going on


def test_a_resumed_training_remembers_specimens_that_are_missing():
    first = run(specimens(4))
    missing = first.record.specimens[0]
    old_key = key_of(missing)
    regions = [one for one in specimens(4) if one.specimen != missing]
    again = run([*regions, region("new", 99)], init_from=first)
    assert set(remembered(again)) == {key_of(one.specimen) for one in specimens(4)} | {key_of("new")}
    old, new = (model.state["memory.vectors"][model.state["memory.keys"] == old_key] for model in (first, again))
    assert len(old) == len(new) == POSITIONS
    assert farthest(old, new) == farthest(new, old) == 0


def test_old_vectors_fill_half_of_the_memory_at_most():
    first = run(specimens(4), MODEL.replace(memory_size=200))
    gone = first.record.all_specimens
    again = run([region(f"new {i}", 60 + i) for i in range(4)], init_from=first)
    found = remembered(again)
    n_old = sum(found.get(key_of(name), 0) for name in gone)
    assert n_old == 100
    assert sum(found.values()) == 200


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_region_given_several_times_is_remembered_once(is_marked):
    one, *others = specimens(3)
    often = region(one.specimen, 0, is_marked_normal=is_marked)
    for regions in ([often], [*others, often]):
        once, repeated_often = (run([*regions, *[often] * n], training=INSTANT.replace(holdout=0.0)) for n in (0, 5))
        assert remembered(repeated_often) == remembered(once)
        vectors = repeated_often.state["memory.vectors"]
        assert len(vectors.unique(dim=0)) == len(vectors)
        assert repeated_often.record.n_tiles == once.record.n_tiles + 2 * 5


def test_regions_marked_normal_are_remembered_first():
    first = run(specimens(4), MODEL.replace(memory_size=200))
    marked = region("marked", 77, is_marked_normal=True)
    again = run([*specimens(4), marked], init_from=first)
    found = remembered(again)
    assert found[key_of("marked")] == 100  # half of the memory, of 128 positions
    assert sum(found.values()) == 200
    before, after = (np.median(distances(model, marked.plane)) for model in (first, again))
    assert after < 0.5 * before


def test_marks_in_a_held_out_image_are_remembered_with_it():
    """By one key, so that the image is calibrated on without either; false alarms are counted there as before."""
    regions = specimens(2)
    first = run(regions, training=INSTANT.replace(holdout=0.5))
    (held_out,) = first.record.holdout_specimens
    (one,) = [one for one in regions if one.specimen == held_out]
    mask = np.zeros((64, 128), bool)
    mask[:, :32] = True
    marked = NormalRegion(one.plane, mask, held_out, is_marked_normal=True)
    again = run([*regions, marked], init_from=first)
    assert again.record.holdout_specimens == (held_out,)
    of_mark = POSITIONS // 4
    assert remembered(again) == {
        key_of(one.specimen): POSITIONS + of_mark * (one.specimen == held_out) for one in regions
    }


def test_a_single_specimen_and_a_mark_in_another_image():
    """The mark alone is nothing that the specimen's own tiles could be compared with."""
    (one,) = specimens(1, shape=(128, 256))
    first = run([one])
    again = run([one, region("other", 5, (64, 64), is_marked_normal=True)], init_from=first)
    for statistic in ("median", "width"):
        assert inside(again, statistic) == pytest.approx(inside(first, statistic), rel=0.3)
    assert key_of("other") in remembered(again)


def test_a_specimen_that_was_single_is_not_remembered_twice():
    """Its old vectors, by tile, would be compared with itself when it is one of several specimens."""
    regions = specimens(3, shape=(128, 256))
    first = run(regions[:1])
    again = run(regions, training=INSTANT.replace(holdout=0.3), init_from=first)
    assert set(remembered(again)) == {key_of(one.specimen) for one in regions}
    assert len(again.record.specimens) == 2


def test_a_network_without_memory_has_no_old_vectors():
    first = run(specimens(1, shape=(64, 64)))
    again = run([*specimens(1, shape=(64, 64)), region("new", 3)], init_from=first)
    assert set(remembered(again)) <= {key_of("specimen 0"), key_of("new"), key_of("specimen 0", 0)}


def test_a_pyramid_has_neither_memory_nor_scale():
    model = run(specimens(), MODEL.replace(levels="pyramid"))
    assert not any(key.startswith(("memory.", "scale.")) for key in model.state)
    assert replace(model, calibration=None).network().is_joint is False


def test_the_flow_that_was_learned_is_on_the_scale(monkeypatch):
    """The scale is fitted again after the training: evidence of normal positions has the same law."""
    losses = itertools.count(0, -1)  # every check is better than the last
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
    training = TrainingConfig(steps=20, batch_size=4, augmentations=1, check_every=5, learning_rate=1e-2, holdout=0.3)
    training = training.replace(guarantee="split")  # otherwise the scale is that of positions not trained on
    regions = specimens(4)
    model = run(regions, MODEL.replace(evidence="likelihood"), training)
    instant = run(regions, MODEL.replace(evidence="likelihood"))
    network = model.network()

    def of_trained():
        """Evidence of the positions trained on, far from the border."""
        for one in regions:
            if one.specimen in model.record.specimens:
                features = features_of(network, model, one.plane)
                frame = Window(0, 0, *one.plane.shape)
                evidence = network.evidence_in_chunks(features, network.latents((features,)), frame)
                yield run_chunks(evidence)[0, 3:-3, 3:-3].numpy()

    assert np.median(list(of_trained())) == pytest.approx(0, abs=0.2)
    network.scale = instant.network().scale  # as before the training
    assert abs(np.median(list(of_trained()))) > 0.5


@pytest.fixture
def learns(monkeypatch):
    """Let each check be better than the last, and give a snapshot."""
    losses = itertools.count(0, -1)
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
    monkeypatch.setattr(OPTIMISE, "_SECONDS_BETWEEN_SNAPSHOTS", -1.0)


@pytest.mark.usefixtures("learns")
def test_a_snapshot_has_the_scale_of_its_weights_and_changes_nothing(monkeypatch):
    training = TrainingConfig(steps=6, batch_size=2, augmentations=1, check_every=1, holdout=0.3, learning_rate=0.01)
    training = training.replace(guarantee="split")
    with monkeypatch.context() as patch:
        patch.setattr(OPTIMISE, "_SECONDS_BETWEEN_SNAPSHOTS", 1e9)
        expected = run(specimens(), training=training)
    job = train_steps(specimens(), MODEL, training, device=DEVICE)
    taken = []
    try:
        while True:
            event = next(job)
            taken += [event.result] if isinstance(event, Snapshot) else []
    except StopIteration as stop:
        model = stop.value
    assert len(taken) == 6
    assert model.record.outcome == TrainingOutcome(OutcomeKind.DONE)
    assert any(not torch.equal(model.state[key], taken[0].state[key]) for key in model.state if "flow." in key)
    # the last snapshot has the weights of the model, and so has its scale those of the model's
    for key, value in model.state.items():
        assert torch.equal(value, expected.state[key])
        assert torch.equal(value, taken[-1].state[key])
    scales = [snapshot.state["scale.width"] for snapshot in taken]
    assert len({float(width[0, -1]) for width in scales}) == len(scales)
    assert all(torch.equal(width[1:], scales[0][1:]) for width in scales)


@pytest.mark.usefixtures("learns")
def test_a_snapshot_leaves_the_kind_of_evidence_open():
    training = TrainingConfig(steps=2, batch_size=2, augmentations=1, check_every=1, holdout=0.3, learning_rate=0.01)
    for asked, decided in (("auto", "likelihood+memory"), ("memory", "memory")):
        job = train_steps(specimens(), MODEL.replace(evidence=asked), training, device=DEVICE)
        snapshot = next(event.result for event in job if isinstance(event, Snapshot))
        assert snapshot.config.evidence == asked
        again = run(specimens(), snapshot.config, training, init_from=snapshot, continues=True)
        assert again.config.evidence == decided
