"""Operations that Apple's GPUs lack run on the processor, unless the user says otherwise."""

import sys

import pytest

import napari_uflow
from napari_uflow import cli
from napari_uflow.system import libraries

NAME = "PYTORCH_ENABLE_MPS_FALLBACK"


@pytest.fixture
def on_a_mac(monkeypatch):
    # set and taken away again, so that it is put back to what it was
    monkeypatch.setenv(NAME, "x")
    monkeypatch.delenv(NAME)
    monkeypatch.setattr(sys, "platform", "darwin")


def ways_in():
    yield "command line", lambda: cli.main(["show", "no such file"])
    yield "script", lambda: napari_uflow.__getattr__("TrainingConfig")
    yield "napari", libraries.make_torch_safe


@pytest.mark.parametrize(("way", "enter"), list(ways_in()), ids=[way for way, _ in ways_in()])
def test_every_way_in_sets_it(on_a_mac, way, enter):
    import os

    enter()
    assert os.environ[NAME] == "1"


def test_the_user_is_obeyed(on_a_mac, monkeypatch):
    import os

    monkeypatch.setenv(NAME, "0")
    libraries.make_torch_safe()
    assert os.environ[NAME] == "0"


def test_other_systems_are_left_alone(monkeypatch):
    import os

    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    napari_uflow.__getattr__("TrainingConfig")
    assert NAME not in os.environ
