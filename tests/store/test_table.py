"""Tables: numbers stay numbers, and no text is run as a formula."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_uflow.store.table import write_rows

SOURCE = Path(__file__).parents[2] / "src"


def written(*cells):
    file = io.StringIO(newline="")
    write_rows(file, [cells])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    return row


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+1",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "  =1",
        "\uff1d1+1",
        "-",
        "=",
        "\tx",
    ],
)
def test_a_formula_is_text(text):
    cell, other = written(text, "x")
    assert cell.startswith("'")
    assert cell.replace("'", "") == text.replace("'", "")
    assert other == "x"


@pytest.mark.parametrize("number", ["-3.2", "+4", "1e-5", "-inf", "nan", -3.2, 5, "-1e+06"])
def test_numbers_stay_numbers(number):
    assert written(number) == [str(number)]


@pytest.mark.parametrize("text", ["a=b", "slide-1", "a@b", "cells (1)", "", "Zelle \u00b5m", "a, -b", 'say "="'])
def test_other_texts_are_unchanged(text):
    assert written(text) == [text]


def test_a_formula_after_the_separator_of_another_country_is_text():
    assert written("a;=1+1;-2") == ["a;'=1+1;'-2"]


def test_a_name_that_is_no_text_is_written():
    assert written("a\udcff") == ["a\\udcff"]


@given(st.text())
def test_no_text_begins_like_a_formula(text):
    (cell,) = written(text)
    try:
        float(cell)
    except ValueError:
        assert not re.match(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]", cell)


def test_all_tables_are_written_in_this_way():
    writers = [path.name for path in SOURCE.rglob("*.py") if "csv.writer" in path.read_text(encoding="utf-8")]
    assert writers == ["table.py"]
