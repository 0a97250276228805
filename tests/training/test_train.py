"""Training: the loss goes down, the best state is kept, and it can be ended at any event with something to show."""

import importlib
import itertools
import math
import os

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_uflow.config import ModelConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import GuaranteeKind
from napari_uflow.errors import BackboneUnavailableError, ConfigError, ImageError, Stopped
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import EarlierTraining, OutcomeKind, TrainingOutcome
from napari_uflow.model.uflow import TrainedModel, UFlow
from napari_uflow.progress import FINISH, Message, Progress, Snapshot, TrainingPoint, drain
from napari_uflow.training.cache import FeatureCache
from napari_uflow.training.train import train, train_steps

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")

CACHE = importlib.import_module("napari_uflow.training.cache")
OPTIMISE = importlib.import_module("napari_uflow.training.optimise")

MODEL = ModelConfig(backbone="scattering", tile=64, flow_steps=1)
TRAINING = TrainingConfig(steps=4, batch_size=2, augmentations=1, check_every=2, holdout=0.3)


def texture(shape, seed=0) -> np.ndarray:
    """Smooth noise, uint8."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), [0] * (len(shape) - 2) + [1.5] * 2)
    return (128 + 40 * noise / noise.std()).clip(0, 255).astype(np.uint8)


def specimens(n=3, shape=(64, 128), **options) -> list[NormalRegion]:
    return [NormalRegion(Plane(data=texture(shape, i), name=f"specimen {i}", **options)) for i in range(n)]


def run(regions, model=MODEL, training=TRAINING, events=None) -> TrainedModel:
    return train(regions, model, training, device=DEVICE, on_event=None if events is None else events.append)


def warnings_of(events) -> list[str]:
    """Texts of the warnings, without the one about the few positions of these small images."""
    texts = [event.text for event in events if isinstance(event, Message) and event.warning]
    return [text for text in texts if "too few normal pixels to calibrate" not in text]


def check(model: TrainedModel):
    assert all(bool(torch.isfinite(value).all()) for value in model.state.values())
    assert not any(value.requires_grad for value in model.state.values())
    assert model.history
    size = torch.rand(1, model.n_channels, 64, 64)
    assert all(bool(torch.isfinite(e).all()) for e in model.network().energies(size))


# What training does


def test_the_loss_goes_down():
    events = []
    training = TRAINING.replace(steps=15, check_every=5, learning_rate=5e-3)
    model = run(specimens(), training=training, events=events)
    losses = [point["train_loss"] for point in model.history]
    assert losses[-1] < losses[0]
    assert [event for event in events if isinstance(event, TrainingPoint)] == [
        TrainingPoint(**point) for point in model.history
    ]
    assert model.record.outcome.is_complete
    check(model)


def test_seeds_decide_about_everything():
    one, same, other = (run(specimens(), training=TRAINING.replace(seed=seed)) for seed in (1, 1, 2))
    assert one.history == same.history
    assert all(torch.equal(one.state[key], same.state[key]) for key in one.state)
    assert one.calibration == same.calibration
    assert any(not torch.equal(one.state[key], other.state[key]) for key in one.state)


def test_global_random_states_do_not_matter():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - other people's code uses it
    one = run(specimens(), MODEL.replace(permute_soft=True))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    other = run(specimens(), MODEL.replace(permute_soft=True))
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)


@pytest.mark.usefixtures("learns")
def test_what_a_model_remembers():
    events = []
    regions = specimens(pixel_size=(0.5, 0.5), unit="um")
    model = run(regions, events=events)
    record = model.record
    assert record.n_images == 3
    assert record.image_names == ("specimen 0", "specimen 1", "specimen 2")
    assert sorted(record.specimens + record.holdout_specimens) == list(record.image_names)
    assert len(record.holdout_specimens) == 1
    assert (record.n_tiles, record.n_holdout_tiles) == (4, 2)
    assert (record.pixel_size, record.unit) == ((0.5, 0.5), "um")
    assert record.versions["torch"] == torch.__version__
    assert model.config.border in ("reflect", "replicate")
    chosen = {"border": "auto", "evidence": "auto", "octaves": 0}
    assert (model.config.replace(**chosen), model.training) == (MODEL, TRAINING)
    assert Message("4 tiles from 2 specimens to train on, 2 from 1 held out") in events
    assert not warnings_of(events)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "guarantee"), [(3, "split"), (9, "split"), (3, "auto")])
def test_too_few_held_out_specimens_for_a_guarantee_are_told_before_training(n, guarantee):
    events = []
    model = run(specimens(n, (128, 128)), training=TRAINING.replace(guarantee=guarantee), events=events)
    said = [
        event.text for event in events if isinstance(event, Message) and "false alarms are only estimated" in event.text
    ]
    assert len(model.record.holdout_specimens) == (1 if n == 3 else 3)
    assert bool(said) == (n == 3 and guarantee == "split")
    if said:
        assert "1 held-out specimen; a guarantee of 1 per image needs 3" in said[0]


@pytest.mark.parametrize(
    ("levels", "side", "margin", "n", "holdout", "augmentations", "is_enough"),
    [
        ("joint", 48, 0, 2, 0.5, 1, False),
        ("joint", 80, 16, 1, 0.0, 4, False),
        ("joint", 64, 0, 2, 0.5, 1, True),
        ("pyramid", 64, 0, 2, 0.5, 1, False),
        ("pyramid", 80, 0, 1, 0.0, 4, False),
        ("pyramid", 128, 0, 2, 0.5, 1, True),
    ],
)
def test_too_few_positions_for_a_calibration_are_told_before_training(
    levels, side, margin, n, holdout, augmentations, is_enough
):
    """Augmentations of a tile add no positions, and a position in two tiles is one."""
    events = []
    mask = np.zeros((side, side), bool)
    mask[margin : side - margin, margin : side - margin] = True
    model = run(
        [NormalRegion(region.plane, mask) for region in specimens(n, (side, side))],
        MODEL.replace(levels=levels),
        training=TRAINING.replace(holdout=holdout, augmentations=augmentations, min_normal=0.5),
        events=events,
    )
    warned = [i for i, event in enumerate(events) if isinstance(event, Message) and "too few normal" in event.text]
    assert len(warned) == (not is_enough)
    assert (model.calibration is not None) == is_enough
    assert all(not isinstance(event, TrainingPoint) for i in warned for event in events[:i])


EVIDENCE = ["Choosing the memory", "Measuring normal positions"]


@pytest.mark.parametrize(
    ("options", "around"),
    [
        ({"border": "reflect", "levels": "pyramid"}, ([], [])),
        ({}, (EVIDENCE, EVIDENCE[1:])),
        ({"evidence": "likelihood"}, (EVIDENCE[1:], EVIDENCE[1:])),
    ],
    ids=["pyramid", "joint", "likelihood"],
)
def test_every_phase_counts_to_its_end(options, around):
    events = []
    run(specimens(), MODEL.replace(**options), events=events)
    reported = [event for event in events if isinstance(event, Progress)]
    phases = [(phase, list(reports)) for phase, reports in itertools.groupby(reported, lambda event: event.phase)]
    assert [phase for phase, _ in phases][: 4 + len(around[0]) + len(around[1])] == [
        "Computing features",
        "Computing held-out features",
        "Fitting the feature normalisation",
        *around[0],
        "Training",
        *around[1],
    ]
    for _, reports in phases:
        done = [event.done for event in reports]
        assert done == sorted(done)
        assert done[-1] == reports[-1].total
        assert len({event.total for event in reports}) == 1


def test_features_on_disk_give_the_same_model(monkeypatch):
    events = []
    one = run(specimens())
    monkeypatch.setattr(CACHE, "FeatureCache", lambda limit: FeatureCache(0))
    other = run(specimens(), events=events)
    assert sum(isinstance(event, Message) and "kept on disk" in event.text for event in events) == 1
    assert all(torch.equal(one.state[key], other.state[key]) for key in one.state)


@pytest.fixture
def learns(monkeypatch):
    """Let each check be better than the last: four tiles are too few to improve the held-out loss."""
    losses = itertools.count(0, -1)
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))


def scripted_losses(monkeypatch, losses) -> list[dict[str, torch.Tensor]]:
    """Script the held-out losses, the first before the first step; return the states at the checks."""
    states: list[dict[str, torch.Tensor]] = []

    def held_out(network, cache, batch_size):
        states.append({key: value.detach().clone() for key, value in network.flow.state_dict().items()})
        return losses[len(states) - 1], 1.0

    monkeypatch.setattr(OPTIMISE, "_held_out", held_out)
    return states


def test_the_best_state_is_kept(monkeypatch):
    states = scripted_losses(monkeypatch, [9.0, 3.0, 1.0, 2.0, math.nan, 1.5])
    training = TRAINING.replace(steps=5, check_every=1, guarantee="split")
    model = run(specimens(), training=training)
    assert [point["is_best"] for point in model.history] == [True, True, False, False, False]
    for key, value in states[2].items():
        assert torch.equal(model.state[f"flow.{key}"], value)
    assert any(not torch.equal(states[2][key], states[5][key]) for key in states[2])


def test_the_state_before_the_first_step_is_kept_where_nothing_better_comes(monkeypatch):
    states = scripted_losses(monkeypatch, [0.5, 3.0, 1.0, math.nan])
    events = []
    model = run(specimens(), training=TRAINING.replace(steps=3, check_every=1), events=events)
    assert not any(point["is_best"] for point in model.history)
    for key, value in states[0].items():
        assert torch.equal(model.state[f"flow.{key}"], value)
    assert model.record.outcome == TrainingOutcome(OutcomeKind.NOTHING_LEARNED)
    assert any("did not improve the held-out loss" in text for text in warnings_of(events))


def test_patience_ends_training(monkeypatch):
    scripted_losses(monkeypatch, [4.0, 3.0, 1.0, *[2.0] * 40])
    model = run(specimens(), training=TRAINING.replace(steps=40, check_every=2, patience=3))
    assert [point["step"] for point in model.history] == [2, 4, 6, 8, 10]
    assert model.record.outcome == TrainingOutcome(OutcomeKind.CONVERGED, 4)


# Ending it early


def small_run():
    return train_steps(specimens(2, (48, 48)), MODEL, TRAINING.replace(steps=3, holdout=0.5), device=DEVICE)


def n_events() -> int:
    count = []
    drain(small_run(), count.append)
    return len(count)


def is_measuring(event) -> bool:
    return isinstance(event, Progress) and event.phase == "Measuring normal positions"


@pytest.mark.slow
@pytest.mark.usefixtures("learns")
def test_finish_at_any_event():
    outcomes = []
    for asked_at in range(n_events()):
        seen = []
        try:
            model = drain(small_run(), seen.append, lambda seen=seen, asked_at=asked_at: len(seen) == asked_at + 1)
        except Stopped:
            assert not any(isinstance(event, TrainingPoint) for event in seen)
            assert not any(isinstance(event, Progress) and event.phase == "Training" for event in seen)
            outcomes.append(None)
            assert len(seen) == asked_at + 1
        else:
            check(model)
            taken = [event for event in seen[: asked_at + 1] if not is_measuring(event)][-1]
            last = taken.step if isinstance(taken, TrainingPoint) else taken.done
            outcomes.append(model.record.outcome)
            assert outcomes[-1] in (TrainingOutcome(OutcomeKind.STOPPED, last), TrainingOutcome(OutcomeKind.DONE))
            assert model.history[-1]["step"] == last
            # it stops there but for the scale of what was learned: such a small image has nothing to calibrate
            assert all(is_measuring(event) for event in seen[asked_at + 1 :])
    first = next(i for i, outcome in enumerate(outcomes) if outcome is not None)
    assert not any(outcomes[:first])
    assert {TrainingOutcome(OutcomeKind.STOPPED, step) for step in (1, 2)} <= set(outcomes[first:])


def test_a_stop_between_two_checks_is_answered_without_another(monkeypatch):
    states = scripted_losses(monkeypatch, [4.0, 3.0, 2.0])
    seen = []

    def asked():
        return isinstance(seen[-1], Progress) and seen[-1].phase == "Training" and seen[-1].done == 3

    job = train_steps(specimens(), MODEL, TRAINING.replace(steps=8, check_every=2), device=DEVICE)
    model = drain(job, seen.append, asked)
    assert [point["step"] for point in model.history] == [2]
    assert model.record.outcome == TrainingOutcome(OutcomeKind.STOPPED, 3)
    assert len(states) == 2
    for key, value in states[1].items():
        assert torch.equal(model.state[f"flow.{key}"], value)


def interrupted(training, regions=None, model=MODEL, **options) -> TrainedModel:
    """Train until the first check."""
    seen = []
    job = train_steps(regions or specimens(), model, training, device=DEVICE, **options)
    return drain(job, seen.append, lambda: isinstance(seen[-1], TrainingPoint))


def test_an_interrupted_training_goes_on_where_it_was(monkeypatch):
    training = TRAINING.replace(steps=10, check_every=4, learning_rate=0.01, final_learning_rate=0.2, patience=99)
    training = training.replace(guarantee="split")
    before = interrupted(training)
    rates, original = [], OPTIMISE._Optimisation.step

    def step(self):
        rates.append(self._optimiser.param_groups[0]["lr"])
        return original(self)

    monkeypatch.setattr(OPTIMISE._Optimisation, "step", step)
    events = []
    job = train_steps(specimens(), before.config, training, device=DEVICE, init_from=before, continues=True)
    model = drain(job, events.append)
    np.testing.assert_allclose(rates, 0.01 - 0.0008 * np.arange(4, 10))  # a straight line from 0.01 to 0.002
    progress = [event for event in events if isinstance(event, Progress) and event.phase == "Training"]
    assert [(event.done, event.total) for event in progress] == [(done, 10) for done in range(5, 11)]
    assert [event.step for event in events if isinstance(event, TrainingPoint)] == [4, 8, 10]
    assert [point["step"] for point in model.history] == [4, 8, 10]
    assert model.history[:1] == before.history
    assert model.training == training
    assert model.record.resumed_from == EarlierTraining(before.record.date, 4, None, is_same=True)
    assert model.record.began_with is None
    assert model.record.first_training is None
    assert model.record.holdout_specimens == before.record.holdout_specimens


def test_a_training_that_began_with_a_model_and_was_interrupted_says_both():
    first = run(specimens(), training=TRAINING.replace(steps=2))
    before = interrupted(TRAINING, model=first.config, init_from=first)
    job = train_steps(specimens(), before.config, TRAINING, device=DEVICE, init_from=before, continues=True)
    record = drain(job).record
    assert record.resumed_from.is_same
    assert record.began_with == EarlierTraining(first.record.date, 2)
    assert record.first_training == first.training


def test_a_job_that_is_killed_leaves_nothing_on_disk(tmp_path, monkeypatch):
    """Its files have no names from the beginning."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(CACHE, "FeatureCache", lambda limit: FeatureCache(0))
    job = small_run()
    messages = []
    for event in job:
        messages.extend([event.text] if isinstance(event, Message) else [])
        if isinstance(event, Progress) and event.phase == "Training":
            break
    assert any("features are kept on disk" in text for text in messages)
    assert list(tmp_path.iterdir()) == []
    job.close()


