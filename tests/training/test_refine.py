"""Resumed trainings: their steps, their learning rate, and the images they need."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_uflow.config import TrainingConfig, training_preset
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import OutcomeKind, TrainingOutcome, TrainingRecord
from napari_uflow.training.refine import check_same_images, check_same_specimens, learned_by, refinement_of, repeated


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_a_refinement_is_shorter_and_gentler(preset, tiny_model):
    training = training_preset(preset)
    found = refinement_of(replace(tiny_model, training=training))
    assert 20 <= found.steps <= training.steps / 2
    assert found.learning_rate < training.learning_rate / 2
    assert found.check_every < found.steps
    short = replace(tiny_model, training=TrainingConfig(steps=3, check_every=3))
    assert refinement_of(short).steps == 3
    rest = replace(tiny_model, record=TrainingRecord(first_training=training))  # of one that was interrupted
    assert refinement_of(rest) == found


def region(name):
    return NormalRegion(Plane(data=np.zeros((8, 8)), name=name))


@pytest.mark.parametrize(
    ("n_marked", "n_tiles", "n_marked_tiles", "n_repeats"),
    [(1, 0, 1, 1), (3, 10, 3, 1), (2, 100, 2, 5), (2, 100, 8, 1), (1, 400, 4, 10), (1, 1000, 1, 20), (1, 50, 0, 5)],
)
def test_few_marked_regions_are_repeated(n_marked, n_tiles, n_marked_tiles, n_repeats):
    marked = [region(str(i)) for i in range(n_marked)]
    assert repeated(marked, n_tiles, n_marked_tiles) == marked * n_repeats


@pytest.mark.parametrize(
    ("steps", "kind", "evidence", "n_vectors", "parts"),
    [
        (5, OutcomeKind.DONE, "likelihood+memory", 9, {"flow", "memory"}),
        (5, OutcomeKind.NOTHING_LEARNED, "likelihood+memory", 9, {"memory"}),
        (5, OutcomeKind.NOTHING_LEARNED, "likelihood", 9, set()),
        (0, OutcomeKind.DONE, "memory", 9, {"memory"}),
        (0, OutcomeKind.DONE, "memory", 0, set()),
        (0, OutcomeKind.DONE, "likelihood", 9, set()),
    ],
)
def test_what_a_refinement_learned(tiny_model, steps, kind, evidence, n_vectors, parts):
    model = replace(
        tiny_model,
        config=tiny_model.config.replace(evidence=evidence),
        training=TrainingConfig(steps=steps),
        record=TrainingRecord(outcome=TrainingOutcome(kind)),
        state={"memory.vectors": torch.zeros(n_vectors, 3)},
    )
    assert learned_by(model) == parts


@pytest.mark.parametrize("record", [TrainingRecord(specimens=("a", "b")), TrainingRecord(holdout_specimens=("a",))])
def test_a_training_is_resumed_with_one_of_its_specimens_at_least(tiny_model, record):
    model = replace(tiny_model, record=record)
    check_same_specimens(model, [region("a"), region("new")])
    with pytest.raises(ImageError, match="'a'"):
        check_same_specimens(model, [region("new")])


def test_a_training_is_resumed_under_the_names_that_its_specimens_have(tiny_model):
    model = replace(tiny_model, record=TrainingRecord(specimens=("mouse/s1", "rat/s1")))
    of_mouse = NormalRegion(Plane(data=np.zeros((8, 8)), name="s1", source="/data/mouse/s1.tif"))
    check_same_specimens(model, [of_mouse])
    with pytest.raises(ImageError, match="'mouse/s1'"):
        check_same_specimens(model, [NormalRegion(replace(of_mouse.plane, source="/data/cat/s1.tif"))])


def test_a_training_with_a_pattern_is_resumed(tiny_model):
    training = tiny_model.training.replace(specimen_pattern=r"^(m\d)")
    model = replace(tiny_model, training=training, record=TrainingRecord(specimens=("m1",)))
    check_same_specimens(model, [region("m1_k1"), region("other")])
    with pytest.raises(ImageError, match="'m1'"):
        check_same_specimens(model, [region("m2_k1"), region("other")])


def test_a_training_is_resumed_with_all_of_its_images_and_no_others(tiny_model):
    record = TrainingRecord(n_images=2, image_names=("a", "b"))
    model = replace(tiny_model, record=record)
    a, b, c = region("a"), region("b"), region("c")
    check_same_images(model, [b, a, a])  # in any order, repeated or not
    for regions, said in (([a], "2 images, but 1 are given.*'b'"), ([a, c], "'b'"), ([a, b, c], "'c'"), ([], "'a'")):
        with pytest.raises(ImageError, match=said):
            check_same_images(model, regions)
    many = replace(tiny_model, record=replace(record, n_images=3))  # a record names some of thousands
    check_same_images(many, [a, b, c])
    with pytest.raises(ImageError, match="3 images, but 2"):
        check_same_images(many, [a, b])
