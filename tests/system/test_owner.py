"""Owners of temporary files: a running process, one that has ended, another computer."""

import os
import platform
import re
import subprocess
import sys

import pytest

from napari_uflow.system.owner import TAG, has_ended, is_of_this_computer, nobody, own_tag

SHOW = "from napari_uflow.system.owner import own_tag; print(own_tag(), flush=True); input()"


def test_a_process_owns_its_files_until_it_ends():
    command = [sys.executable, "-c", SHOW]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        tag = process.stdout.readline().strip()
        assert re.fullmatch(TAG, tag)
        assert tag != own_tag()
        assert not has_ended(tag)
        process.kill()
    assert has_ended(tag)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="no zombies there, or no way to wait for them")
def test_a_killed_process_that_nobody_has_waited_for_has_ended():
    with subprocess.Popen(
        [sys.executable, "-c", SHOW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        tag = process.stdout.readline().strip()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(tag)


def test_own_files_are_those_of_a_running_process():
    assert not has_ended(own_tag())
    assert has_ended(nobody())


def test_an_earlier_process_may_have_had_this_id():
    computer, pid, start = own_tag().split("-")
    assert has_ended(f"{computer}-{pid}-{int(start) - 60}")


@pytest.mark.parametrize(("module", "function"), [(platform, "node"), (os, "readlink")])
def test_processes_of_other_computers_and_containers_may_run(module, function, monkeypatch):
    tag = nobody()
    assert is_of_this_computer(tag)
    monkeypatch.setattr(module, function, lambda *args: "another")
    assert not is_of_this_computer(tag)
    assert not has_ended(tag)
