"""The ending of a file's name tells what it contains."""

import pytest

from napari_uflow.errors import ConfigError
from napari_uflow.store.endings import with_ending


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.csv", "a.csv"),
        ("A.CSV", "A.CSV"),
        ("a", "a.csv"),
        ("sample at 0.5 um", "sample at 0.5 um.csv"),
        ("run.v2", "run.v2.csv"),
        ("folder.json/a", "folder.json/a.csv"),
    ],
)
def test_an_ending_is_kept_or_added(name, result):
    assert with_ending(name, [".csv"]) == result


@pytest.mark.parametrize("name", ["x.json", "X.JSON", "x.geojson", "x.tif", "x.csv.gz", "x.xlsx", "x.safetensors"])
def test_the_ending_of_another_kind_is_refused(name):
    with pytest.raises(ConfigError, match=r"ends with \.csv or \.tsv") as error:
        with_ending(f"folder/{name}", [".csv", ".tsv"])
    assert f"'{name}'" in str(error.value)
