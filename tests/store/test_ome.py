"""OME-XML is checked before it is obeyed: entities, other files, declared sizes."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.store.images import read_planes

VALUES = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write(path: Path, sizes: str = "", inside: str = "<TiffData/>", around: str = "", n_pages: int = 1) -> Path:
    """Write an OME-TIFF with given XML."""
    counts = {axis: f'Size{axis}="1"' for axis in "ZCT" if f"Size{axis}" not in sizes}
    attributes = f'SizeX="30" SizeY="20" {sizes} {" ".join(counts.values())}'
    xml = (
        f'<?xml version="1.0"?>{around}<OME xmlns="{NAMESPACE}"><Image ID="Image:0" Name="a"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint8" {attributes}><Channel ID="c"/>{inside}</Pixels></Image></OME>'
    )
    values = VALUES if n_pages == 1 else np.stack([VALUES] * n_pages)
    tifffile.imwrite(path, values, description=xml, metadata=None)
    return path


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [
        *((f'Size{axis}="100000000"', "<TiffData/>") for axis in "ZCT"),
        ('SizeZ="1000" SizeT="1000"', "<TiffData/>"),
        ("", '<TiffData PlaneCount="1000000000"/>'),
        ("", '<TiffData NumPlanes="1000000000"/>'),
    ],
)
def test_more_planes_than_can_be_read_are_refused_unread(sizes: str, inside: str, tmp_path: Path) -> None:
    before = peak()
    with pytest.raises(ImageError, match=r"declares .* planes, more than 100,000"):
        read_planes(write(tmp_path / "a.ome.tif", sizes, inside))
    assert peak() - before < 50_000  # kB


def test_planes_that_were_not_written_are_black(tmp_path: Path) -> None:
    write(tmp_path / "a.ome.tif", 'SizeT="3"', '<TiffData IFD="0"/>')
    first, second, _ = read_planes(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(first.read()[0], VALUES)
    assert second.read().max() == 0


@pytest.mark.parametrize("along", ['End="1e12"', 'End="inf"', 'End="5" Step="0"', 'End="5" Step="1e-9"', 'End="x"'])
def test_axes_of_damaged_length_are_refused(along: str, tmp_path: Path) -> None:
    modulo = f'<Modulo><ModuloAlongT Type="lifetime" Start="0" {along}/></Modulo>'
    annotation = (
        f'<XMLAnnotation ID="A:0" Namespace="openmicroscopy.org/modulo"><Value>{modulo}</Value></XMLAnnotation>'
    )
    annotation = f"<StructuredAnnotations>{annotation}</StructuredAnnotations>"
    write(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        xml = tif.ome_metadata
    tifffile.tiffcomment(tmp_path / "a.ome.tif", xml.replace("</OME>", f"{annotation}</OME>").encode())
    with pytest.raises(ImageError, match="metadata of its axes"):
        read_planes(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    "around",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        "<!DOCTYPE OME [" + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)) + "]>",
        '<!DOCTYPE OME SYSTEM "http://example.org/a.dtd">',
    ],
)
def test_entities_are_refused(around: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a\.ome\.tif' has XML metadata with entities"):
        read_planes(write(tmp_path / "a.ome.tif", around=around))


def two_files(folder: Path, other: str, target: Path) -> Path:
    """Write an image whose second plane is in another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(target, VALUES + 9, metadata=None)
    uuid = f'<UUID FileName="{other}">urn:uuid:x</UUID>'
    inside = f'<TiffData IFD="0" FirstZ="0"/><TiffData IFD="0" FirstZ="1">{uuid}</TiffData>'
    folder.mkdir(exist_ok=True)
    return write(folder / "a.ome.tif", 'SizeZ="2"', inside)


@pytest.mark.parametrize("other", ["b.tif", "more/b.tif"])
def test_an_image_in_several_files(other: str, tmp_path: Path) -> None:
    path = two_files(tmp_path / "here", other, tmp_path / "here" / other)
    for place in (path, tmp_path / "link.ome.tif"):
        if not place.exists():
            place.symlink_to(path)
            continue
        _, second = read_planes(place)
        np.testing.assert_array_equal(second.read()[0], VALUES + 9)


@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_other_files_are_in_the_folder_of_the_image(how: str, tmp_path: Path) -> None:
    target = tmp_path / "there" / "b.tif"
    other = {"relative": "../there/b.tif", "absolute": str(target), "link": "b.tif"}[how]
    path = two_files(tmp_path / "here", other, target)
    if how == "link":
        (tmp_path / "here" / "b.tif").symlink_to(target)
    with pytest.raises(ImageError, match="outside its folder"):
        read_planes(path)


def test_an_image_that_is_linked_has_its_other_files_beside_it(tmp_path: Path) -> None:
    path = two_files(tmp_path / "here", "b.tif", tmp_path / "here" / "b.tif")
    (tmp_path / "staged").mkdir()
    for name in ("a.ome.tif", "b.tif"):
        (tmp_path / "staged" / name).symlink_to(path.parent / name)
    _, second = read_planes(tmp_path / "staged" / "a.ome.tif")
    np.testing.assert_array_equal(second.read()[0], VALUES + 9)


def test_a_file_that_is_missing_is_black_and_one_that_vanishes_an_error(tmp_path: Path) -> None:
    path = two_files(tmp_path / "here", "b.tif", tmp_path / "here" / "b.tif")
    _, second = read_planes(path)
    os.unlink(tmp_path / "here" / "b.tif")
    with pytest.raises(ImageError, match=r"b\.tif' cannot be read \(No such file"):
        second.read()


def test_damaged_xml_is_read_without_it(tmp_path: Path) -> None:
    write(tmp_path / "a.ome.tif")
    tifffile.tiffcomment(tmp_path / "a.ome.tif", b"<OME><Image></OME>")
    (plane,) = read_planes(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(plane.read()[0], VALUES)


@pytest.mark.parametrize("number", ["x", "-5", "", "0", "1e3", "99999999999999999999999"])
def test_wrong_numbers_in_xml_are_our_error(number: str, tmp_path: Path) -> None:
    write(tmp_path / "a.ome.tif", f'SizeZ="{number}"')
    try:
        found = [plane.read()[0] for plane in read_planes(tmp_path / "a.ome.tif")]
    except ImageError as error:
        assert "a.ome.tif'" in str(error)  # noqa: PT017 - either outcome is right
    else:
        np.testing.assert_array_equal(found, [VALUES])
