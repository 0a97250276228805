"""The script that repeats a detection, and the paragraph that describes it."""

import csv
import runpy
from dataclasses import replace

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect, resegment
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.detection.stack import detect_stack
from napari_uflow.evaluation.methods import REFERENCE, methods_text, python_script
from napari_uflow.evaluation.pod import PodRecord, fit_pod
from napari_uflow.evaluation.sensitivity import Sensitivity
from napari_uflow.image.plane import Plane
from napari_uflow.model.record import TrainingRecord
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff


@pytest.fixture(scope="module")
def image(odd_plane, tmp_path_factory):
    path = tmp_path_factory.mktemp("image's") / 'odd "one".tif'
    pixels = odd_plane.read()[0]
    write_tiff(path, np.stack([pixels, pixels[::-1]]).astype(np.uint8), "ZYX", pixel_size=(0.5, 0.5), unit="um")
    return path


def run(script, folder, monkeypatch):
    """Run a script in a folder and return its names."""
    monkeypatch.chdir(folder)
    (folder / "script.py").write_text(script, encoding="utf-8")
    return runpy.run_path("script.py")


def test_the_script_repeats_the_detection(tiny_model, tiny_model_file, image, tmp_path, monkeypatch, capsys):
    config = DetectionConfig(false_alarms=0.25, nfa="paper", tile=128)
    found = detect(tiny_model, read_planes(image)[1], config)
    script = python_script(found, tiny_model_file, positions=[1])
    assert "DetectionConfig(false_alarms=0.25, nfa='paper', tile=128)" in script
    names = run(script, tmp_path, monkeypatch)
    (again,) = names["detections"]
    np.testing.assert_array_equal(again.labels, found.labels)
    np.testing.assert_array_equal(again.log10_nfa, found.log10_nfa)
    with open(tmp_path / "regions.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(found.regions)
    assert found.guarantee.text() in capsys.readouterr().out


def test_the_script_repeats_another_threshold_and_all_planes(tiny_model, tiny_model_file, image, tmp_path, monkeypatch):
    found = resegment(detect(tiny_model, read_planes(image)[0]), 1e-3)
    script = python_script(found, tiny_model_file, channels=[0], axes="ZYX")
    assert "DetectionConfig(false_alarms=0.001)" in script
    again = run(script, tmp_path, monkeypatch)["detections"]
    assert len(again) == 2
    np.testing.assert_array_equal(again[0].labels, found.labels)


def test_the_script_shares_the_false_alarms_of_a_stack(tiny_model, tiny_model_file, image, tmp_path, monkeypatch):
    found = detect_stack(tiny_model, read_planes(image), DetectionConfig(false_alarms_per="stack"))
    again = run(python_script(found[0], tiny_model_file), tmp_path, monkeypatch)["detections"]
    for one, other in zip(again, found, strict=True):
        np.testing.assert_array_equal(one.log10_nfa, other.log10_nfa)
        assert one.guarantee == other.guarantee
    assert "in a normal stack of 2 images" in methods_text(tiny_model, found[0])


def test_a_script_for_a_stack_names_the_stack(tiny_model, image):
    found = detect_stack(tiny_model, read_planes(image))
    for plane in found:
        assert python_script(plane).splitlines()[0].startswith('"""Detect anomalies as in odd \'one\'.tif with')
        assert "z=" not in python_script(plane)
    assert python_script(found[1], positions=[1]).startswith('"""Detect anomalies as in plane 1 of odd')
    assert python_script(found[1], positions=[0, 1]).startswith('"""Detect anomalies as in planes [0, 1] of odd')
    unsaved = replace(found[1], provenance=replace(found[1].provenance, source=None))
    assert unsaved.name.endswith(" z=1")
    assert python_script(unsaved).startswith(
        f'"""Detect anomalies as in {unsaved.name[:-4].replace(chr(34), chr(39))} with'
    )


def test_the_paragraph_describes_all_planes_of_a_stack(tiny_model, image):
    found = detect_stack(tiny_model, read_planes(image))
    dark = replace(found[1].guarantee, caveats=(Caveat.BRIGHTNESS,))
    bright = replace(found[0].guarantee, caveats=())
    planes = [
        replace(found[0], guarantee=bright, n_marked_normal=1),
        replace(found[1], guarantee=dark, n_marked_normal=2),
    ]
    text = methods_text(tiny_model, planes)
    assert "The 2 planes were examined one by one." in text
    assert "3 reported regions were judged normal by eye" in text
    assert text.count(f"{bright.details()} (1 plane); {dark.details()} (1 plane).") == 1
    same = methods_text(tiny_model, [replace(plane, guarantee=bright) for plane in found])
    assert f"Reliability of this threshold: {bright.details()}." in same
    assert "planes" not in methods_text(tiny_model, found[0])


def test_what_was_never_saved_is_said(tiny_model, odd_plane, tmp_path, monkeypatch):
    found = replace(detect(tiny_model, odd_plane), name='no """ harm\nin a \\ name')
    script = python_script(found, positions=range(3, 8))
    compile(script, "script.py", "exec")
    assert "The model was not saved" in script
    assert "The image was not opened from a file" in script
    assert "DetectionConfig()" in script
    assert "range(3, 8)" in script
    assert "[1, 5]" in python_script(found, positions=[1, 5])


def test_the_paragraph_says_what_a_reader_asks(tiny_model, odd_plane):
    found = detect(tiny_model, odd_plane, DetectionConfig(false_alarms=0.5))
    text = methods_text(tiny_model, found)
    assert "doi.org/10.1007/s10851-024-01193-y" in text
    for part in (
        "napari-uflow 0.",
        "wavelet scattering transform",
        "The model was made from 3 normal images of 3 independent specimens, and trained on ",
        "64 × 64 pixels",
        "1 specimen of them",
        "was held out of training",
        "for 4 steps",
        "at most 0.5. The NFA",
        found.guarantee.text(),
        "torch ",
        "FrEIA ",
        "python 3.",
    ):
        assert part in text, part
    assert "  " not in text
    assert text.count("\n\n") == 1


def test_the_paragraph_says_that_nothing_was_held_out(tiny_model, odd_plane):
    found = detect(tiny_model, odd_plane, DetectionConfig(false_alarms=0.01))
    several, alone = (replace(found, guarantee=replace(found.guarantee, n_specimens=n)) for n in (4, 0))
    assert "extrapolated from the scores of specimens held out of training" in methods_text(tiny_model, several)
    text = methods_text(tiny_model, alone)
    assert "extrapolated from the scores of a single specimen or of the training images" in text
    assert "scores of specimens held out" not in text


def test_the_paragraph_describes_either_kind_of_levels(tiny_model, tiny_pyramid):
    joint, pyramid = methods_text(tiny_model), methods_text(tiny_pyramid)
    n = len(tiny_model.state["memory.vectors"])
    assert "joined over all of its scales every 8 pixels" in joint
    assert "the mean of its likelihood under a normalizing flow" in joint
    assert f", and its distance from the nearest of {n} normal positions," in joint
    assert "Total Recall" in joint
    assert "the flow had 2 coupling blocks." in joint
    assert "U-shaped normalizing flow" not in joint
    assert "a U-shaped normalizing flow" in pyramid
    assert "the flow had 2 coupling blocks at each scale." in pyramid
    assert "Total Recall" not in pyramid


def test_the_paragraph_describes_the_evidence(tiny_model):
    def text(evidence, **options):
        return methods_text(replace(tiny_model, config=tiny_model.config.replace(evidence=evidence), **options))

    assert "nearest of" not in text("likelihood")
    assert "Total Recall" not in text("likelihood")
    assert "likelihood" not in text("memory")
    nothing = {**tiny_model.state, "memory.vectors": tiny_model.state["memory.vectors"][:0]}
    assert "scored by its likelihood" in text("memory", state=nothing)
    instant = {"training": tiny_model.training.replace(steps=0), "history": ()}
    untrained = text("likelihood+memory", **instant)
    assert "Gaussian of the features of normal images (a normalizing flow that was not trained)" in untrained
    assert "coupling block" not in untrained
    assert "Gaussian" not in text("memory", **instant)


def test_the_paragraph_describes_a_model_alone_and_one_of_unknown_origin(tiny_model):
    assert "false alarms" not in methods_text(tiny_model)
    bare = methods_text(replace(tiny_model, record=TrainingRecord(), history=()))
    assert bare.endswith(REFERENCE + "\n")
    assert "trained on" not in bare


def test_the_paragraph_knows_other_ways_to_train_and_detect(tiny_model, odd_plane):
    one = ("a",)
    one_specimen = replace(tiny_model.record, specimens=one, holdout_specimens=one, pixel_size=(0.5, 0.5), unit="um")
    text = methods_text(replace(tiny_model, record=one_specimen))
    assert "1 independent specimen," in text
    assert "of the same specimen were held out" in text
    assert "A pixel was 0.5 µm." in text
    text = methods_text(replace(tiny_model, record=replace(tiny_model.record, holdout_specimens=(), n_holdout_tiles=0)))
    assert "nothing was held out" in text
    plane = Plane(data=np.asarray(odd_plane.data)[:64, :64], name="small")
    text = methods_text(tiny_model, detect(tiny_model, plane, DetectionConfig(nfa="binomial")))
    assert "by a binomial test." in text


def test_the_paragraph_tells_what_was_found_of_planted_defects(tiny_model):
    records = tuple(PodRecord("blob", float(size), 0.2, bool(size > 12)) for size in np.geomspace(4, 64, 30))
    sensitivity = Sensitivity(
        false_alarms=0.5, n_images=9, n_specimens=3, seed=0, records=records, curves=fit_pod(records)
    )
    text = methods_text(tiny_model, sensitivity=sensitivity)
    assert " At 0.5 accepted false alarms per image, 18 of 30 planted defects of 4 to 64 px were found. " in text
    assert "they are not real" in text
