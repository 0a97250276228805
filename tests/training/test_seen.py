"""Images of a training are known again by their pixels, whatever their names."""

from dataclasses import replace

import numpy as np
import pytest

from napari_uflow.image.plane import Plane
from napari_uflow.model.record import TrainingRecord
from napari_uflow.training.seen import mark_of, planes_of_training


def plane(seed=0, shape=(90, 100), **options) -> Plane:
    data = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Plane(data=data, **{"name": f"image {seed}", **options})


@pytest.mark.parametrize("shape", [(1, 2), (3, 200), (64, 64), (65, 63), (300, 301)])
def test_an_image_is_known_by_its_pixels(shape):
    assert mark_of(plane(shape=shape)) == mark_of(plane(shape=shape, name="another name", pixel_size=(2, 2), unit="um"))
    assert mark_of(plane(shape=shape)) != mark_of(plane(1, shape, name="image 0"))
    assert mark_of(plane(shape=shape)) != mark_of(plane(shape=shape[::-1])) or shape[0] == shape[1]


def test_one_value_everywhere_is_no_sign():
    black = np.zeros((80, 80), np.uint8)
    assert mark_of(Plane(data=black, name="a")) != mark_of(Plane(data=black, name="b"))
    assert mark_of(Plane(data=black, name="a")) == mark_of(Plane(data=black.copy(), name="a"))


def test_missing_pixels_do_not_matter():
    data = np.where(np.eye(70) > 0, np.nan, 1.5).astype(np.float32)
    assert mark_of(Plane(data=data, name="a")) == mark_of(Plane(data=data.copy(), name="b"))


def test_names_count_for_a_model_without_marks():
    record = TrainingRecord(specimens=("image 0",), holdout_specimens=("image 1",))
    planes = [plane(0), plane(1), plane(2), plane(3, name="image 0")]
    assert planes_of_training(planes, record) == [planes[0], planes[1], planes[3]]
    record = replace(record, image_marks=tuple(map(mark_of, planes[:2])))
    assert planes_of_training(planes, record) == planes[:2]


def test_a_training_marks_all_of_its_images(tiny_model, normal_planes):
    assert planes_of_training([*normal_planes, plane()], tiny_model.record) == normal_planes
