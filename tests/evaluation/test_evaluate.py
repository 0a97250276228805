"""Evaluation: finding images with their truth, and comparing."""

import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, ImageError, Stopped
from napari_uflow.evaluation.evaluate import evaluate_steps, find_test_images
from napari_uflow.progress import Message, Progress, drain
from napari_uflow.store.tiff_writer import write_tiff

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def image(shape=(48, 64), seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    """One normal image, one with a mask, one anomalous without a mask."""
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:40] = 255
    save(tmp_path / "test" / "good" / "a.png", image(seed=0))
    save(tmp_path / "test" / "hole" / "b.png", image(seed=1))
    save(tmp_path / "test" / "hole" / "c.png", image(seed=2))
    save(tmp_path / "ground_truth" / "hole" / "b_mask.png", mask)
    return tmp_path


# Finding


def test_images_are_found_with_their_truth(data):
    good, masked, bare = find_test_images(data)
    assert [p.kind for p in (good, masked, bare)] == ["good", "hole", "hole"]
    assert [p.plane.name for p in (good, masked, bare)] == ["a", "b", "c"]
    assert [p.is_anomalous for p in (good, masked, bare)] == [False, True, True]
    assert masked.mask().sum() == 100
    assert masked.mask()[10:20, 30:40].all()
    assert good.truth is None
    assert bare.truth is None
    assert not good.mask().any()
    assert good.mask().shape == (48, 64)


@pytest.mark.parametrize("ending", [".png", ".tif", "_mask.tif", "_mask.tiff", "_mask.PNG", ".bmp"])
def test_masks_may_have_other_names(data, ending):
    shutil.rmtree(data / "ground_truth")
    mask = np.zeros((48, 64), np.uint8)
    mask[0, 0] = 1
    save(data / "ground_truth" / "hole" / f"c{ending}", mask)
    _, without, masked = find_test_images(data)
    assert without.truth is None
    assert masked.mask().sum() == 1


def test_a_folder_without_test_is_the_test_itself(data):
    assert [p.plane.name for p in find_test_images(data / "test")] == ["a", "b", "c"]
    assert find_test_images(data / "test")[1].mask().any()


def test_colours_can_be_chosen(data):
    shutil.rmtree(data / "test" / "hole")
    save(data / "test" / "good" / "a.png", image((48, 64, 3)))
    assert find_test_images(data, channels=[1])[0].plane.n_channels == 1


def test_a_mask_of_another_size_is_named(data):
    save(data / "ground_truth" / "hole" / "b_mask.png", np.zeros((48, 60), np.uint8))
    masked = find_test_images(data)[1]
    with pytest.raises(ImageError, match=r"b_mask.png' has 48 x 60 pixels, but its image has 48 x 64"):
        masked.mask()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_no_images_are_an_error_that_shows_the_layout(tmp_path, name):
    with pytest.raises(ImageError, match="it must contain test/good, test/KIND and ground_truth/KIND"):
        find_test_images(tmp_path / name)


