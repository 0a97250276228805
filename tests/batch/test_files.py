"""Many files: one that fails does not stop the rest, and what is written can be opened again."""

import csv
import json
import os

import numpy as np
import pytest
import tifffile

from napari_uflow.batch.files import PHASE, detect_files_steps
from napari_uflow.batch.output import overview_row
from napari_uflow.config import DetectionConfig
from napari_uflow.detection.detect import detect
from napari_uflow.detection.guarantee import Caveat
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.evaluation.drift import DriftWatch
from napari_uflow.image.plane import Plane
from napari_uflow.progress import Message, Progress, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.system import scratch

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")


def odd(seed=0, shape=(112, 128)):
    """Fibres with two squares of noise."""
    image = fibre_field(seed, shape=shape).image.copy()
    rng = np.random.default_rng(seed)
    for rows, cols in ((slice(0, 40), slice(0, 40)), (slice(64, 104), slice(72, 112))):
        image[rows, cols] = rng.integers(0, 256, (40, 40))
    return image


def run(model, paths, output, events=None, **options):
    on_event = None if events is None else events.append
    return drain(detect_files_steps(model, paths, output, DetectionConfig(), device=DEVICE, **options), on_event)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_one_image(tiny_model, tmp_path):
    path = tmp_path / "odd.tif"
    write_tiff(path, odd(), "YX", pixel_size=(0.5, 0.25), unit="um")
    summary = run(tiny_model, [path], tmp_path / "a" / "b")
    found = detect(tiny_model, read_planes(path)[0], device=DEVICE)
    names = {p.name for p in (tmp_path / "a" / "b").iterdir()}
    maps = {"odd_heatmap.tif", "odd_log10_nfa.tif", "odd_labels.tif"}
    assert names == maps | {"regions.csv", "summary.csv", "overview.png"}
    for name, expected in (("heatmap", found.score), ("log10_nfa", found.log10_nfa), ("labels", found.labels)):
        (plane,) = read_planes(tmp_path / "a" / "b" / f"odd_{name}.tif")
        np.testing.assert_array_equal(plane.read()[0], expected)
        assert plane.pixel_size == pytest.approx((0.5, 0.25))
        assert plane.unit == "um"
    rows = table(tmp_path / "a" / "b" / "regions.csv")
    assert [int(row["label"]) for row in rows] == found.regions.label.tolist()
    assert {row["plane"] for row in rows} == {"odd"}
    assert {row["area_unit"] for row in rows} == {"um^2"}
    assert summary.done == (path,)
    assert summary.failed == ()
    assert (summary.n_planes, summary.n_anomalous_planes, summary.n_regions) == (1, 1, len(rows))
    assert not summary.was_stopped
    with tifffile.TiffFile(tmp_path / "a" / "b" / "odd_heatmap.tif") as file:
        info = json.loads(file.imagej_metadata["Info"])
    assert info["napari_uflow"]["detection"] == DetectionConfig().to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [2**27, 1e5])
def test_a_stack_keeps_its_axes_and_has_unique_labels(tiny_model, tmp_path, monkeypatch, n_bytes):
    monkeypatch.setattr(scratch, "LARGE", n_bytes)  # in memory, and in a file
    path = tmp_path / "stack.tif"
    stack = np.stack([odd(seed) for seed in range(4)]).reshape(2, 2, 112, 128)
    write_tiff(path, stack, "TZYX", pixel_size=(0.5, 0.5), unit="um")
    summary = run(tiny_model, [path], tmp_path)
    with tifffile.TiffFile(tmp_path / "stack_labels.tif") as file:
        assert file.series[0].axes == "TZYX"
        labels = file.asarray()
    assert labels.shape == stack.shape
    per_plane = [set(np.unique(plane)) - {0} for plane in labels.reshape(4, 112, 128)]
    together = [label for plane in per_plane for label in sorted(plane)]
    assert sum(len(plane) > 0 for plane in per_plane) >= 2
    assert together == list(range(1, summary.n_regions + 1))  # none twice, none missing
    rows = table(tmp_path / "regions.csv")
    assert [int(row["label"]) for row in rows] == together
    for row in rows:
        t, z = (int(part[2:]) for part in row["plane"].removeprefix("stack ").split(","))
        assert (labels[t, z] == int(row["label"])).sum() == int(row["area_px"])
    assert read_planes(tmp_path / "stack_heatmap.tif")[0].pixel_size == pytest.approx((0.5, 0.5))
    assert (summary.n_planes, len(summary.done)) == (4, 1)
    assert summary.n_regions_by_file == (len(rows),)


