"""Planted defects are counted as found only if a region leads to them, in images not used to fit the model."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect_steps
from napari_uflow.errors import ConfigError, ImageError, Stopped
from napari_uflow.evaluation import sensitivity as module
from napari_uflow.evaluation.pod import PodRecord, fit_pod
from napari_uflow.evaluation.sensitivity import (
    Sensitivity,
    found_labels,
    regions_not_trained_on,
    sensitivity_steps,
)
from napari_uflow.image import planting
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.nfa.conformal import ConformalOffset, HeldOutSpecimen
from napari_uflow.progress import FINISH, Message, Progress, drain
from napari_uflow.samples.fibres import fibre_field

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


def labels_of(*boxes, shape=(200, 200)):
    labels = np.zeros(shape, np.int32)
    for i, (rows, cols) in enumerate(boxes, start=1):
        labels[slice(*rows), slice(*cols)] = i
    return labels


def test_a_region_finds_what_it_touches_or_nearly_touches():
    planted = labels_of(((20, 30), (20, 30)), ((20, 30), (60, 70)), ((20, 30), (100, 110)), ((190, 200), (190, 200)))
    reported = labels_of(((25, 28), (25, 28)), ((25, 28), (73, 80)), ((25, 28), (115, 120)), ((180, 188), (188, 195)))
    assert found_labels(planted, reported) == {1, 2, 4}  # the third is 6 pixels away
    assert found_labels(planted, reported, finest=1) == {1}
    assert found_labels(planted, np.zeros_like(planted)) == frozenset()
    assert found_labels(np.zeros_like(planted), reported) == frozenset()


def test_a_region_that_covers_the_image_finds_nothing():
    planted = labels_of(((20, 24), (20, 24)), ((100, 160), (100, 160)))
    assert found_labels(planted, np.ones_like(planted)) == frozenset()
    half = labels_of(((0, 100), (0, 200)))  # 20000 pixels: 1250 times the first
    assert found_labels(planted, half) == frozenset()
    part = labels_of(((0, 48), (0, 48)))  # 9 positions of the coarsest map, although 144 times the first
    assert found_labels(planted, part) == {1}
    assert found_labels(planted, labels_of(((0, 48), (0, 49)))) == frozenset()
    assert found_labels(planted, labels_of(((101, 200), (101, 200)))) == {2}  # a little less than a quarter
    assert found_labels(planted, labels_of(((100, 200), (99, 200)))) == frozenset()
    with pytest.raises(ImageError, match="one shape"):
        found_labels(planted, half[:10])


def example(n=60, **kwargs):
    sizes = np.geomspace(4, 64, n)
    records = tuple(
        PodRecord(kind, float(size), contrast, bool(size > limit))
        for kind, contrast, limit in (("blob", 0.2, 12), ("patch", None, 70), ("line", 0.2, 30))
        for size in sizes[::3]
    )
    values = {"false_alarms": 1.0, "n_images": 12, "n_specimens": 3, "seed": 0, "records": records} | kwargs
    return Sensitivity(**values, curves=fit_pod(values["records"]))


def test_the_sentences():
    first, found, missed, last = example().sentences()
    assert first == "At 1 accepted false alarm per image, 17 of 60 planted defects of 4 to 58 px were found."
    assert found.startswith("Estimated sizes found in 90 % of cases: blobs of ")
    assert " px and 20 % contrast (95 % confidence: " in found
    assert "lines of " in found
    assert missed.startswith("Not found in 90 % of cases at any size planted: patches of another image (")
    assert missed.endswith(" % of those of 58 px, the largest planted).")
    assert "12 normal images of 3 specimens" in last
    assert "not real" in last
    assert example(records=()).sentences() == []
    few = example(records=(PodRecord("blob", 9.0, 0.2, True),)).sentences()
    assert few[1] == "Not found in 90 % of cases at any size planted: blobs of 20 % contrast."


@pytest.mark.parametrize("n", [60, 3])
def test_the_values_for_a_model_card(n):
    sensitivity = example(n)
    values = json.loads(json.dumps(sensitivity.to_dict(), allow_nan=False))
    again = Sensitivity.from_dict(values)
    assert again.records == sensitivity.records
    assert repr(again) == repr(sensitivity)
    for name in values:
        with pytest.raises(ConfigError, match="not as it was written"):
            Sensitivity.from_dict({key: value for key, value in values.items() if key != name})
    with pytest.raises(ConfigError, match="not as it was written"):
        Sensitivity.from_dict({**values, "records": [{"kind": "blob"}]})


def regions_of(planes):
    return [NormalRegion(plane) for plane in planes]


def test_images_of_the_training_are_left_out(tiny_model, normal_planes):
    new = NormalRegion(Plane(data=np.zeros((64, 64)), name="new"))
    marked = NormalRegion(new.plane, is_marked_normal=True)
    regions = [*regions_of(normal_planes), new, marked]
    usable = regions_not_trained_on(tiny_model, regions)
    assert {region.plane.name for region in usable} == {*tiny_model.record.holdout_specimens, "new"}
    assert marked not in usable
    trained = [plane for plane in normal_planes if plane.name in tiny_model.record.specimens]
    with pytest.raises(ImageError, match="not trained on"):
        drain(sensitivity_steps(tiny_model, regions_of(trained), DetectionConfig(), device=DEVICE))


@pytest.mark.slow
def test_end_to_end_on_fibres(tiny_model, normal_planes):
    events = []
    planes = [*normal_planes, Plane(data=fibre_field(9, shape=(120, 120)).image[:80, :80], name="small")]

    def run():
        steps = sensitivity_steps(
            tiny_model, regions_of(planes), DetectionConfig(), n_defects=10, contrasts=(0.1, 1.0), device=DEVICE
        )
        return drain(steps, events.append)

    found = run()
    assert len(found.records) == 10
    assert (found.n_images, found.n_specimens, found.false_alarms) == (2, 2, 1.0)
    small = 80 * math.sqrt(0.1 * 4 / math.pi)
    assert all(4 <= record.size_px <= 64 for record in found.records)
    assert any(record.size_px <= small for record in found.records)
    assert found.sentences()[0].startswith("At 1 accepted false alarm per image, ")
    phases = {event.phase for event in events if isinstance(event, Progress)}
    assert phases == {"Detecting in normal images", "Detecting planted defects"}
    assert run() == found


@pytest.mark.slow
def test_places_with_false_alarms_are_not_used(tiny_model, odd_plane, monkeypatch):
    """The square that no normal image has is reported in the image without defects: nothing is planted there."""
    used = []
    plant = planting.plant
    monkeypatch.setattr(
        planting, "plant", lambda *args, **kwargs: used.append(kwargs["normal"]) or plant(*args, **kwargs)
    )
    clean = drain(detect_steps(tiny_model, odd_plane, DetectionConfig(), device=DEVICE))
    assert clean.labels.any()
    drain(sensitivity_steps(tiny_model, regions_of([odd_plane]), DetectionConfig(), n_defects=4, device=DEVICE))
    assert used
    assert not any(mask[clean.labels > 0].any() for mask in used)


def test_where_nothing_can_be_planted_it_says_so(tiny_model):
    constant = Plane(data=np.full((64, 64), 100, np.uint8), name="constant")
    with pytest.raises(ImageError, match="no defect could be planted"):
        drain(
            sensitivity_steps(
                tiny_model,
                regions_of([constant]),
                DetectionConfig(),
                n_defects=3,
                kinds=("blurred",),
                device=DEVICE,
            )
        )
    for numbers in ({"n_defects": 0}, {"n_images": 0}):
        with pytest.raises(ConfigError, match="1 or more"):
            drain(sensitivity_steps(tiny_model, regions_of([constant]), DetectionConfig(), **numbers))


@pytest.mark.slow
def test_large_images_are_tested_in_parts_as_strictly_as_whole(tiny_model, monkeypatch):
    rows = np.tile(fibre_field(5, shape=(256, 256)).image, (3, 4))
    configs, shapes = [], []

    def steps(model, plane, config, **kwargs):
        configs.append(config)
        shapes.append(plane.shape)
        return detect_steps(model, plane, config, **kwargs)

    monkeypatch.setattr(module, "detect_steps", steps)
    region = NormalRegion(Plane(data=rows, name="large"))
    job = sensitivity_steps(tiny_model, [region], DetectionConfig(), n_defects=2, n_images=1, device=DEVICE)
    assert len(drain(job).records) == 2
    assert set(shapes) == {(512, 512)}
    assert all(c.calibration == "conformal" and c.false_alarms == pytest.approx(1 / 3) for c in configs)


@pytest.mark.parametrize(
    ("area", "calibration", "expected"),
    [
        (50.0, "conformal", 1 / 4),  # 2 of 8 areas
        (200.0, "conformal", 1 / 2),  # less than an area, of 2
        (500.0, "tails", 1.0),
        (500.0, "none", 1 / 4),  # the tests of pixels
    ],
)
def test_a_part_is_tested_as_strictly_as_the_whole_image(tiny_model, area, calibration, expected):
    offset = ConformalOffset(tuple(HeldOutSpecimen(str(i), ((-1.0,),), (area,)) for i in range(9)))
    model = dataclasses.replace(tiny_model, calibration=dataclasses.replace(tiny_model.calibration, offset=offset))
    plane = Plane(data=np.zeros((10, 10)))
    values, free = plane.read(), np.ones((10, 10), bool)
    part = module._Part(plane=plane, values=values, dtype=np.dtype(float), free=free, specimen="", n_pixels=400)
    config = DetectionConfig(false_alarms=0.1, calibration=calibration)
    strict = module._config_of_part(model, config, part)
    assert strict.false_alarms == pytest.approx(0.1 * expected)
    assert strict.replace(false_alarms=0.1) == config
    whole = dataclasses.replace(part, n_pixels=100)
    assert module._config_of_part(model, config, whole) == config


def test_it_can_be_stopped_and_is_quiet(tiny_model, normal_planes):
    steps = sensitivity_steps(tiny_model, regions_of(normal_planes), DetectionConfig(), device=DEVICE)
    next(steps)
    with pytest.raises(Stopped):
        steps.send(FINISH)

    def noisy():
        yield Message("odd", warning=True)
        answer = yield Progress("a", 0, 1)
        return answer

    quiet = module._without_messages(noisy())
    assert next(quiet) == Progress("a", 0, 1)
    with pytest.raises(StopIteration) as stop:
        quiet.send(FINISH)
    assert stop.value.value is FINISH