@pytest.mark.parametrize("is_enabled", [True, False])
def test_no_grad_mode_leaks_to_the_caller(is_enabled):
    with torch.set_grad_enabled(is_enabled):
        for _ in small_run():
            assert torch.is_grad_enabled() is is_enabled
            assert not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled() is is_enabled


# Losses that are not finite


def spoil(monkeypatch, is_bad):
    """Make the loss of chosen training steps NaN; held-out losses stay as they are."""
    n_steps = 0
    original = OPTIMISE.negative_log_likelihood

    def loss(z, ln_det, is_normal=None):
        nonlocal n_steps
        value, n_dims = original(z, ln_det, is_normal)
        if torch.is_grad_enabled():
            n_steps += 1
            if is_bad(n_steps):
                value = value * math.nan
        return value, n_dims

    monkeypatch.setattr(OPTIMISE, "negative_log_likelihood", loss)


@pytest.mark.usefixtures("learns")
def test_one_step_that_is_not_finite_is_left_out(monkeypatch):
    spoil(monkeypatch, lambda step: step == 2)
    model = run(specimens())
    check(model)
    assert model.record.outcome == TrainingOutcome(OutcomeKind.DONE)
    assert all(math.isfinite(point["train_loss"]) for point in model.history)


def test_many_steps_that_are_not_finite_end_training_with_the_best_model(monkeypatch):
    spoil(monkeypatch, lambda step: step > 2)
    events = []
    model = run(specimens(), training=TRAINING.replace(steps=100, check_every=1, patience=1000), events=events)
    check(model)
    assert model.record.outcome == TrainingOutcome(OutcomeKind.NOT_FINITE)
    assert model.history[-1]["step"] < 50
    assert any(isinstance(event, Message) and event.warning and "no longer finite" in event.text for event in events)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_the_memory_is_taken_in_parts(monkeypatch):
    expected = run(specimens(), training=TRAINING.replace(batch_size=4, learning_rate=1e-5))
    original = UFlow.latents
    sizes = []

    def small_memory(self, features):
        sizes.append(len(features[0]))
        if len(features[0]) > 2 and torch.is_grad_enabled():
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return original(self, features)

    monkeypatch.setattr(UFlow, "latents", small_memory)
    events = []
    model = run(specimens(), training=TRAINING.replace(batch_size=4, learning_rate=1e-5), events=events)
    told = [text for text in warnings_of(events) if "processes 2 tiles at a time" in text]
    assert len(told) == 1
    assert max(sizes) == 4
    for one, other in zip(model.history, expected.history, strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
        assert one["holdout_loss"] == pytest.approx(other["holdout_loss"], rel=1e-3)


def test_never_finite_is_an_error(monkeypatch):
    monkeypatch.setattr(
        OPTIMISE, "negative_log_likelihood", lambda z, ln_det, normal=None: (z[0].sum() * math.nan, torch.tensor(1))
    )
    with pytest.raises(ImageError, match="training failed: the loss was never finite; lower the learning rate"):
        run(specimens())


def test_a_wild_learning_rate_still_gives_a_finite_model():
    model = run(specimens(), training=TRAINING.replace(steps=30, learning_rate=1.0, check_every=1))
    assert all(bool(torch.isfinite(value).all()) for value in model.state.values())


# Images as they come


def test_what_is_not_normal_and_far_away_has_no_influence():
    far = 160 + UFlow(MODEL, 1).feature_halo
    regions, spoiled = [], []
    for i in range(3):
        image = texture((64, far + 40), i)
        other = image.copy()
        other[:, far:] = 255 - other[:, far:]
        mask = np.zeros(image.shape, bool)
        mask[:, :160] = True
        regions.append(NormalRegion(Plane(data=image, name=str(i)), mask))
        spoiled.append(NormalRegion(Plane(data=other, name=str(i)), mask))
    one, other = run(regions), run(spoiled)
    assert one.record.n_tiles == 2 * 3
    assert one.intensity == other.intensity
    for key, value in one.state.items():
        torch.testing.assert_close(other.state[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("where", ["nan", "inf", "mask"])
def test_missing_pixels(where):
    regions = []
    for i in range(3):
        image = texture((64, 128), i).astype(np.float32)
        mask = np.ones((64, 128), bool)
        if where == "mask":
            image[10:20, 30:50] = 1e30
            mask[10:20, 30:50] = False
        else:
            image[10:20, 30:50] = np.nan if where == "nan" else np.inf
        regions.append(NormalRegion(Plane(data=image, name=str(i)), mask))
    model = run(regions)
    check(model)
    assert model.intensity.high[0] < 300


def test_holes_everywhere_are_an_error_that_says_so():
    """Every position has a pixel that is not normal."""
    regions = []
    for i in range(3):
        mask = np.ones((64, 128), bool)
        mask[::6, ::6] = False
        regions.append(NormalRegion(Plane(data=texture((64, 128), i), name=str(i)), mask))
    with pytest.raises(ImageError, match="normal"):
        run(regions)


def test_holes_everywhere_in_what_is_held_out():
    regions = specimens()
    held_out = run(regions).record.holdout_specimens[0]
    mask = np.ones((64, 128), bool)
    mask[::6, ::6] = False
    regions = [NormalRegion(r.plane, mask if r.specimen == held_out else None) for r in regions]
    check(run(regions))


@pytest.mark.usefixtures("learns")
def test_a_single_specimen_is_divided_by_place_with_a_warning():
    events = []
    model = run(specimens(1, (128, 256)), events=events)
    check(model)
    assert model.record.n_holdout_tiles > 0
    assert model.record.specimens == model.record.holdout_specimens
    (warning,) = warnings_of(events)
    assert "all images come from one specimen" in warning


def test_a_single_tile_is_not_split_with_a_warning():
    events = []
    model = run(specimens(1, (64, 64)), events=events)
    check(model)
    assert model.record.n_holdout_tiles == 0
    not_split, no_memory = warnings_of(events)
    assert "no specimen could be held out" in not_split
    assert "the model has no memory" in no_memory


@pytest.mark.slow
@pytest.mark.parametrize("n_channels", [2, 3])
def test_two_and_three_channels(n_channels):
    regions = [NormalRegion(Plane(data=texture((n_channels, 64, 128), i), axes="CYX", name=str(i))) for i in range(2)]
    model = run(regions, training=TRAINING.replace(steps=2))
    assert model.n_channels == n_channels
    check(model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "converted"),
    [
        ((110, 2048), lambda image: image),
        ((40, 50), lambda image: image),
        ((30, 300), lambda image: image.astype(np.uint16) * 257),
        ((64, 128), lambda image: image.astype(np.float32) * 1e-3 - 5),
        ((64, 65), lambda image: image > 128),
    ],
    ids=["strip", "small", "sixteen bits", "real", "black and white"],
)
def test_shapes_and_types(shape, converted):
    planes = [Plane(data=converted(texture(shape, i)), name=str(i)) for i in range(2)]
    augmentations = 1 if max(shape) > 1000 else 5  # the fifth is the first one that turns rows into columns
    model = run(
        [NormalRegion(plane) for plane in planes],
        training=TRAINING.replace(steps=2, augmentations=augmentations, max_tiles=4),
    )
    check(model)
    found = detect(model, planes[0], device=DEVICE)
    assert found.score.shape == shape
    assert np.isfinite(found.score).all()


def test_constant_images_do_not_break_it():
    planes = [Plane(data=np.full((64, 128), 7, np.uint8), name=str(i)) for i in range(2)]
    model = run([NormalRegion(plane) for plane in planes], training=TRAINING.replace(steps=2))
    check(model)


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_overexposed_images_are_told(value):
    flat = Plane(data=np.full((64, 128), value, np.uint8), name="flat")
    half = Plane(data=np.where(np.arange(128) < 64, value, texture((64, 128))).astype(np.uint8), name="half")
    events = []
    run([*specimens(2), NormalRegion(flat), NormalRegion(half)], training=TRAINING.replace(steps=0), events=events)
    (text,) = [text for text in warnings_of(events) if "without any structure" in text]
    assert text.startswith("1 of 4 images without any structure, such as 'flat' (black, overexposed or empty)")
    events = []
    run(specimens(2), training=TRAINING.replace(steps=0), events=events)
    assert not any("structure" in text for text in warnings_of(events))


# Mistakes


def test_nothing_to_train_on():
    with pytest.raises(ImageError, match="nothing to train on"):
        run([])
    nothing = [NormalRegion(Plane(data=np.full((64, 64), np.nan, np.float32)))]
    with pytest.raises(ImageError, match="no tile of 64 x 64 pixels"):
        run(nothing)


def test_images_with_different_channels():
    regions = [*specimens(1), NormalRegion(Plane(data=texture((2, 64, 64)), axes="CYX", name="other"))]
    with pytest.raises(ImageError, match="'specimen 0' has 1 channels but 'other' has 2"):
        run(regions)


def test_tile_that_does_not_fit():
    with pytest.raises(ConfigError, match="tile must be a multiple of 16"):
        run(specimens(), MODEL.replace(tile=100))


def test_mistakes_of_device_and_weights(tmp_path):
    with pytest.raises(ConfigError, match="device"):
        train(specimens(), MODEL, TRAINING, device="toaster")
    with pytest.raises(BackboneUnavailableError, match="no file of weights"):
        train(specimens(), MODEL.replace(backbone="resnet18"), TRAINING, weights=tmp_path / "nothing", device=DEVICE)


def test_the_word_for_finish():
    assert FINISH.value == "finish"


@pytest.mark.usefixtures("learns")
def test_snapshots_are_models_that_detect(monkeypatch):
    monkeypatch.setattr(OPTIMISE, "_SECONDS_BETWEEN_SNAPSHOTS", -1.0)
    events = train_steps(specimens(), MODEL, TRAINING, device=DEVICE)
    taken = [event.result for event in events if isinstance(event, Snapshot)]
    assert taken
    steps = [snapshot.record.outcome.step for snapshot in taken]
    assert steps == sorted(set(steps))
    assert all(snapshot.record.outcome.kind is OutcomeKind.INTERRUPTED for snapshot in taken)
    assert taken[0].calibration is None
    assert detect(taken[0], specimens()[0].plane, device=DEVICE).guarantee.kind is GuaranteeKind.NOMINAL


def test_the_best_model_is_saved_even_if_no_later_one_is_better(monkeypatch):
    """It was found less than a minute after the last snapshot; what is resumed are the steps after it."""
    clock = itertools.count(0, 40)  # seconds; each check looks at it
    monkeypatch.setattr(OPTIMISE.time, "monotonic", lambda: next(clock))
    losses = iter([5.0, 1.0, 2.0, 3.0, 4.0])  # of the initial model, then of each step
    monkeypatch.setattr(OPTIMISE, "_held_out", lambda *args: (next(losses), 1.0))
    states = []

    def flow_of(state):
        return {key: value for key, value in state.items() if key.startswith("flow.")}

    original = OPTIMISE._Optimisation.check

    def check(self, step):
        states.append({key: value.clone() for key, value in self._network.state_dict().items()})
        return original(self, step)

    monkeypatch.setattr(OPTIMISE._Optimisation, "check", check)
    training = TRAINING.replace(steps=4, check_every=1, patience=10)
    events = train_steps(specimens(), MODEL.replace(levels="pyramid"), training, device=DEVICE)
    (taken,) = [event.result for event in events if isinstance(event, Snapshot)]
    assert taken.record.outcome == TrainingOutcome(OutcomeKind.INTERRUPTED, 1)
    assert [point["step"] for point in taken.history] == [1]
    best, later = flow_of(states[0]), flow_of(states[1])
    assert all(torch.equal(value, best[key].cpu()) for key, value in flow_of(taken.state).items())
    assert any(not torch.equal(value, best[key]) for key, value in later.items())


# Going on


def test_training_is_resumed_from_its_state(monkeypatch):
    regions = specimens(4)
    with monkeypatch.context() as patch:
        losses = itertools.count(0, -1)
        patch.setattr(OPTIMISE, "_held_out", lambda *args: (float(next(losses)), 1.0))
        first = run(regions, training=TRAINING.replace(steps=10, check_every=5, learning_rate=3e-3))
    more = [*regions, NormalRegion(Plane(data=texture((64, 128), 99), name="more"))]
    events = []
    training = TRAINING.replace(steps=2, check_every=1, learning_rate=1e-6, holdout=0.2)
    again = train(more, training=training, device=DEVICE, init_from=first, on_event=events.append)
    assert again.intensity == first.intensity
    assert again.config == first.config
    assert set(again.record.holdout_specimens) == set(first.record.holdout_specimens)
    assert "more" in again.record.specimens
    for key, value in again.state.items():
        if key.startswith("norm."):
            assert torch.equal(value, first.state[key])
    # it starts from what was reached, not from nothing
    flow = {key: value for key, value in first.state.items() if key.startswith("flow.") and value.is_floating_point()}
    assert any(value.abs().max() > 1e-3 for key, value in flow.items() if key.endswith("subnet.2.weight"))
    for key, value in flow.items():
        torch.testing.assert_close(again.state[key], value, rtol=0, atol=1e-4)
    assert not any(isinstance(e, Progress) and e.phase.startswith("Fitting the feature") for e in events)
    check(again)


def test_training_is_resumed_only_with_the_same_parts(tiny_model):
    first = run(specimens())
    with pytest.raises(ConfigError, match=r"flow_steps 1 \(not 3\)"):
        train(specimens(), MODEL.replace(flow_steps=3), TRAINING, device=DEVICE, init_from=first)
    colour = [NormalRegion(Plane(data=np.zeros((64, 64, 3), np.uint8), axes="YXS", name="colour"))]
    with pytest.raises(ImageError, match="have 3 channels, but the model was trained on 1"):
        train(colour, training=TRAINING, device=DEVICE, init_from=first)


def held_and_trained(model):
    return set(model.record.holdout_specimens), set(model.record.specimens)


def test_nothing_that_was_trained_on_is_held_out_later():
    regions = specimens(4)
    first = run(regions)
    held, trained = held_and_trained(first)
    # the specimen that was held out is missing, a new one has come: only that may be held out
    others = [region for region in regions if region.specimen not in held]
    new = NormalRegion(Plane(data=texture((64, 128), 99), name="new"))
    again = train([*others, new], training=TRAINING, device=DEVICE, init_from=first)
    assert held_and_trained(again) == ({"new"}, trained)
    # a third run knows what the first one was trained on
    events = []
    third = train(others[1:], training=TRAINING, device=DEVICE, init_from=again, on_event=events.append)
    assert any("images of 1 specimen that the model was trained on are missing" in text for text in warnings_of(events))
    assert held_and_trained(third) == (set(), trained)
    assert third.record.resumed_from.resumed_from.n_steps == 4


@pytest.mark.slow
def test_new_specimens_join_those_held_out():
    first = run(specimens(3))
    more = [NormalRegion(Plane(data=texture((64, 128), 50 + i), name=f"more {i}")) for i in range(9)]
    again = train([*specimens(3), *more], training=TRAINING, device=DEVICE, init_from=first)
    held, _ = held_and_trained(again)
    assert held > held_and_trained(first)[0]
    assert len(held) == 4  # 0.3 of 12
    assert not held & held_and_trained(first)[1]
    none = train(specimens(3), training=TRAINING.replace(holdout=0.0), device=DEVICE, init_from=first)
    assert held_and_trained(none)[0] == set()


def test_a_single_specimen_that_was_divided_by_place_and_another():
    first = run(specimens(1, (128, 256)))
    assert held_and_trained(first) == ({"specimen 0"}, {"specimen 0"})
    again = train(specimens(2, (128, 256)), training=TRAINING, device=DEVICE, init_from=first)
    assert held_and_trained(again) == ({"specimen 1"}, {"specimen 0"})


def test_a_region_given_several_times_is_held_out_and_counted_once():
    regions = specimens(4)
    first = run(regions)
    (held,) = first.record.holdout_specimens
    (region,) = [region for region in regions if region.specimen == held]
    again = train([*regions, *[region] * 5], training=TRAINING, device=DEVICE, init_from=first)
    assert again.record.n_holdout_tiles == first.record.n_holdout_tiles
    assert again.record.n_images == 4


def test_a_model_that_went_astray_is_not_kept():
    first = run(specimens(), training=TRAINING.replace(steps=10, check_every=5))
    again = train(specimens(), training=TRAINING.replace(learning_rate=1.0), device=DEVICE, init_from=first)
    assert again.record.outcome == TrainingOutcome(OutcomeKind.NOTHING_LEARNED)
    assert all(torch.equal(again.state[key], first.state[key]) for key in first.state)


def test_a_refinement_that_would_forget_too_much_says_so():
    first = run(specimens(), training=TRAINING.replace(steps=10, check_every=5))
    marked = NormalRegion(specimens(4)[3].plane, is_marked_normal=True)
    events = []
    options = {"training": TRAINING.replace(learning_rate=1.0), "device": DEVICE, "init_from": first}
    again = train([*specimens(), marked], on_event=events.append, **options)
    assert again.record.outcome == TrainingOutcome(OutcomeKind.NOTHING_LEARNED)
    (told,) = [text for text in warnings_of(events) if "keeps its earlier weights" in text]
    assert "marked normal" in told
    assert not any("did not improve" in text for text in warnings_of(events))


def test_many_regions_marked_normal_do_not_displace_the_others():
    marked = [NormalRegion(Plane(data=texture((64, 64), i), name="new"), is_marked_normal=True) for i in range(9)]
    events = []
    model = run([*specimens(), *marked], training=TRAINING.replace(max_tiles=6), events=events)
    assert model.record.n_tiles == 6
    (told,) = [text for text in warnings_of(events) if "marked normal" in text]
    assert told.startswith("3 of 9 regions marked normal are trained on")


def test_too_few_positions_are_told_if_the_border_is_replicated():
    """Every missing pixel costs the positions that have their features from there too."""
    images = [texture((128, 128), i).astype(np.float32) for i in range(2)]
    for image in images:
        for row, col in ((40, 40), (40, 85), (85, 40)):
            image[row, col] = np.nan
    regions = [NormalRegion(Plane(data=image, name=f"holes {i}")) for i, image in enumerate(images)]
    training = TRAINING.replace(holdout=0.5, min_normal=0.1)
    for border in ("reflect", "replicate"):
        events = []
        model = run(regions, MODEL.replace(border=border, levels="pyramid"), training, events)
        warned = any(isinstance(event, Message) and "too few normal" in event.text for event in events)
        assert (model.calibration is None) is warned is (border == "replicate")
