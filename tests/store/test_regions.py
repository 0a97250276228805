"""The table of regions as a file that a spreadsheet opens."""

import csv
import math

import numpy as np
import pytest

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.errors import UFlowError
from napari_uflow.store.regions import write_edited_regions, write_regions

LABELS = np.array([[1, 1, 0, 0], [0, 0, 0, 2]], np.int32)
NFA = np.where(LABELS == 1, -123.456789, np.where(LABELS == 2, -0.5, 3.0)).astype(np.float32)
SCORE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 4)


def detection(name="plane", labels=LABELS, **options) -> Detection:
    regions = RegionTable.measure(labels, NFA, SCORE, options.get("pixel_size"))
    return Detection(
        name=name,
        score=SCORE,
        log10_nfa=NFA,
        labels=labels,
        regions=regions,
        energies=(),
        strides=(4,),
        config=DetectionConfig(),
        guarantee=Guarantee(false_alarms=1.0),
        **options,
    )


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_and_columns(tmp_path):
    path = tmp_path / "regions.csv"
    write_regions(path, [detection("a", pixel_size=(0.5, 0.25), unit="um"), detection("b t=1")])
    rows = table(path)
    assert list(rows[0]) == ["plane", *RegionTable.__dataclass_fields__, "area_unit"]
    assert [(row["plane"], row["label"]) for row in rows] == [("a", "1"), ("a", "2"), ("b t=1", "1"), ("b t=1", "2")]
    assert [row["area_unit"] for row in rows] == ["um^2", "um^2", "", ""]
    assert [row["area"] for row in rows] == ["0.25", "0.125", "", ""]
    assert rows[0]["area_px"] == "2"
    assert float(rows[0]["log10_nfa"]) == pytest.approx(-123.456789, rel=1e-5)
    for row, expected in zip(rows, [*detection("a").regions.rows()], strict=False):
        for name, value in expected.items():
            if not math.isnan(value):
                assert float(row[name]) == pytest.approx(value, rel=1e-5)


def test_no_regions_give_a_header_only(tmp_path):
    write_regions(tmp_path / "regions.csv", [detection(labels=np.zeros((2, 4), np.int32))])
    assert table(tmp_path / "regions.csv") == []
    assert (tmp_path / "regions.csv").read_text(encoding="utf-8").startswith("plane,label,log10_nfa")


def test_names_with_commas_quotes_and_letters_of_others_come_back(tmp_path):
    name = 'Probe 3, "Zellkern" µm t=3,z=10'
    write_regions(tmp_path / "regions.csv", [detection(name)])
    assert {row["plane"] for row in table(tmp_path / "regions.csv")} == {name}


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "regions.csv"
    path.write_text("the old one")

    def failing():
        yield detection()
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write_regions(path, failing())
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UFlowError, match="no folder"):
        write_regions(tmp_path / "nowhere" / "regions.csv", [])


def test_edits_by_hand_are_a_last_column(tmp_path):
    path = tmp_path / "regions.csv"
    write_edited_regions(path, [detection("a"), detection("b", np.zeros((2, 4), np.int32))], [("no", "painted"), ()])
    rows = table(path)
    assert list(rows[0]) == ["plane", *RegionTable.__dataclass_fields__, "area_unit", "edited"]
    assert [(row["label"], row["edited"]) for row in rows] == [("1", "no"), ("2", "painted")]
