"""A batch that goes wrong: nothing of others is lost, the rest goes on, and what was begun can be continued."""

import csv
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_uflow.batch import files, journal, output, run
from napari_uflow.batch.files import PHASE, detect_files_steps
from napari_uflow.batch.journal import Journal
from napari_uflow.batch.mark import is_unfinished
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ConfigError, OverwriteError, UFlowError
from napari_uflow.progress import Message, Progress, drain
from napari_uflow.samples.fibres import fibre_field
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff

DEVICE = os.environ.get("NAPARI_UFLOW_TEST_DEVICE", "cpu")
SHAPE = (64, 72)


def odd(seed=0):
    """Fibres with a square of noise."""
    image = fibre_field(seed, shape=(112, 112)).image[: SHAPE[0], : SHAPE[1]].copy()
    image[8:48, 10:50] = np.random.default_rng(seed).integers(0, 256, (40, 40))
    return image


@pytest.fixture(autouse=True)
def _tables_after_every_file(monkeypatch):
    """On a busy machine, too."""
    monkeypatch.setattr("napari_uflow.batch.run._SHARE", 0)


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / "images" / f"{name}.tif" for name in "abc"]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        write_tiff(path, odd(seed), "YX")
    return paths


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def steps(model, paths, folder, config=None, **options):
    return detect_files_steps(model, paths, folder, config or DetectionConfig(), device=DEVICE, **options)


def batch(model, paths, folder, events=None, **options):
    return drain(steps(model, paths, folder, **options), None if events is None else events.append)


def killed(model, paths, folder, n_done, **options):
    """Run a batch until so many files are finished, and drop it there."""
    job = steps(model, paths, folder, **options)
    for event in job:
        if isinstance(event, Progress) and event.phase == PHASE and event.done == n_done:
            break
    job.close()


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def outcomes(folder):
    return {row["file"]: row["outcome"] for row in table(folder / "summary.csv")}


def names(folder):
    return {path.name for path in folder.iterdir()}


def maps(*stems):
    return {f"{stem}_{kind}.tif" for stem in stems for kind in ("heatmap", "log10_nfa", "labels")}


TABLES = {"regions.csv", "summary.csv", "overview.png"}


def test_a_file_with_the_name_of_the_journal_is_not_replaced(tiny_model, images, out):
    out.mkdir()
    (out / "unfinished.jsonl").write_text("my list\n")
    with pytest.raises(OverwriteError, match=r"unfinished\.jsonl"):
        batch(tiny_model, images, out)
    assert (out / "unfinished.jsonl").read_text() == "my list\n"
    batch(tiny_model, images[:1], out, overwrite=True)
    assert not is_unfinished(out)


# ---- whatever an image raises


@pytest.mark.parametrize(
    ("error", "words", "may_pass"),
    [
        (IndexError("list index out of range"), "IndexError", False),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError", False),
        (AssertionError(), "AssertionError", False),
        (RecursionError("maximum recursion depth exceeded"), "may be damaged", False),
        (UnicodeEncodeError("ascii", "Å", 0, 1, "ordinal not in range"), "UnicodeEncodeError", False),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), os.strerror(errno.ENOENT), False),
        (OSError(errno.EIO, os.strerror(errno.EIO)), os.strerror(errno.EIO), True),
        (MemoryError(), "not enough memory", True),
        (RuntimeError("could not create a primitive"), "not enough memory", True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "not enough memory",
            True,
        ),
    ],
)
@pytest.mark.parametrize("place", ["read_planes", "write_detections"])
def test_whatever_an_image_raises_the_others_go_on(tiny_model, images, out, monkeypatch, error, words, may_pass, place):
    original = getattr(files, place)

    def failing(*arguments, **options):
        if any(getattr(argument, "stem", argument) == "b" for argument in arguments):
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(files, place, failing)
    summary = batch(tiny_model, images, out)
    assert summary.done == (images[0], images[2])
    ((path, reason),) = summary.failed
    assert path == images[1]
    assert words in reason
    assert outcomes(out) == {"a.tif": "done", "b.tif": "failed", "c.tif": "done"}
    assert names(out) == maps("a", "c") | TABLES | ({"unfinished.jsonl"} if may_pass else set())
    assert summary.to_repeat == ((images[1],) if may_pass else ())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE])
