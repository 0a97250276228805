"""The condition of an image by its folder and name."""

import numpy as np
import pytest

from napari_uflow.errors import ConfigError
from napari_uflow.image.condition import conditions_of
from napari_uflow.image.plane import Plane


def plane(name="a", source=None) -> Plane:
    return Plane(data=np.zeros((4, 4)), name=name, source=source)


def test_folder_or_name():
    planes = [plane(source="/data/stainA/1.tif"), plane(source="/data/stainB/1.tif"), plane("stainB 3"), plane("other")]
    assert conditions_of(planes, "stain([AB])") == ["A", "B", "B", None]
    assert conditions_of(planes[:1], "([^/]+)/") == ["stainA"]
    assert conditions_of(planes, "") == [""] * 4


def test_a_pattern_that_is_none():
    with pytest.raises(ConfigError, match=r"condition pattern .* must have one group in parentheses, the cond"):
        conditions_of([plane()], "stain")


def test_the_folder_may_be_the_current_one(tmp_path, monkeypatch):
    (tmp_path / "stainA").mkdir()
    monkeypatch.chdir(tmp_path / "stainA")
    assert conditions_of([plane(source="1.tif")], "(stain[AB])/") == ["stainA"]
