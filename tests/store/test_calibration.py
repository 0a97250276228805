"""Sizes are read as other programs write them; what cannot be understood is no calibration and no error."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_uflow.image.plane import Plane
from napari_uflow.store.calibration import UNKNOWN, Calibration, number
from napari_uflow.store.images import read_planes
from napari_uflow.store.tiff_writer import write_tiff
from napari_uflow.store.units import normal_unit, seconds_per

VALUES = np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, 20, 30)


def calibration_of(plane: Plane) -> Any:
    return plane.pixel_size, plane.unit, plane.z_spacing, plane.frame_interval


def ome(path: Path, **attributes: Any) -> Plane:
    """Write an OME-TIFF with raw attributes of its pixels and read it."""
    tifffile.imwrite(path, VALUES, metadata={"axes": "ZYX"})
    text = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    with tifffile.TiffFile(path) as tif:
        xml = tif.ome_metadata
    tifffile.tiffcomment(path, xml.replace("<Pixels ", f"<Pixels {text} ").encode())
    return read_planes(path)[0]


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        *(
            (text, "um")
            for text in ("um", "µm", "μm", "\\u00B5m", "\\u03bcm", " Micron ", "microns", "MICROMETER", "micrometres")
        ),
        *((text, "nm") for text in ("nm", "NM", "nanometer", "Nanometres")),
        *((text, "angstrom") for text in ("Å", "\u212b", "\\u00C5", "A\u030a", "angstrom", "Ångström", "ANGSTROMS")),
        *((text, "mm") for text in ("mm", "millimetre")),
        *((text, "cm") for text in ("cm", "centimeters")),
        *((text, "inch") for text in ("inch", "in", "Inches")),
        *((text, None) for text in ("", " ", "pixel", "Pixels", "px", "reference frame", "none")),
        ("parsec", "parsec"),
    ],
)
def test_a_unit_has_one_name(spelling: str, unit: str | None) -> None:
    assert normal_unit(spelling) == unit


@pytest.mark.parametrize(
    ("unit", "seconds"), [("s", 1), ("sec", 1), ("ms", 1e-3), ("min", 60), ("µs", 1e-6), ("hour", 3600)]
)
def test_units_of_time(unit: str, seconds: float) -> None:
    assert seconds_per(unit) == seconds
    assert seconds_per("parsec") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [("0.25", 0.25), ("0,25", 0.25), (" 1e-3 ", 1e-3), (2, 2), (True, 1)],
)
def test_numbers(given: Any, expected: float) -> None:
    assert number(given) == expected


@pytest.mark.parametrize("given", ["", "x", "1,234.5", "1,2,3", None, [], "1e400", 10**400])
def test_what_is_no_number_is_no_error(given: Any) -> None:
    assert not number(given) < float("inf")


def test_lengths_in_different_units_get_that_of_the_rows() -> None:
    found = Calibration.of({"Y": (0.5, "um"), "X": (250, "nm"), "Z": (0.001, "mm"), "T": (2, "min")})
    assert (found.pixel_size, found.unit) == (pytest.approx((0.5, 0.25)), "um")
    assert (found.z_spacing, found.frame_interval) == (pytest.approx(1), 120)


@pytest.mark.parametrize("size", [0, -1, float("inf"), float("nan"), "x", None, 10**400])
def test_a_size_that_cannot_be_is_left_out(size: Any) -> None:
    assert Calibration.of({"Y": (size, "um"), "X": (1, "um")}) == UNKNOWN
    assert Calibration.of({"Y": (1, "um"), "X": (size, "um")}) == UNKNOWN
    found = Calibration.of({"Y": (1, "um"), "X": (2, "um"), "Z": (size, "um"), "T": (size, "s")})
    assert found == Calibration(pixel_size=(1, 2), unit="um")


@pytest.mark.parametrize("unit", [None, "pixel", "parsec"])
def test_units_that_cannot_be_compared_are_no_calibration(unit: Any) -> None:
    assert Calibration.of({"Y": (1, "um"), "X": (1, unit)}) == UNKNOWN
    assert Calibration.of({"Y": (1, unit), "X": (1, "um")}) == UNKNOWN
    assert Calibration.of({"Y": (1, "um"), "X": (1, "um"), "Z": (1, unit)}).z_spacing is None


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"PhysicalSizeX": "0,25", "PhysicalSizeY": "0,5"}, ((0.5, 0.25), "um", None, None)),
        ({"PhysicalSizeX": "0.25", "PhysicalSizeY": "500", "PhysicalSizeYUnit": "nm"}, ((500, 250), "nm", None, None)),
        (
            {
                "PhysicalSizeX": 1,
                "PhysicalSizeY": 1,
                "PhysicalSizeZ": "2,5",
                "TimeIncrement": 500,
                "TimeIncrementUnit": "ms",
            },
            ((1, 1), "um", 2.5, 0.5),
        ),
        (
            {"PhysicalSizeX": 4.2, "PhysicalSizeY": 4.2, "PhysicalSizeXUnit": "Å", "PhysicalSizeYUnit": "Å"},
            ((4.2, 4.2), "angstrom", None, None),
        ),
        ({"PhysicalSizeX": "INF", "PhysicalSizeY": 1}, (None, None, None, None)),
        ({"PhysicalSizeX": -1, "PhysicalSizeY": 1}, (None, None, None, None)),
        ({"PhysicalSizeX": 0, "PhysicalSizeY": 0}, (None, None, None, None)),
        ({"PhysicalSizeX": "", "PhysicalSizeY": "x"}, (None, None, None, None)),
        ({"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel"}, (None, None, None, None)),
    ],
)
def test_sizes_of_ome(attributes: Any, expected: Any, tmp_path: Path) -> None:
    plane = ome(tmp_path / "a.ome.tif", **attributes)
    assert calibration_of(plane) == expected
    np.testing.assert_array_equal(plane.read()[0], VALUES[0])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"unit": "um"}, ((0.5, 0.25), "um", None, None)),
        ({"unit": "um", "yunit": "nm"}, ((0.5, 250), "nm", None, None)),
        ({"unit": "mm", "yunit": "um", "zunit": "nm", "spacing": 500}, ((0.5, 250), "um", 0.5, None)),
        ({"unit": "\\u00C5", "spacing": 1.5, "finterval": 0.2}, ((0.5, 0.25), "angstrom", 1.5, 0.2)),
        ({"unit": "micron", "finterval": 2, "tunit": "min"}, ((0.5, 0.25), "um", None, 120)),
        ({"unit": "um", "spacing": "0,75"}, ((0.5, 0.25), "um", 0.75, None)),
        ({"unit": "um", "yunit": "pixel"}, (None, None, None, None)),
        ({"unit": "cm"}, ((0.5, 0.25), "cm", None, None)),
        ({"unit": "inch"}, ((0.5, 0.25), "inch", None, None)),
        ({"finterval": 3}, (None, None, None, 3)),
        ({"unit": "um", "spacing": -1, "finterval": 0}, ((0.5, 0.25), "um", None, None)),
    ],
)
def test_sizes_of_imagej(metadata: Any, expected: Any, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES, imagej=True, resolution=(4, 2), metadata={"axes": "ZYX", **metadata})
    for plane in read_planes(tmp_path / "a.tif"):
        found = calibration_of(plane)
        assert found[0] == (expected[0] if expected[0] is None else pytest.approx(expected[0]))
        assert found[1:] == expected[1:]


@pytest.mark.parametrize(("unit", "um"), [("CENTIMETER", 10000), ("INCH", 25400)])
def test_imagej_without_a_unit_has_that_of_its_resolution(unit: str, um: float, tmp_path: Path) -> None:
    options = {"resolution": (4000, 2000), "resolutionunit": unit}
    tifffile.imwrite(tmp_path / "a.tif", VALUES, imagej=True, metadata={"axes": "ZYX"}, **options)
    plane = read_planes(tmp_path / "a.tif")[0]
    assert plane.unit == "um"
    assert plane.pixel_size == pytest.approx((um / 2000, um / 4000))


def test_an_angstrom_survives_writing(tmp_path: Path) -> None:
    for name in ("a.tif", "a.ome.tif"):
        write_tiff(tmp_path / name, VALUES[0], "YX", pixel_size=(4.2, 4.2), unit="Å")
        (plane,) = read_planes(tmp_path / name)
        assert (plane.pixel_size, plane.unit) == (pytest.approx((4.2, 4.2)), "angstrom")


def test_each_of_several_ome_images_has_its_own_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for size, name in ((1, "one"), (2, "two")):
            writer.write(VALUES[0], metadata={"Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size})
        writer.write(VALUES[0, 1:], metadata={"PhysicalSizeX": 3, "PhysicalSizeY": 3})
    assert [plane.pixel_size for plane in read_planes(tmp_path / "a.ome.tif")] == [(1, 1), (2, 2), (3, 3)]
    (plane,) = read_planes(tmp_path / "a.ome.tif", series="two")
    assert plane.pixel_size == (2, 2)


def test_a_slide_of_aperio_has_its_size_in_the_description(tmp_path: Path) -> None:
    slide(tmp_path / "a.svs")
    (plane,) = read_planes(tmp_path / "a.svs")
    assert (plane.pixel_size, plane.unit) == ((0.2498, 0.2498), "um")


def slide(path: Path) -> None:
    """Write a slide as Aperio's scanners do: tiles, a thumbnail, a label and a macro picture."""
    rgb = np.dstack([np.resize(VALUES, (256, 320)).astype(np.uint8)] * 3)
    text = "Aperio Image Library v1\r\n320x256 [0,0 320x256] (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2498"
    with tifffile.TiffWriter(path) as writer:
        for values, tile, kind in (
            (rgb, (64, 64), 0),
            (rgb[::4, ::4], None, 0),
            (rgb[:90, :70], None, 1),
            (rgb[:99], None, 9),
        ):
            writer.write(values, tile=tile, photometric="rgb", description=text, metadata=None, subfiletype=kind)
