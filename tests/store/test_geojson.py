"""Regions as polygons: filling them gives the mask back, and every ring is one that a GeoJSON reader takes."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_uflow.config import DetectionConfig
from napari_uflow.detection.guarantee import Guarantee
from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection, Provenance
from napari_uflow.errors import ConfigError, OverwriteError, UFlowError
from napari_uflow.store.geojson import outline, write_geojson

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def drawn(text):
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def filled(rings, shape):
    """Fill rings: a pixel is inside where an odd number of upright lines is to the left of it."""
    crossings = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        for (x, y), (u, v) in pairwise(ring):
            assert (x == u) != (y == v)
            if x == u:
                crossings[min(y, v) : max(y, v), x] += 1
    return (np.cumsum(crossings, axis=1) % 2 == 1)[:, :-1]


def area(ring):
    return sum(x * v - u * y for (x, y), (u, v) in pairwise(ring)) / 2


def corners(ring):
    """All corners of pixels that a ring goes through, without its end."""
    for (x, y), (u, v) in pairwise(ring):
        n = abs(u - x) + abs(v - y)
        yield from ((x + (u - x) * i // n, y + (v - y) * i // n) for i in range(n))


@given(masks)
def test_filling_the_polygons_gives_the_mask_back(mask):
    polygons = outline(mask)
    parts = [filled(rings, mask.shape) for rings in polygons]
    np.testing.assert_array_equal(np.sum(parts, axis=0) if parts else np.zeros(mask.shape), mask)
    assert all(ndimage.label(part)[1] == 1 for part in parts)  # the inside of each hangs together by sides


@given(masks)
def test_rings_are_closed_and_do_not_touch_themselves(mask):
    for outer, *holes in outline(mask):
        assert area(outer) > 0
        assert all(area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert ring[0] == ring[-1]
            assert len(ring) >= 5
            through = list(corners(ring))
            assert len(set(through)) == len(through)
        hole_of = [filled([hole], mask.shape) for hole in holes]
        assert not np.any(np.sum(hole_of, axis=0) > 1) if holes else True  # holes do not lie in each other
        assert all((filled([outer], mask.shape) >= hole).all() for hole in hole_of)  # and lie inside of the border


@given(masks, st.integers(0, 5), st.integers(0, 5))
def test_the_place_of_the_mask_moves_the_polygons(mask, row, col):
    expected = [[[[x + col, y + row] for x, y in ring] for ring in rings] for rings in outline(mask)]
    assert outline(mask, row, col) == expected


def test_by_eye():
    assert outline(drawn("#")) == [[[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]]
    ((outer, hole),) = outline(drawn("### #.# ###"))
    assert outer == [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]
    assert sorted(map(tuple, hole[:-1])) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    # two pixels that touch in a corner are two polygons; a hole that touches the border in one is still a hole
    assert len(outline(drawn("#. .#"))) == 2
    ((outer, hole),) = outline(drawn("### #.# ##."))
    assert (area(outer), area(hole)) == (8, -1)


LABELS = np.array([[1, 1, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]], np.int32)
NFA = np.where(LABELS == 1, -12.5, np.where(LABELS == 2, -0.5, 3.0)).astype(np.float32)
SCORE = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)


def detection(name="plane", labels=LABELS, **options):
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
        provenance=Provenance(version="1"),
        **options,
    )


def features(path):
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    return collection["features"]


def test_regions_have_shape_class_and_measurements(tmp_path):
    path = tmp_path / "regions.geojson"
    write_geojson(path, [detection(pixel_size=(0.5, 0.25), unit="um")])
    one, two = features(path)
    assert one["type"] == "Feature"
    assert one["geometry"] == {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]}
    assert one["properties"]["objectType"] == "annotation"
    assert one["properties"]["classification"] == {"name": "Anomaly"}
    assert one["properties"]["measurements"] == pytest.approx(
        {"Area px^2": 2, "Area µm^2": 0.25, "log10 NFA": -12.5, "Peak score": 1 / 11, "Mean score": 0.5 / 11}, rel=1e-5
    )
    assert two["geometry"]["type"] == "MultiPolygon"  # its two pixels touch in a corner
    mask = sum(filled(rings, LABELS.shape).astype(int) for rings in two["geometry"]["coordinates"])
    np.testing.assert_array_equal(mask, LABELS == 2)
    assert json.loads(path.read_text(encoding="utf-8"))["napari_uflow"]["version"] == "1"


def test_planes_of_a_stack(tmp_path):
    path = tmp_path / "regions.geojson"
    write_geojson(path, [detection("a"), detection("b")], [{"z": 0, "t": 0}, {"t": 3}])
    found = features(path)
    assert [feature["geometry"].get("plane") for feature in found] == [None, None] + [{"c": -1, "z": 0, "t": 3}] * 2
    write_geojson(path, [detection("part")], [{"row": 10, "col": 20}])
    assert features(path)[0]["geometry"]["coordinates"] == [[[20, 10], [22, 10], [22, 11], [20, 11], [20, 10]]]
    assert all("Area µm^2" not in feature["properties"]["measurements"] for feature in found)
    with pytest.raises(ConfigError, match="one for each of the 1 detections, not 2"):
        write_geojson(path, [detection()], [{}, {}])


def test_labels_that_do_not_begin_at_one(tmp_path):
    path = tmp_path / "regions.geojson"
    write_geojson(path, [detection().numbered_after(7)])
    assert [feature["properties"]["name"] for feature in features(path)] == ["plane 8", "plane 9"]
    assert features(path)[0]["geometry"]["coordinates"][0][1] == [2, 0]


def test_no_regions_and_no_folder(tmp_path):
    path = tmp_path / "regions.geojson"
    write_geojson(path, [detection(labels=np.zeros_like(LABELS))])
    assert features(path) == []
    with pytest.raises(UFlowError, match="there is no folder"):
        write_geojson(tmp_path / "none" / "regions.geojson", [])


@pytest.mark.parametrize("name", ["a.geojson", "a.json"])
def test_a_file_of_others_is_replaced_only_on_request(tmp_path, name):
    path = tmp_path / name
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(OverwriteError, match=name):
        write_geojson(path, [])
    write_geojson(path, [], overwrite=True)
    write_geojson(path, [])  # its own
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