def test_stacks_are_refused(data):
    frames = [Image.fromarray(image(seed=i)) for i in range(3)]
    frames[0].save(data / "test" / "good" / "stack.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"stack.tif' is a stack of 3 planes"):
        find_test_images(data)


def test_results_of_a_detection_are_left_out(data):
    write_tiff(
        data / "test" / "hole" / "b_heatmap.tif", image(), "YX", description={"napari_uflow": {}, "map": "heatmap"}
    )
    told = []
    assert [p.plane.name for p in find_test_images(data, report=told.append)] == ["a", "b", "c"]
    assert len(told) == 1
    assert told[0].startswith("left out: 1 result of an earlier detection, such as 'b_heatmap.tif'")
    shutil.rmtree(data / "test" / "good")
    for path in data.glob("test/*/*.png"):
        path.unlink()
    with pytest.raises(ConfigError, match="is a result of a detection"):
        find_test_images(data)


# Comparing


@pytest.fixture(scope="module")
def evaluated(tiny_model, tiny_dataset):
    images = find_test_images(tiny_dataset)
    return images, drain(evaluate_steps(tiny_model, images, DetectionConfig(), device=DEVICE))


@pytest.mark.slow
def test_numbers_of_an_evaluation(evaluated):
    images, run = evaluated
    assert [item.image for item in run.images] == images
    numbers = run.to_dict()
    assert (numbers["n_normal"], numbers["n_anomalous"]) == (2, 3)
    for name in ("image_auroc", "image_auroc_nfa", "pixel_auroc", "aupro", "iou", "oracle_iou", "region_recall"):
        assert 0 <= numbers[name] <= 1
    flagged = [item for item in run.images if item.image.kind == "good" and len(item.detection.regions)]
    assert numbers["fraction_with_false_alarm"] == len(flagged) / 2


def test_images_are_ranked_by_their_most_significant_region(evaluated):
    _, run = evaluated
    normal = [item.detection.lowest_log10_nfa for item in run.images if not item.image.is_anomalous]
    anomalous = [item.detection.lowest_log10_nfa for item in run.images if item.image.is_anomalous]
    wins = [(s < n) + (s == n) / 2 for s in anomalous for n in normal]
    assert run.image_auroc_nfa == pytest.approx(np.mean(wins))


def test_the_threshold_is_the_one_asked_for(tiny_model, tiny_dataset):
    images = find_test_images(tiny_dataset)[:2]
    run = drain(evaluate_steps(tiny_model, images, DetectionConfig(false_alarms=1e-12), device=DEVICE))
    assert all(item.detection.false_alarms == 1e-12 for item in run.images)


def test_without_a_truth_there_are_no_pixel_numbers(tiny_model, data):
    shutil.rmtree(data / "ground_truth")
    run = drain(evaluate_steps(tiny_model, find_test_images(data), DetectionConfig(), device=DEVICE))
    assert 0 <= run.evaluation.image_auroc <= 1
    assert math.isnan(run.evaluation.pixel_auroc)


def test_anomalous_images_without_a_mask_are_counted_and_named(tiny_model, data):
    save(data / "test" / "hole" / "d.png", image(seed=3))
    save(data / "ground_truth" / "hole" / "d_mask.png", np.zeros((48, 64), np.uint8))
    seen = []
    run = drain(evaluate_steps(tiny_model, find_test_images(data), DetectionConfig(), device=DEVICE), seen.append)
    assert [image.plane.name for image in run.without_mask] == ["c", "d"]
    assert run.to_dict()["n_without_mask"] == 2
    (said,) = [event.text for event in seen if isinstance(event, Message) and "mask" in event.text]
    assert said.startswith("2 of 3 anomalous images without a mask, or with an empty one (hole/c.png, hole/d.png)")


def test_a_mask_that_does_not_fit_is_known_before_the_work(tiny_model, data):
    save(data / "ground_truth" / "hole" / "b_mask.png", np.zeros((48, 60), np.uint8))
    seen = []
    with pytest.raises(ImageError, match=r"b_mask.png"):
        drain(evaluate_steps(tiny_model, find_test_images(data), DetectionConfig(), device=DEVICE), seen.append)
    assert not seen


def test_missing_pixels_do_not_break_it(tiny_model, data):
    holed = image().astype(np.float32)
    holed[:20] = np.nan
    tifffile.imwrite(data / "test" / "good" / "nan.tif", holed)
    run = drain(evaluate_steps(tiny_model, find_test_images(data), DetectionConfig(), device=DEVICE))
    assert run.evaluation.n_normal == 2
    assert 0 <= run.evaluation.pixel_auroc <= 1


@pytest.mark.slow
def test_events_and_finishing(tiny_model, data):
    images = find_test_images(data)

    def job():
        return evaluate_steps(tiny_model, images, DetectionConfig(), device=DEVICE)

    events = []
    drain(job(), events.append)
    reports = [event for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(reports)) == [Progress("Evaluating", i, 3) for i in range(4)]
    assert [event.done for event in reports] == sorted(event.done for event in reports)
    for asked_at in range(len(events) - 1):
        seen = []
        with pytest.raises(Stopped):
            drain(job(), seen.append, lambda seen=seen, asked_at=asked_at: len(seen) == asked_at + 1)


def test_messages_of_detection_are_passed_on_and_can_be_answered(tiny_model, data):
    images = find_test_images(data)
    model = replace(tiny_model, record=replace(tiny_model.record, pixel_size=(1.0, 1.0), unit="um"))
    plane = replace(images[0].plane, pixel_size=(9.0, 9.0), unit="um")
    job = evaluate_steps(model, [replace(images[0], plane=plane)], DetectionConfig(), device=DEVICE)
    seen = []
    with pytest.raises(Stopped):
        drain(job, seen.append, lambda: isinstance(seen[-1], Message))
    assert seen[-1].warning
