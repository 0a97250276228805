"""The trust report says what the held-out specimens and new normal images say, no more."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect, detect_steps
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.errors import ImageError, Stopped, UFlowError
from napari_uflow.evaluation.figures import save_figure
from napari_uflow.evaluation.pod import PodRecord, fit_pod
from napari_uflow.evaluation.sensitivity import Sensitivity
from napari_uflow.evaluation.trust import EPSILONS, trust_report, trust_steps
from napari_uflow.evaluation.trust_figure import trust_figure
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.nfa.calibrated import QQ_LEVELS, Calibration, CalibrationImage
from napari_uflow.progress import FINISH, Message, Progress, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.drift_log import DriftLog

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


def calibrated(model, strides):
    """The model, as if it had been calibrated on twelve specimens."""
    rng = np.random.default_rng(0)
    images = [
        CalibrationImage(
            f"specimen {i}",
            tuple(np.log1p(rng.normal(size=(20, 128 // s, 160 // s)) ** 2).mean(axis=0) for s in strides),
        )
        for i in range(12)
    ]
    return dataclasses.replace(model, calibration=drain(Calibration.fit_steps(images, strides)))


PYRAMID = (4, 8, 16, 4, 8, 16)
"""Strides of the maps of a pyramid."""


@pytest.fixture(scope="module")
def model(tiny_model):
    return calibrated(tiny_model, (8,))


def new_planes(n):
    """Normal images that the model was not trained on, with the names of those that it was trained on."""
    return [Plane(data=fibre_field(100 + i, shape=(128, 128)).image, name=f"fibres {i}") for i in range(n)]


@pytest.mark.parametrize("strides", [(8,), PYRAMID])
def test_the_report_on_held_out_specimens(tiny_model, strides):
    report = trust_report(calibrated(tiny_model, strides))
    assert report.n_specimens == 12
    assert report.is_guaranteed(0.1)
    assert not report.is_guaranteed(0.05)
    assert all(observed <= max(e, 1 / 12) + 1e-9 for observed, e in zip(report.held_out, EPSILONS, strict=True))
    assert list(report.held_out) == sorted(report.held_out)
    if strides == PYRAMID:
        assert report.map_names[0] == "energy, stride 4"
        assert report.map_names[-1] == "log-variance, stride 16"
    else:
        assert report.map_names == ("evidence, stride 8",)
    observed = np.array(report.observed)
    assert observed.shape == (len(strides), len(QQ_LEVELS))
    np.testing.assert_allclose(observed[0, :6], QQ_LEVELS[:6], atol=0.1)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["n_held_out_specimens"] == 12


@pytest.mark.slow
def test_new_images_are_counted(model, normal_planes, odd_plane):
    planes = [*(dataclasses.replace(plane, data=plane.data[:, ::-1]) for plane in normal_planes), odd_plane]
    report = drain(trust_steps(model, planes, device=DEVICE))
    assert report.n_new == len(planes)
    assert len(report.new) == len(EPSILONS)
    for epsilon in (0.1, 1.0, 10.0):
        i = EPSILONS.index(epsilon)
        counts = [len(detect(model, plane, DetectionConfig(false_alarms=epsilon)).regions) for plane in planes]
        assert report.new[i] == pytest.approx(np.mean(counts))
        assert report.new_any[i] == pytest.approx(np.mean(np.array(counts) > 0))
    assert report.n_warned > 0  # the calibration of this model is not of these images
    table = report.as_table()
    assert len(table.splitlines()) >= len(EPSILONS) + 2
    assert "no, needs 99 specimens" in table
    assert f"12 held-out specimens, {len(planes)} new images" in table


@pytest.mark.parametrize(("caveats", "n"), [((), 0), (tuple(Caveat), 1)])
def test_images_that_the_guarantee_does_not_cover_are_counted(model, odd_plane, monkeypatch, caveats, n):
    def steps(*args, **kwargs):
        found = yield from detect_steps(*args, **kwargs)
        return dataclasses.replace(found, guarantee=dataclasses.replace(found.guarantee, caveats=caveats))

    monkeypatch.setattr("napari_uflow.evaluation.trust.detect_steps", steps)
    assert drain(trust_steps(model, [odd_plane], device=DEVICE)).n_warned == n


@pytest.mark.slow
def test_a_model_of_one_specimen_reports_what_it_can(tiny_model, tmp_path):
    report = trust_report(tiny_model)
    assert report.n_specimens == 0
    assert all(math.isnan(x) for x in report.held_out)
    assert "no, needs 3 specimens" in report.as_table()
    save_figure(trust_figure(report), tmp_path / "trust.png")
    assert (tmp_path / "trust.png").stat().st_size > 10_000


def test_the_figure_has_a_line_for_everything(model, normal_planes):
    report = drain(trust_steps(model, [*new_planes(1), normal_planes[0]], device=DEVICE))
    alarms, tails = trust_figure(report, title="a model").axes
    labels = alarms.get_legend_handles_labels()[1]
    assert labels == [
        "accepted = observed",
        "not guaranteed: 12 held-out specimens",
        "held-out specimens, tails alone",
        "held-out specimens, as guaranteed",
        "1 new normal image (1 of the training left out)",
    ]
    assert tails.get_legend_handles_labels()[1] == ["expected = observed", *report.map_names]


def test_without_calibration_there_is_nothing_to_report(tiny_model):
    with pytest.raises(ImageError, match="no calibration"):
        trust_report(dataclasses.replace(tiny_model, calibration=None))


def test_images_of_the_training_are_left_out(model, normal_planes):
    planes = new_planes(1)
    events = []
    expected = drain(trust_steps(model, planes, device=DEVICE))
    report = drain(trust_steps(model, [*planes, *normal_planes], device=DEVICE), events.append)
    assert dataclasses.replace(report, n_of_training=0) == expected
    assert report.n_of_training == len(normal_planes)
    assert "3 of 4 images had a part in the training" in events[0].text
    assert "left out: 3 images of the training" in report.as_table()
    assert report.to_dict()["n_images_of_training_left_out"] == 3
    nothing = drain(trust_steps(model, normal_planes, device=DEVICE))
    assert (nothing.n_new, nothing.n_of_training, nothing.new) == (0, 3, ())


def test_it_can_be_stopped(model):
    steps = trust_steps(model, new_planes(3), device=DEVICE)
    next(steps)
    with pytest.raises(Stopped):
        steps.send(FINISH)


def planted():
    records = tuple(PodRecord("blob", float(size), 0.2, bool(size > 12)) for size in np.geomspace(4, 64, 30))
    records += tuple(PodRecord("patch", float(size), None, False) for size in np.geomspace(4, 64, 30))
    return Sensitivity(
        false_alarms=1.0, n_images=9, n_specimens=3, seed=0, records=records, curves=fit_pod(records, contrast=0.2)
    )


def test_planted_defects_are_shown(model):
    report = dataclasses.replace(trust_report(model), sensitivity=planted())
    for upright in (False, True):
        *_, pod = trust_figure(report, upright=upright).axes
        assert pod.get_title() == "Planted defects found at 1 accepted false alarm"
        labels = pod.get_legend_handles_labels()[1]
        assert labels == ["all, 18 of 60", "blob, 18 of 30 (at 20 % contrast)", "patch, 0 of 30"]
    assert report.as_table().endswith("\n".join(planted().sentences()))
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert Sensitivity.from_dict(values["sensitivity"]) == planted()
    assert trust_report(model).to_dict()["sensitivity"] is None


@pytest.mark.slow
def test_defects_are_planted_into_images_not_trained_on(model, normal_planes, odd_plane):
    regions = [NormalRegion(plane) for plane in (*normal_planes, odd_plane)]
    report = drain(trust_steps(model, [], planted_into=regions, n_planted=3, device=DEVICE))
    assert report.n_new == 0
    assert len(report.sensitivity.records) == 3
    assert report.sensitivity.n_specimens == 2  # the held-out one, and the odd one
    assert drain(trust_steps(model, [], planted_into=regions, n_planted=0, device=DEVICE)).sensitivity is None


def test_what_cannot_be_planted_leaves_the_rest_of_the_report(model, normal_planes):
    trained = [NormalRegion(plane) for plane in normal_planes if plane.name in model.record.specimens]
    events = []
    report = drain(trust_steps(model, [], planted_into=trained, device=DEVICE), events.append)
    assert report.sensitivity is None
    assert events[-1].warning
    assert "trained on all of these images" in events[-1].text

    constant = NormalRegion(dataclasses.replace(normal_planes[0], data=np.zeros((16, 16), np.uint8), name="constant"))
    report = drain(trust_steps(model, [], planted_into=[constant], n_planted=1, device=DEVICE), events.append)
    assert report.n_specimens == 12


@pytest.mark.slow
def test_stopping_while_planting_keeps_the_rest_of_the_report(model, normal_planes, odd_plane):
    phases = set()

    def hear(event):
        if isinstance(event, Progress):
            phases.add(event.phase)

    steps = trust_steps(model, [odd_plane], planted_into=[NormalRegion(odd_plane)], device=DEVICE)
    report = drain(steps, hear, lambda: "Detecting planted defects" in phases)
    assert report.n_new == 1
    assert report.sensitivity is None


def test_the_report_tells_of_drift(watched_model, log_drift, tmp_path):
    path = tmp_path / "model.safetensors"
    report = drain(trust_steps(watched_model, [], model_path=path))
    assert report.drift.sentences()[0] in report.as_table()
    assert len(trust_figure(report).axes) == 2  # no image so far
    log_drift(watched_model, path)
    report = drain(trust_steps(watched_model, [], model_path=path))
    assert "Since 'blurred 0' (" in report.as_table()
    assert report.to_dict()["drift"]["has_drifted"]
    axes = trust_figure(report).axes[2]
    assert axes.get_title() == "Drift of new images"
    assert axes.get_legend_handles_labels()[1] == [
        "drift is reported (100 to 1)",
        "evidence of drift",
        "most probable change",
    ]
    evidence = axes.lines[1].get_ydata()
    assert evidence[0] == 0
    assert evidence[-1] >= 2
    assert drain(trust_steps(watched_model, [])).drift is None


def test_a_drift_log_that_cannot_be_read_leaves_the_report(watched_model, tmp_path, monkeypatch):
    def refuse(log):
        raise UFlowError("the log cannot be read")

    monkeypatch.setattr(DriftLog, "read_new", refuse)
    events = []
    report = drain(trust_steps(watched_model, [], model_path=tmp_path / "model.safetensors"), events.append)
    assert report.drift is None
    assert [event.text for event in events if isinstance(event, Message)] == ["the log cannot be read"]