@pytest.mark.slow
def test_the_planes_of_a_file_share_the_false_alarms_where_they_are_counted_per_stack(tiny_model, tmp_path):
    path = tmp_path / "stack.tif"
    write_tiff(path, np.stack([odd(seed) for seed in range(4)]), "ZYX")
    labels, guarantees = {}, {}
    for name, config in (
        ("shared", DetectionConfig(false_alarms=1e-3, false_alarms_per="stack")),
        ("quarter", DetectionConfig(false_alarms=2.5e-4)),
        ("each", DetectionConfig(false_alarms=1e-3)),
    ):
        guarantees[name] = drain(detect_files_steps(tiny_model, [path], tmp_path / name, config)).guarantees
        labels[name] = tifffile.imread(tmp_path / name / "stack_labels.tif")
    np.testing.assert_array_equal(labels["shared"], labels["quarter"])
    assert labels["shared"].any()
    assert [guarantee.n_images for guarantee in guarantees["shared"]] == [4]
    assert [guarantee.n_images for guarantee in guarantees["each"]] == [1]
    shared, each = (float(table(tmp_path / name / "regions.csv")[0]["log10_nfa"]) for name in ("shared", "each"))
    assert shared == pytest.approx(each + np.log10(4), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["text", "cut", "cut inside", "empty", "two channels", "missing"])
def test_one_damaged_file_does_not_stop_the_rest(tiny_model, tmp_path, damage):
    paths = [tmp_path / f"{name}.tif" for name in "abc"]
    for path in paths:
        write_tiff(path, odd(), "YX")
    bad = paths[1]
    if damage == "text":
        bad.write_text("this is no image")
    elif damage == "cut":
        bad.write_bytes(bad.read_bytes()[:5000])
    elif damage == "cut inside":
        tifffile.imwrite(bad, odd(), compression="zlib", rowsperstrip=16)
        data = bytearray(bad.read_bytes())
        with tifffile.TiffFile(bad) as file:
            offset = file.pages[0].dataoffsets[3]
        data[offset : offset + 100] = bytes(100)
        bad.write_bytes(data)
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "two channels":
        write_tiff(bad, np.stack([odd(), odd()]), "CYX")
    else:
        bad.unlink()
    events = []
    summary = run(tiny_model, paths, tmp_path / "out", events)
    assert summary.done == (paths[0], paths[2])
    ((failed, reason),) = summary.failed
    assert failed == bad
    assert reason
    outcomes = table(tmp_path / "out" / "summary.csv")
    assert [(row["file"], row["outcome"]) for row in outcomes] == [
        ("a.tif", "done"),
        ("b.tif", "failed"),
        ("c.tif", "done"),
    ]
    assert outcomes[1]["reason"] == reason
    assert [int(row["n_regions"]) for row in outcomes if row["n_regions"]] == list(summary.n_regions_by_file)
    assert any(isinstance(e, Message) and e.warning and e.source == bad for e in events)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"a_labels.tif", "c_labels.tif", "regions.csv", "overview.png"} <= names
    assert not any(name.startswith("b_") for name in names)
    assert {row["plane"] for row in table(tmp_path / "out" / "regions.csv")} == {"a", "c"}


