"""Snapshots: a model of a training that was killed is found, described and removed; that of a running one is not."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from napari_uflow.progress import FINISH, Message, Progress, Snapshot, drain
from napari_uflow.store.checkpoint import load_model, save_model
from napari_uflow.system.owner import nobody, own_tag
from napari_uflow.training.snapshots import (
    describe,
    discard,
    interrupted,
    leave,
    new_snapshot,
    prefix_of,
    writing_snapshots,
)

NAME = "import sys; from pathlib import Path; from napari_uflow.training.snapshots import new_snapshot as new"


def of_killed(folder: Path, prefix: str = "") -> Path:
    """Return the name of a snapshot whose process has ended."""
    code = f"{NAME}; print(new(Path(sys.argv[1]), sys.argv[2]))"
    done = subprocess.run([sys.executable, "-c", code, folder, prefix], capture_output=True, check=True)
    return Path(os.fsdecode(done.stdout).strip())


def test_the_last_snapshot_is_in_the_file_and_answers_reach_the_training(tmp_path, tiny_model, tiny_pyramid):
    answers = []

    def training():
        yield Snapshot(tiny_model)
        answers.append((yield Progress("Training", 1, 2)))
        yield Snapshot(tiny_pyramid)
        return tiny_model

    path = new_snapshot(tmp_path)
    events = []
    assert drain(writing_snapshots(training(), path), events.append, lambda: True) is tiny_model
    assert events == [Progress("Training", 1, 2)]
    assert answers == [FINISH]
    assert load_model(path).config == tiny_pyramid.config
    assert interrupted(tmp_path) == []  # of this process, which runs


def test_a_full_disk_ends_no_training(tmp_path, tiny_model, fill_disk):
    fill_disk()

    def training():
        yield Snapshot(tiny_model)
        return tiny_model

    events = []
    assert drain(writing_snapshots(training(), new_snapshot(tmp_path)), events.append) is tiny_model
    (message,) = events
    assert isinstance(message, Message)
    assert message.warning
    assert "No space left" in message.text
    assert list(tmp_path.iterdir()) == []


def test_a_closed_job_closes_its_training(tmp_path):
    closed = []

    def training():
        try:
            yield Progress("Training", 1, 2)
        finally:
            closed.append(True)

    steps = writing_snapshots(training(), new_snapshot(tmp_path))
    next(steps)
    steps.close()
    assert closed == [True]


def test_those_of_killed_trainings_are_found_by_their_output_and_the_newest_first(tmp_path):
    first, second, other = of_killed(tmp_path, "a."), of_killed(tmp_path, "a."), of_killed(tmp_path, "b.")
    own = new_snapshot(tmp_path, "a.")
    for time, path in enumerate((own, second, first, other, tmp_path / "a.unfinished-notes.safetensors")):
        path.touch()
        os.utime(path, (time, time))
    assert interrupted(tmp_path, "a.") == [first, second]
    assert interrupted(tmp_path, "b.") == [other]
    assert interrupted(tmp_path) == interrupted(tmp_path / "nowhere") == []
    discard(second, "a.")
    assert interrupted(tmp_path, "a.") == [first]
    discard(first, "a.")
    assert interrupted(tmp_path, "a.") == []
    assert own.exists()
    assert other.exists()


def test_one_of_another_computer_may_be_resumed_and_is_not_removed_with_others(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(platform, "node", lambda: "another")
        there = new_snapshot(tmp_path)
    here = tmp_path / f"unfinished-{nobody()}-01234567.safetensors"
    for time, path in enumerate((there, here)):
        path.touch()
        os.utime(path, (time, time))
    assert interrupted(tmp_path) == [here, there]
    discard(here)
    assert interrupted(tmp_path) == [there]
    discard(there)
    assert interrupted(tmp_path) == []


def test_that_of_a_failed_training_is_found_though_its_process_runs(tmp_path):
    path = new_snapshot(tmp_path)
    leave(path)
    path.touch()
    assert own_tag() in path.name
    assert interrupted(tmp_path) == []
    leave(path)
    assert len(interrupted(tmp_path)) == 1


def test_it_is_described_if_it_can_be_read(tmp_path, tiny_model):
    path = new_snapshot(tmp_path)
    save_model(path, tiny_model)
    assert describe(path).startswith("'fibres 0' and 1 more, scattering, step 4 of 4, 20")
    path.write_text("no model")
    assert describe(path) == ""


@pytest.mark.parametrize("prefix", ["", "model.safetensors.", "a[1]*.", "é"])
def test_the_prefix_is_taken_as_it_is(prefix, tmp_path):
    path = new_snapshot(tmp_path, prefix)
    path.touch()
    leave(path)
    (found,) = interrupted(tmp_path, prefix)
    assert found.name.startswith(f"{prefix}unfinished-")


@pytest.mark.parametrize("name", ["m.safetensors", "a" * 255, "é" * 127, "日" * 85, os.fsdecode(b"\xff" * 255)])
def test_names_of_any_length_have_snapshots(name, tmp_path, tiny_model):
    prefix = prefix_of(tmp_path / name)
    path = of_killed(tmp_path, prefix)
    save_model(path, tiny_model)
    assert interrupted(tmp_path, prefix) == [path]
    assert interrupted(tmp_path, prefix_of(tmp_path / f"{name[:-1]}b")) == []
