"""Examples in docstrings: their output is that of the program."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ("napari_uflow.image", "napari_uflow.nfa")
MODULES = ("napari_uflow.detection.guarantee", "napari_uflow.store.geojson", "napari_uflow.wording")


def names():
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            yield module.name
    yield from MODULES


@pytest.mark.parametrize("name", list(names()))
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_modules_of_nfa_have_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    have = [name for name in names() if any(test.examples for test in finder.find(importlib.import_module(name)))]
    assert {name for name in names() if name.startswith("napari_uflow.nfa.")} - set(have) <= {
        "napari_uflow.nfa.calibrated",
        "napari_uflow.nfa.compiled",
    }