def test_a_result_that_cannot_be_written_does_not_stop_the_rest(tiny_model, tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    for path in paths:
        write_tiff(path, odd(), "YX")
    (tmp_path / "out" / "a_labels.tif").mkdir(parents=True)  # in place of the file, as one held open elsewhere
    summary = run(tiny_model, paths, tmp_path / "out")
    assert summary.done == (paths[1],)
    ((failed, reason),) = summary.failed
    assert failed == paths[0]
    assert "cannot be written" in reason


def test_images_of_different_sizes_in_one_file_fail_alone(tiny_model, tmp_path):
    path, other = tmp_path / "sizes.ome.tif", tmp_path / "other.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(odd(), metadata={"axes": "YX"})
        writer.write(odd(shape=(128, 128)), metadata={"axes": "YX"})
    write_tiff(other, odd(), "YX")
    summary = run(tiny_model, [path, other], tmp_path / "out")
    assert summary.done == (other,)
    assert summary.failed[0][0] == path


def test_nothing_but_failures_writes_why(tiny_model, tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("no image")
    summary = run(tiny_model, [path], tmp_path / "out")
    assert (summary.done, summary.n_planes) == ((), 0)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["summary.csv"]


def test_a_folder_that_cannot_be_made_is_an_error_in_words(tiny_model, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UFlowError, match="out'"):
        run(tiny_model, [tmp_path / "a.tif"], tmp_path / "out")


def test_two_files_of_one_name_are_refused_before_anything_is_written(tiny_model, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    paths = [tmp_path / "one" / "a.tif", tmp_path / "two" / "a.ome.tif"]
    with pytest.raises(ConfigError, match=r"a.tif' and '.*a.ome.tif'"):
        run(tiny_model, paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stopping_keeps_what_is_done(tiny_model, tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in "abc"]
    for path in paths:
        write_tiff(path, odd(), "YX")

    def stop_at(name, n_done, n_events):
        """Stop at the n-th event that says so many files are done."""
        events = []
        job = detect_files_steps(tiny_model, paths, tmp_path / name, DetectionConfig(), device=DEVICE)
        return drain(job, events.append, lambda: events.count(Progress(PHASE, n_done, 3)) == n_events)

    between = stop_at("between", 2, 1)
    assert between.was_stopped
    assert between.done == tuple(paths[:2])
    assert (tmp_path / "between" / "regions.csv").exists()
    assert between.left_out == (paths[2],)
    assert [(row["file"], row["outcome"]) for row in table(tmp_path / "between" / "summary.csv")] == [
        ("a.tif", "done"),
        ("b.tif", "done"),
        ("c.tif", "not processed"),
    ]
    inside = stop_at("inside", 0, 3)
    assert inside.was_stopped
    assert inside.done == ()
    assert inside.left_out == tuple(paths)


def test_a_single_file_tells_how_far_it_is(tiny_model, tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, odd(), "YX")
    events = []
    run(tiny_model, [path], tmp_path / "out", events)
    assert {event.phase for event in events if isinstance(event, Progress)} > {PHASE, "Finding regions"}


def test_rows_of_the_overview_are_thinned_out_alike(tiny_model, monkeypatch):
    monkeypatch.setattr("napari_uflow.batch.output._OVERVIEW_SIDE", 100)
    image = np.random.default_rng(0).integers(0, 256, (40, 150, 3)).astype(np.uint8)
    found = detect(tiny_model, Plane(data=image[..., 0], name="strip"), device=DEVICE)
    row = overview_row(Plane(data=image, axes="YXS"), found, found.labels > 0)
    np.testing.assert_array_equal(row.image, image[::2, ::2])
    assert row.score.shape == row.labels.shape == row.truth.shape == (20, 75)


def test_images_are_added_to_the_drift_log(watched_model, tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    for seed, path in enumerate(paths):
        write_tiff(path, odd(seed), "YX")
    model_path = tmp_path / "model.safetensors"
    for _ in range(2):  # detected again, they count once
        run(watched_model, paths, tmp_path / "out", model_path=model_path)
    state = DriftWatch(watched_model, model_path).state
    assert [name.split("'")[1] for name in state.images] == ["a", "b"]
    run(watched_model, paths, tmp_path / "out")
    assert (tmp_path / "model.drift.jsonl").read_text().count("\n") == 2


def test_drift_withdraws_the_guarantee_of_a_batch(watched_model, log_drift, tmp_path):
    path = tmp_path / "a.tif"
    write_tiff(path, odd(), "YX")
    log_drift(watched_model, tmp_path / "model.safetensors")
    events = []
    summary = run(watched_model, [path], tmp_path / "out", events, model_path=tmp_path / "model.safetensors")
    (guarantee,) = summary.guarantees
    assert Caveat.DRIFT in guarantee.caveats
    assert not guarantee.holds
    assert sum("since 'blurred 0'" in event.text for event in events if isinstance(event, Message)) == 1
    (row,) = table(tmp_path / "out" / "summary.csv")
    assert Caveat.DRIFT.value in row["warnings"]
    with tifffile.TiffFile(tmp_path / "out" / "a_labels.tif") as file:
        assert "since 'blurred 0'" in json.loads(file.imagej_metadata["Info"])["napari_uflow"]["guarantee"]


def test_the_summary_names_the_images_to_confirm(tiny_model, tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in "ab"]
    for seed, path in enumerate(paths):
        write_tiff(path, odd(seed), "YX")
    summary = run(tiny_model, paths, tmp_path / "out")
    assert summary.to_confirm.startswith("1 can be guaranteed with 3 more normal specimens: look at '")
    assert all(f"'{path.name}'" in summary.to_confirm for path in paths)
