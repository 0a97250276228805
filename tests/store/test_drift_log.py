"""Drift log: whole lines whoever writes, and what is not a line of this model is skipped."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from napari_uflow.errors import UFlowError
from napari_uflow.store.drift_log import DriftEntry, DriftLog, drift_log_path
from napari_uflow.store.provenance import is_own


def entry(i=0, profile=(0.5, 1.5)):
    return DriftEntry(
        time="2026-11-24T10:00:00+00:00",
        image=f"image {i}",
        key=f"{i:064x}",
        specimen=f"{i:016x}",
        is_of_training=False,
        profile=profile,
    )


@pytest.fixture
def path(tmp_path):
    return drift_log_path(tmp_path / "model.safetensors")


def test_its_place(tmp_path):
    assert drift_log_path(tmp_path / "a.b.safetensors") == tmp_path / "a.b.drift.jsonl"
    assert drift_log_path(tmp_path / "model.bin") == tmp_path / "model.bin.drift.jsonl"


def test_what_is_written_is_read(path):
    log = DriftLog(path, "m", 2)
    assert log.read_new() == []
    log.append(entry(0))
    log.append(entry(1, (-3.25, 0.0)))
    other = DriftLog(path, "m", 2)
    assert other.read_new() == [entry(0), entry(1, (-3.25, 0.0))]
    assert other.read_new() == []
    log.append(entry(2))
    assert other.read_new() == [entry(2)]
    assert is_own(path)


def test_an_unknown_statistic(path):
    log = DriftLog(path, "m", 2)
    log.append(entry(0, (math.nan, 1.0)))
    (found,) = log.read_new()
    assert math.isnan(found.profile[0])
    assert found.profile[1] == 1.0


def test_another_model_has_other_lines(path):
    DriftLog(path, "old", 2).append(entry(0))
    log = DriftLog(path, "new", 2)
    log.append(entry(1))
    assert log.read_new() == [entry(1)]
    assert log.n_skipped == 0


@pytest.mark.parametrize(
    "line",
    [
        b"no JSON",
        b"\xff\xfe",
        b"[1, 2]",
        b'{"model": "m"}',
        b'{"napari_uflow": "1", "model": "m", "profile": [1], "key": "0", "time": "", "image": "", "specimen": ""}',
        json.dumps({"model": "m", "profile": ["x", 1]}).encode(),
        b"[" * 100_000,
    ],
)
def test_damaged_and_foreign_lines_are_skipped(path, line):
    log = DriftLog(path, "m", 2)
    log.append(entry(0))
    with open(path, "ab") as file:
        file.write(line + b"\n")
    log.append(entry(1))
    assert log.read_new() == [entry(0), entry(1)]
    assert log.n_skipped == 1


def test_a_line_that_a_killed_program_has_begun(path):
    log = DriftLog(path, "m", 2)
    log.append(entry(0))
    with open(path, "ab") as file:
        file.write(b'{"napari_uflow": "0.1", "mod')
    assert log.read_new() == [entry(0)]
    log.append(entry(1))
    assert log.read_new() == [entry(1)]
    assert log.n_skipped == 1


def test_many_writers(path):
    def write(first):
        log = DriftLog(path, "m", 2)
        for i in range(first, first + 50):
            log.append(entry(i))

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write, (0, 100, 200, 300)))
    log = DriftLog(path, "m", 2)
    assert {found.image for found in log.read_new()} == {
        entry(k + i).image for k in (0, 100, 200, 300) for i in range(50)
    }
    assert log.n_skipped == 0


def test_a_reset_and_a_deleted_file(path):
    log = DriftLog(path, "m", 2)
    log.append(entry(0))
    log.reset("2026-11-25T10:00:00+00:00")
    log.append(entry(1))
    assert log.read_new() == [entry(0), None, entry(1)]
    path.unlink()
    assert log.read_new() == [None]
    log.append(entry(2))
    assert log.read_new() == [entry(2)]


def test_the_file_of_another_program_stays(path):
    path.write_text('{"other": 1}\n')
    log = DriftLog(path, "m", 2)
    assert log.read_new() == []
    with pytest.raises(UFlowError, match="not a drift log"):
        log.append(entry(0))
    assert path.read_text() == '{"other": 1}\n'


def test_a_folder_that_is_not_there(tmp_path):
    log = DriftLog(tmp_path / "no" / "model.drift.jsonl", "m", 2)
    assert log.read_new() == []
    with pytest.raises(UFlowError, match="cannot be written"):
        log.append(entry(0))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_no_log(path):
    os.mkfifo(path)
    log = DriftLog(path, "m", 2)
    assert log.read_new() == []
    with pytest.raises(UFlowError, match="not a drift log"):
        log.append(entry(0))
