"""Drift of a model's images: what counts, what does not, and what becomes of the guarantee."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig, TrainingConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import Caveat, Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.evaluation.drift import DriftWatch
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import TrainingRecord
from napari_uflow.nfa.calibrated import Calibration, CalibrationImage
from napari_uflow.progress import drain

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")
MOVED = 5.0


def model(n_held_out=20, pattern="", specimens=(), conditions=None):
    """A model with no more than the test needs."""
    values = np.random.default_rng(0).normal(size=(2, n_held_out))
    return SimpleNamespace(
        calibration=SimpleNamespace(held_out_profiles=tuple(map(tuple, values)), conditions=conditions or {}),
        record=TrainingRecord(specimens=tuple(specimens)),
        training=TrainingConfig(specimen_pattern=pattern),
    )


def image(seed, name=None, source=None, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8))
    return Plane(data=pixels, name=name or f"image {seed}", source=source, **options)


def found(plane, moved=0.0, caveats=()):
    """A detection whose statistics are those of the held-out specimens, or have moved."""
    maps = np.zeros(plane.shape, np.float32)
    rng = np.random.default_rng(int(np.asarray(plane.data).astype(np.int64).sum()))
    return Detection(
        name=plane.title,
        score=maps,
        log10_nfa=maps,
        labels=maps.astype(np.int32),
        regions=RegionTable.measure(maps.astype(np.int32), maps, maps),
        energies=(),
        strides=(),
        config=DetectionConfig(),
        guarantee=Guarantee(false_alarms=1.0, n_specimens=20, caveats=caveats),
        profile=(float(rng.normal() + moved), float(rng.normal())),
    )


def observe(watch, *planes, moved=0.0, **options):
    return watch.observe(planes, [found(plane, moved, **options) for plane in planes])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_images_like_the_held_out_ones(path):
    watch = DriftWatch(model(), path)
    for seed in range(15):
        (detection,), messages = observe(watch, image(seed))
        assert not messages
        assert detection.guarantee.holds
    state = watch.state
    assert len(state.images) == len(state.log10_evidence) == state.n_logged == 15
    assert not state.since
    (sentence,) = state.sentences()
    assert sentence.startswith("No drift: 15 new specimens compared with 20 held-out ones, evidence ")


def test_drift_withdraws_the_guarantee_and_says_so_once(path):
    watch = DriftWatch(model(), path)
    for seed in range(10):
        observe(watch, image(seed))
    told, results = [], []
    for seed in range(10, 22):
        detections, messages = observe(watch, image(seed), moved=MOVED)
        told += messages
        results += detections
    assert len(told) == 1
    assert told[0].warning
    assert "since 'image 10' (" in told[0].text
    assert "reset the drift log" in told[0].text
    first = next(i for i, detection in enumerate(results) if not detection.guarantee.holds)
    assert first < 10
    assert all(detection.guarantee.caveats == (Caveat.DRIFT,) for detection in results[first:])
    assert "does not apply here: since 'image 10' (" in results[-1].guarantee.text()
    assert watch.state.since.startswith("'image 10' (")
    # another program, and an image that is all right
    other = DriftWatch(model(), path)
    assert other.state == watch.state
    (detection,), messages = observe(other, image(30))
    assert not detection.guarantee.holds
    assert len(messages) == 1
    assert json.loads(json.dumps(other.state.to_dict(), allow_nan=False))["has_drifted"]


def test_a_reset_begins_again(path):
    watch = DriftWatch(model(), path)
    for seed in range(12):
        observe(watch, image(seed), moved=MOVED)
    assert watch.state.since
    watch.reset()
    assert not watch.state.images
    (detection,), messages = observe(watch, image(20))
    assert detection.guarantee.holds
    assert not messages
    assert len(DriftWatch(model(), path).state.images) == 1


def test_a_model_trained_anew_begins_again(path):
    watch = DriftWatch(model(), path)
    for seed in range(12):
        observe(watch, image(seed), moved=MOVED)
    assert not DriftWatch(model(n_held_out=21), path).state.images


def test_an_image_detected_again_counts_once(path):
    for _ in range(2):
        watch = DriftWatch(model(), path)
        for _ in range(10):
            observe(watch, image(0, name="x"), moved=MOVED)
            observe(watch, image(0, name="another name"), moved=MOVED)
    assert len(watch.state.images) == 1
    assert len(watch.log_path.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("planes", "pattern", "n"),
    [
        ([image(i, f"slide_x{i:03}_y000", f"/a/slide_x{i:03}_y000.tif") for i in range(4)], "", 1),
        ([image(i, f"slide{i}", f"/a/slide{i}.tif") for i in range(4)], "", 4),
        ([image(0, "img_1", "/monday/img_1.tif"), image(1, "img_1", "/tuesday/img_1.tif")], "", 2),
        ([image(i, f"{i} mouse1", f"/a/{i} mouse1.tif") for i in range(4)], "(mouse[0-9])", 1),
        ([image(i, f"{i} rat", f"/a/{i} rat.tif") for i in range(4)], "(mouse[0-9])", 4),
        ([image(i, "layer") for i in range(4)], "", 4),  # arrays of the same name
    ],
)
def test_a_specimen_counts_once(path, planes, pattern, n):
    watch = DriftWatch(model(pattern=pattern), path)
    for plane in planes:
        observe(watch, plane)
    state = watch.state
    assert (len(state.images), state.n_logged) == (n, len(planes))


@pytest.mark.parametrize("source", [None, "/a/stack.tif"])
def test_the_planes_of_a_stack_are_one_specimen(path, source):
    stack = np.random.default_rng(0).integers(0, 256, (5, 8, 8))
    planes = [Plane(data=stack, axes="ZYX", index={"Z": i}, name="stack", source=source) for i in range(5)]
    watch = DriftWatch(model(), path)
    observe(watch, *planes)
    assert len(watch.state.images) == 1


def test_images_of_the_training_are_left_out(path):
    watch = DriftWatch(model(specimens=["image 0", "image 1"]), path)
    for seed in range(4):
        observe(watch, image(seed))
    state = watch.state
    assert (len(state.images), state.n_of_training) == (2, 2)
    assert "2 images left out: their names are those of specimens of the training." in state.sentences()


@pytest.mark.parametrize(("caveat", "n"), [(Caveat.PIXEL_SIZE, 0), (Caveat.TOO_SMALL, 0), (Caveat.BRIGHTNESS, 1)])
def test_images_that_are_known_to_be_others_are_left_out(path, caveat, n):
    watch = DriftWatch(model(), path)
    observe(watch, image(0), caveats=(caveat,))
    assert len(watch.state.images) == n


def test_a_view_is_told_of_drift_but_not_logged(path):
    watch = DriftWatch(model(), path)
    for seed in range(12):
        observe(watch, image(seed), moved=MOVED)
    n = watch.state.n_logged
    (detection,), _ = DriftWatch(model(), path).withdraw([found(image(20))])
    assert not detection.guarantee.holds
    assert watch.state.n_logged == n


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    watch = DriftWatch(model(), tmp_path / "not there" / "model.safetensors")
    (detection,), (message,) = observe(watch, image(0))
    assert detection.guarantee.holds
    assert message.warning
    assert "cannot be written" in message.text
    assert not observe(watch, image(1))[1]
    for seed in range(2, 14):  # this program still notices
        (detection,), _ = observe(watch, image(seed), moved=MOVED)
    assert not detection.guarantee.holds


def test_an_image_that_is_gone_after_its_detection_keeps_its_result(path):
    class Gone:
        shape, dtype = (8, 8), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise FileNotFoundError("gone")

    plane = Plane(data=Gone(), name="gone")
    watch = DriftWatch(model(), path)
    detections, (message,) = watch.observe([plane], [found(image(0))])
    assert len(detections) == 1
    assert message.warning


@pytest.mark.parametrize(
    ("n_held_out", "sentence"),
    [
        (0, "Drift is not tested: the model has no statistics of held-out images; train it again."),
        (2, "Drift is not tested: 2 specimens held out, but 3 are needed."),
    ],
)
def test_a_model_that_cannot_be_tested(path, n_held_out, sentence):
    watch = DriftWatch(model(n_held_out), path)
    assert observe(watch, image(0))[1] == []
    assert not watch.log_path.exists()
    assert watch.state.sentences() == [sentence]


def test_several_conditions_are_not_tested(path):
    watch = DriftWatch(model(5, conditions={"A": None, "B": None}), path)
    assert observe(watch, image(0))[1] == []
    assert not watch.log_path.exists()
    assert watch.state.sentences() == ["Drift is not tested for a model with several conditions."]


def test_damaged_lines_are_reported(path):
    watch = DriftWatch(model(), path)
    observe(watch, image(0))
    with open(watch.log_path, "a", encoding="utf-8") as file:
        file.write("damaged\n")
    assert watch.state.sentences()[-1] == "1 line of the drift log skipped: damaged, or of another program."


def test_the_statistics_of_an_image_do_not_depend_on_the_accepted_false_alarms(tiny_model, odd_plane):
    accepted = [
        detect(tiny_model, odd_plane, DetectionConfig(false_alarms=e), device=DEVICE).profile for e in (0.1, 10.0)
    ]
    assert accepted[0] == accepted[1]
    assert len(accepted[0]) == 2
    assert detect(tiny_model, odd_plane, DetectionConfig(nfa="paper"), device=DEVICE).profile == ()


def test_a_held_out_image_has_the_statistics_of_its_calibration(tiny_model, normal_planes):
    (held_out,) = tiny_model.record.holdout_specimens
    (plane,) = [plane for plane in normal_planes if NormalRegion(plane).specimen == held_out]
    network = tiny_model.network(DEVICE)
    with network.remembering_others(held_out):
        profile = detect(tiny_model, plane, network=network).profile
    ((expected,), (extent,)) = tiny_model.calibration.held_out_profiles
    assert profile == pytest.approx((expected, extent), abs=0.02)


def drifting(rng, moved):
    return CalibrationImage(str(rng.integers(1e9)), (rng.normal(size=(30, 30)) + 0.1 * rng.normal() + moved,))


def test_half_a_standard_deviation_of_the_positions_is_noticed_within_ten_images(path):
    rng = np.random.default_rng(3)
    fitted = drain(Calibration.fit_steps([drifting(rng, 0.0) for _ in range(12)], (8,), subtracts_median=None))
    watch = DriftWatch(replace_calibration(model(), fitted), path)
    for seed in range(10):
        (values,) = drifting(rng, 0.5).maps
        nothing = np.zeros(values.shape, dtype=bool)
        detection = replace(found(image(seed)), profile=fitted.profile_of([values], [nothing]))
        ((detection,), _) = watch.observe([image(seed)], [detection])
    assert not detection.guarantee.holds


def replace_calibration(of, calibration):
    return SimpleNamespace(**{**vars(of), "calibration": calibration})