def test_an_image_for_which_the_disk_was_full_is_done_by_a_run_that_resumes(
    tiny_model, images, out, tmp_path, monkeypatch, number
):
    with monkeypatch.context() as patch:
        replacing = os.replace

        def full(source, target):
            if str(target).endswith("b_labels.tif"):
                raise OSError(number, os.strerror(number))
            replacing(source, target)

        patch.setattr(os, "replace", full)
        assert batch(tiny_model, images, out).to_repeat == (images[1],)
    assert is_unfinished(out)
    detected, detecting = [], files.detect_file_steps

    def counting(model, network, path, *arguments, **options):
        detected.append(path)
        return (yield from detecting(model, network, path, *arguments, **options))

    monkeypatch.setattr(files, "detect_file_steps", counting)
    assert batch(tiny_model, images, out, resume=True).done == tuple(images)
    assert detected == [images[1]]
    assert not is_unfinished(out)
    batch(tiny_model, images, tmp_path / "whole")
    for name in ("summary.csv", "regions.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
@pytest.mark.parametrize("name", [b"Zelle_\xb5m.tif", b"line\nbreak.tif", b"\x1b[2J.tif", b'"quoted", name.tif'])
def test_a_name_of_any_bytes_is_processed(tiny_model, images, out, name):
    path = images[0].parent / os.fsdecode(name)
    write_tiff(path, odd(5), "YX")
    summary = batch(tiny_model, [path, images[1]], out)
    assert summary.done == (path, images[1])
    rows = table(out / "summary.csv")
    assert [row["outcome"] for row in rows] == ["done", "done"]
    assert rows[0]["file"].isprintable()
    assert {row["plane"] for row in table(out / "regions.csv")} == {rows[0]["file"].removesuffix(".tif"), "b"}
    assert len(names(out)) == 9


@pytest.mark.skipif(sys.platform == "win32", reason="the length of paths is limited there")
@pytest.mark.parametrize("n", [251, 242])
def test_a_name_that_is_too_long_for_its_results_fails_alone(tiny_model, images, out, n):
    path = images[0].with_name("q" * n + ".tif")
    images[0].rename(path)
    summary = batch(tiny_model, [path, *images[1:]], out)
    assert summary.done == tuple(images[1:])
    assert "shorter name" in summary.failed[0][1]


def test_a_file_that_vanishes_before_the_overview_is_done(tiny_model, images, out, monkeypatch):
    original = files.overview_row

    def vanishing(plane, *arguments):
        if plane.name == "b":
            images[1].unlink()
        return original(plane, *arguments)

    monkeypatch.setattr(files, "overview_row", vanishing)
    summary = batch(tiny_model, images, out)
    assert summary.done == tuple(images)
    assert "not in the overview" in dict(summary.warnings)[images[1]]
    assert names(out) == maps("a", "b", "c") | TABLES


def test_an_overview_that_cannot_be_drawn_costs_nothing_else(tiny_model, images, out, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "save_figure", full)
    events = []
    summary = batch(tiny_model, images, out, events)
    assert summary.done == tuple(images)
    assert names(out) == maps("a", "b", "c") | TABLES - {"overview.png"}
    assert any(isinstance(e, Message) and e.warning and "overview.png" in e.text for e in events)


def test_tables_that_cannot_be_written_meanwhile_are_written_in_the_end(tiny_model, images, out, monkeypatch):
    original, calls = run.write_table, []

    def full(*arguments):
        calls.append(arguments)
        if 1 < len(calls) < 4:
            raise UFlowError("no space left")
        original(*arguments)

    monkeypatch.setattr(run, "write_table", full)
    events = []
    assert batch(tiny_model, images, out, events).done == tuple(images)
    assert any(isinstance(e, Message) and "no space left" in e.text for e in events)
    assert set(outcomes(out).values()) == {"done"}
    assert not is_unfinished(out)


# ---- warnings


def test_the_summary_warns_of_a_black_image(tiny_model, images, out):
    write_tiff(images[1], np.zeros(SHAPE, np.uint8), "YX")
    write_tiff(images[2], np.stack([np.zeros(SHAPE, np.uint8), odd(0)]), "ZYX")
    summary = batch(tiny_model, images, out)
    of_files = {row["file"]: row["warnings"] for row in table(out / "summary.csv")}
    assert "brightness" not in of_files["a.tif"]
    assert "the guarantee does not apply here: the brightness differs" in of_files["b.tif"]
    assert "brightness differs from that of the normal images (1 of 2 planes)" in of_files["c.tif"]
    assert dict(summary.warnings)[images[1]] == of_files["b.tif"]


def test_the_summary_warns_of_an_image_without_pixels(tiny_model, images, out):
    write_tiff(images[0], np.full(SHAPE, np.nan, np.float32), "YX")
    batch(tiny_model, images[:2], out)
    row = table(out / "summary.csv")[0]
    assert row["outcome"] == "done"
    assert "no pixel could be measured" in row["warnings"]


# ---- killed and continued


def test_the_tables_grow_with_the_files(tiny_model, images, out):
    killed(tiny_model, images, out, 2)
    assert outcomes(out) == {"a.tif": "done", "b.tif": "done", "c.tif": "not processed"}
    assert {row["plane"] for row in table(out / "regions.csv")} == {"a", "b"}
    assert is_unfinished(out)
    assert names(out) == maps("a", "b") | {"summary.csv", "regions.csv", "unfinished.jsonl"}


def test_the_summary_follows_within_seconds_however_long_it_takes_to_write(tiny_model, images, out, monkeypatch):
    monkeypatch.setattr(run, "_SHARE", 1e12)
    monkeypatch.setattr(run, "_LONGEST_LAG", 0.0)
    killed(tiny_model, images, out, 2)
    assert outcomes(out) == {"a.tif": "done", "b.tif": "done", "c.tif": "not processed"}


def test_regions_are_in_their_table_before_the_summary_is_written_again(tiny_model, images, out, monkeypatch):
    monkeypatch.setattr(run, "_SHARE", 1e12)
    monkeypatch.setattr(run, "_LONGEST_LAG", 1e12)
    killed(tiny_model, images, out, 2)
    assert outcomes(out)["b.tif"] == "not processed"
    assert {row["plane"] for row in table(out / "regions.csv")} == {"a", "b"}


@pytest.mark.parametrize("place", ["run", "journal"])
def test_regions_that_could_not_be_added_are_written_with_the_next_ones(tiny_model, images, out, monkeypatch, place):
    module = {"run": run, "journal": journal}[place]
    original, calls = module.append_text, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == (1 if place == "run" else 2):  # for the second image
            raise UFlowError("no space left")
        original(*arguments)

    monkeypatch.setattr(module, "append_text", full)
    killed(tiny_model, images, out, 3)
    assert set(outcomes(out).values()) == {"done"}
    assert {row["plane"] for row in table(out / "regions.csv")} == {"a", "b", "c"}


def test_a_new_run_says_that_it_gives_up_an_unfinished_one(tiny_model, images, out):
    killed(tiny_model, images, out, 2)
    events = []
    batch(tiny_model, images, out, events)
    said = [event.text for event in events if isinstance(event, Message) and "unfinished run" in event.text]
    assert len(said) == 1
    assert "had finished 2 images; this run begins anew" in said[0]
    again = []
    batch(tiny_model, images, out, again)
    assert not any("unfinished run" in event.text for event in again if isinstance(event, Message))


def test_a_batch_is_continued_where_it_was_killed(tiny_model, images, out, tmp_path, monkeypatch):
    killed(tiny_model, images, out, 2)
    with open(out / "unfinished.jsonl", "a", encoding="utf-8") as file:
        file.write('{"path": "half a li')  # killed while writing
    detected = []
    original = files.detect_file_steps

    def counting(model, network, path, *arguments, **options):
        detected.append(path)
        return (yield from original(model, network, path, *arguments, **options))

    monkeypatch.setattr(files, "detect_file_steps", counting)
    summary = batch(tiny_model, images, out, resume=True)
    assert detected == [images[2]]
    whole = tmp_path / "whole"
    assert summary == batch(tiny_model, images, whole)
    assert names(out) == names(whole)
    for name in ("summary.csv", "regions.csv"):
        assert table(out / name) == table(whole / name)
    overviews = [np.asarray(Image.open(folder / "overview.png")) for folder in (out, whole)]
    np.testing.assert_array_equal(*overviews)


def test_only_what_is_still_there_is_kept(tiny_model, images, out):
    killed(tiny_model, images, out, 3)
    write_tiff(images[0], odd(7), "YX")
    (out / "b_heatmap.tif").unlink()
    events = []
    summary = batch(tiny_model, images, out, events, resume=True)
    assert any(isinstance(e, Message) and e.text == "resuming: 1 image finished before" for e in events)
    assert summary.done == tuple(images)
    assert names(out) == maps("a", "b", "c") | TABLES


def test_the_rest_alone_continues_a_batch(tiny_model, images, out):
    killed(tiny_model, images[:2], out, 1)
    summary = batch(tiny_model, images[1:], out, resume=True)
    assert summary.done == tuple(images)
    assert set(outcomes(out)) == {"a.tif", "b.tif", "c.tif"}


def test_a_batch_is_continued_under_other_paths(tiny_model, images, out, monkeypatch):
    monkeypatch.chdir(images[0].parent)
    killed(tiny_model, ["a.tif", "b.tif", "c.tif"], out, 2)
    monkeypatch.chdir(out)
    events = []
    summary = batch(tiny_model, images, out, events, resume=True)
    assert any(isinstance(e, Message) and e.text == "resuming: 2 images finished before" for e in events)
    assert summary.done == tuple(images)
    assert [row["file"] for row in table(out / "summary.csv")] == ["a.tif", "b.tif", "c.tif"]


def test_failed_files_are_tried_again(tiny_model, images, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_detections", lambda *_: 1 / 0)
        killed(tiny_model, images, out, 2)
    assert outcomes(out)["a.tif"] == "failed"
    assert batch(tiny_model, images, out, resume=True).done == tuple(images)


@pytest.mark.parametrize("change", [{"config": DetectionConfig(false_alarms=0.5)}, {"axes": "YX"}, {"channels": [0]}])
def test_another_task_does_not_continue_a_batch(tiny_model, images, out, change):
    killed(tiny_model, images, out, 1)
    with pytest.raises(ConfigError, match="unfinished run"):
        batch(tiny_model, images, out, resume=True, **change)
    assert is_unfinished(out)
    assert outcomes(out)["a.tif"] == "done"


def test_another_model_does_not_continue_a_batch(tiny_model, tiny_pyramid, images, out):
    killed(tiny_model, images, out, 1)
    with pytest.raises(ConfigError, match="unfinished run"):
        batch(tiny_pyramid, images, out, resume=True)


def test_without_an_unfinished_batch_all_is_done(tiny_model, images, out):
    events = []
    assert batch(tiny_model, images, out, events, resume=True).done == tuple(images)
    assert any(isinstance(e, Message) and "no unfinished run" in e.text for e in events)


@pytest.mark.parametrize("content", ["", "no json\n", "[1, 2]\n", '{"a": 1}\n'])
def test_a_damaged_journal_is_no_batch_to_continue(tmp_path, content):
    (tmp_path / "unfinished.jsonl").write_text(content + '[3]\n{"path": 1}\nnull\n')
    task, results = Journal(tmp_path).read()
    assert task in (None, {"a": 1})
    assert results == []


def test_a_stopped_batch_can_be_continued(tiny_model, images, out):
    events = []
    summary = drain(steps(tiny_model, images, out), events.append, lambda: Progress(PHASE, 2, 3) in events)
    assert summary.was_stopped
    assert is_unfinished(out)
    assert batch(tiny_model, images, out, resume=True).done == tuple(images)
    assert not is_unfinished(out)


# ---- one run in a folder


def test_new_maps_never_lie_beside_old_tables(tiny_model, images, out):
    batch(tiny_model, images, out)
    killed(tiny_model, images, out, 1, config=DetectionConfig(false_alarms=0.01))
    assert names(out) == maps("a") | {"summary.csv", "regions.csv", "unfinished.jsonl"}
    assert outcomes(out) == {"a.tif": "done", "b.tif": "not processed", "c.tif": "not processed"}
    with tifffile.TiffFile(out / "a_labels.tif") as file:
        description = json.loads(file.imagej_metadata["Info"])["napari_uflow"]
    assert description["detection"]["false_alarms"] == 0.01


def test_results_of_other_images_stay_and_are_told_of(tiny_model, images, out):
    batch(tiny_model, images[:1], out)
    events = []
    batch(tiny_model, images[1:], out, events)
    assert maps("a") <= names(out)
    assert set(outcomes(out)) == {"b.tif", "c.tif"}
    assert any(isinstance(e, Message) and e.warning and "1 other image" in e.text for e in events)


def test_a_folder_in_use_is_refused(tiny_model, images, out):
    job = steps(tiny_model, images, out)
    next(job)
    for resume in (False, True):
        with pytest.raises(UFlowError, match="in use by another run"):
            batch(tiny_model, images, out, resume=resume)
    code = f"""
from pathlib import Path
from napari_uflow.batch.run import locked
with locked(Path({str(out)!r})):
    pass
"""
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another run" in refused.stderr
    job.close()
    assert batch(tiny_model, images, out).done == tuple(images)
    assert names(out) == maps("a", "b", "c") | TABLES


def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch):
    class Lock:
        def __init__(self, *_, **__):
            pass

        def acquire(self):
            raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(run, "FileLock", Lock)
    with run.locked(tmp_path):
        pass


# ---- files of others


@pytest.mark.parametrize("name", ["summary.csv", "regions.csv", "overview.png"])
def test_a_table_of_others_is_not_replaced(tiny_model, images, out, name):
    out.mkdir()
    (out / name).write_text("my own")
    with pytest.raises(ConfigError, match="not a result of this program"):
        batch(tiny_model, images, out)
    assert names(out) == {name}
    assert batch(tiny_model, images, out, overwrite=True).done == tuple(images)


@pytest.mark.parametrize("kind", ["heatmap", "log10_nfa", "labels"])
def test_a_picture_of_others_is_not_replaced(tiny_model, images, out, kind):
    out.mkdir()
    mine = out / f"b_{kind}.tif"
    tifffile.imwrite(mine, np.full(SHAPE, 7, np.uint16))
    before = mine.read_bytes()
    summary = batch(tiny_model, images, out)
    assert [path for path, _ in summary.failed] == [images[1]]
    assert mine.read_bytes() == before
    assert maps("b") & names(out) == {mine.name}
    assert batch(tiny_model, images, out, overwrite=True).done == tuple(images)
    assert mine.read_bytes() != before


def test_results_are_not_taken_for_images(tiny_model, images):
    folder = images[0].parent
    batch(tiny_model, images, folder)
    found = sorted(path for path in folder.iterdir() if path.suffix in (".tif", ".png"))
    assert len(found) == 3 + 9 + 1
    events = []
    summary = batch(tiny_model, found, folder, events)
    assert summary.done == tuple(images)
    assert names(folder) == {path.name for path in images} | maps("a", "b", "c") | TABLES
    assert any(isinstance(e, Message) and e.text.startswith("left out: 10 results") for e in events)
    with pytest.raises(ConfigError, match="is a result of a detection"):
        batch(tiny_model, [folder / "a_heatmap.tif"], folder)


def test_an_image_is_never_replaced(tiny_model, images, out):
    """An image that has the name of a result of another one, and whose link has one."""
    folder = images[0].parent
    write_tiff(folder / "a_labels.tif", odd(3), "YX")
    before = (folder / "a_labels.tif").read_bytes()
    paths = [images[0], folder / "a_labels.tif", images[1]]
    summary = batch(tiny_model, paths, folder, overwrite=True)
    assert [path for path, _ in summary.failed] == [images[0]]
    assert (folder / "a_labels.tif").read_bytes() == before
    assert read_planes(folder / "a_labels_labels.tif")


def test_a_folder_inside_an_image_is_refused(tiny_model, images, tmp_path):
    zarr = pytest.importorskip("zarr")
    image = tmp_path / "a.zarr"
    zarr.create_array(str(image), data=odd(), chunks=SHAPE)
    before = names(image)
    for folder in (image, image / "out"):
        with pytest.raises(ConfigError, match="part of an image"):
            batch(tiny_model, [image], folder)
    assert names(image) == before


def test_a_run_that_cannot_begin_leaves_no_folder(tiny_model, images, tmp_path):
    with pytest.raises(UFlowError, match="device"):
        drain(detect_files_steps(tiny_model, images, tmp_path / "new" / "out", DetectionConfig(), device="abacus"))
    assert not (tmp_path / "new").exists()


def test_one_file_under_two_paths_is_processed_once(tiny_model, images, out, monkeypatch):
    monkeypatch.chdir(images[0].parent)
    summary = batch(tiny_model, ["a.tif", images[0], images[1]], out)
    assert len(summary.done) == 2


def test_names_that_differ_in_capitals_only_are_refused_where_they_are_the_same(tiny_model, images, tmp_path, out):
    (tmp_path / "A").mkdir()
    other = tmp_path / "A" / "A.tif"
    write_tiff(other, odd(), "YX")
    assert len(batch(tiny_model, [images[0], other], out).done) == (2 if sys.platform == "linux" else 0)
    (out / ".NAPARI-UFLOW.LOCK").touch()  # as a file system without capital letters finds the lock
    with pytest.raises(ConfigError, match="same output files"):
        batch(tiny_model, [images[0], other], out)


def test_rows_of_the_overview_are_the_same_from_files(tiny_model, images, out, monkeypatch):
    monkeypatch.setattr(output, "_OVERVIEW_SIDE", 40)
    (plane,) = read_planes(images[0])
    from napari_uflow.batch.results import PlaneResult
    from napari_uflow.detection.detect import detect

    found = detect(tiny_model, plane, device=DEVICE)
    out.mkdir()
    output.write_detections(out, "a", [plane], [found])
    expected = output.overview_row(plane, found)
    row = output.overview_row_of_files(out, images[0], 0, PlaneResult.of(found))
    assert (row.name, row.caption) == (expected.name, expected.caption)
    for name in ("image", "score", "labels"):
        np.testing.assert_array_equal(getattr(row, name), getattr(expected, name))
