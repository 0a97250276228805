"""Reports: plain numbers that are known as those of the program."""

import json

import pytest

from napari_uflow import __version__
from napari_uflow.errors import OverwriteError
from napari_uflow.store.provenance import check_replaceable, is_own
from napari_uflow.store.report import write_report


def test_a_report_is_known_as_own(tmp_path):
    write_report(tmp_path / "a.json", {"n": 1, "auroc": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"napari_uflow": __version__, "n": 1, "auroc": None}
    assert is_own(tmp_path / "a.json")
    check_replaceable(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "{}", '{"n": 1}', '["napari_uflow"]', '{"by": {"napari_uflow": 1}}'])
def test_numbers_of_others_are_not(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(OverwriteError):
        check_replaceable(tmp_path / "a.json")


def test_no_infinite_number_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "a.json", {"n": float("nan")})
    assert list(tmp_path.iterdir()) == []
