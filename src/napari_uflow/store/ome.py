"""OME-XML in TIFF files: checked before it is obeyed, and what it says of each image."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from napari_uflow.errors import ImageError
from napari_uflow.store.calibration import UNKNOWN, Calibration, number
from napari_uflow.store.reading import MAX_PLANES, check_planes, is_inside

__all__ = ["OmeImage", "image_of", "read_ome"]


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of an image.

    Attributes
    ----------
    name : str
        Name; "" for none.
    shape : (int, int)
        Rows and columns, in pixels.
    calibration : Calibration
        Its sizes.
    channel_names : list of str or None
        One name for each channel, if they are complete and differ from each other.
    """

    name: str
    shape: tuple[int, int]
    calibration: Calibration = UNKNOWN
    channel_names: list[str] | None = None


def read_ome(xml: str, path: Path) -> list[OmeImage]:
    """Return what OME-XML says of its images; refuse what leads out of the folder or declares more than can be read.

    Parameters
    ----------
    xml : str
        Description of a TIFF file.
    path : Path
        The TIFF file; other files of its image must be in its folder or below.

    Returns
    -------
    list of OmeImage
        Images in their order; none if the description is no XML, or other XML.

    Raises
    ------
    ImageError
        If the XML defines entities, names a file elsewhere, or declares too many planes.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ImageError(f"'{path}' has XML metadata with entities, which are not read; save the image again")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return []
    _check_files(root, path)
    _check_sizes(root, path)
    return [_image(image, pixels) for image in _named(root, "Image") for pixels in _named(image, "Pixels")]


def _check_files(root: ElementTree.Element, path: Path) -> None:
    folders = (path.parent, path.resolve().parent)  # a linked image has its other files beside either
    for element in _named(root, "UUID"):
        name = element.get("FileName")
        if name and not is_inside(path.parent / name, *folders):
            raise ImageError(
                f"'{path}' refers to '{name}' outside its folder, which is not read; put all files into one"
            )


def _check_sizes(root: ElementTree.Element, path: Path) -> None:
    n_planes = 0
    for pixels in _named(root, "Pixels"):
        n_planes += math.prod(max(_whole(pixels.get(f"Size{axis}", "1")), 0) for axis in "CZT")
        for data in _named(pixels, "TiffData"):
            check_planes(max(_whole(data.get(n, "0")) for n in ("PlaneCount", "NumPlanes")), path)
    check_planes(n_planes, path)
    for along in (e for e in root.iter() if _tag(e).startswith("ModuloAlong")):
        steps = number(along.get("End", "0")) - number(along.get("Start", "0"))
        n_steps = abs(steps / (number(along.get("Step", "1")) or math.nan))
        if not n_steps <= MAX_PLANES:
            raise ImageError(f"'{path}' has damaged metadata of its axes; save the image again")


def _image(image: ElementTree.Element, pixels: ElementTree.Element) -> OmeImage:
    shape = _whole(pixels.get("SizeY", "0")), _whole(pixels.get("SizeX", "0"))
    sizes = {axis: (pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YXZ"}
    sizes["T"] = (pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    return OmeImage(image.get("Name", ""), shape, Calibration.of(sizes), _channel_names(pixels))


def image_of(images: Sequence[OmeImage], name: str, shape: tuple[int, int]) -> OmeImage | None:
    """Return the image of a series, by its name or else by its size; None if there is no single one."""
    fitting = [image for image in images if image.shape == shape]
    named = [image for image in fitting if image.name == name]
    candidates = named or fitting
    return candidates[0] if len({(str(c.calibration), str(c.channel_names)) for c in candidates}) == 1 else None


def _channel_names(pixels: ElementTree.Element) -> list[str] | None:
    channels = list(_named(pixels, "Channel"))
    if not channels:
        return None
    names = [channel.get("Name", "") for channel in channels]
    n_channels = _whole(pixels.get("SizeC", "1")) // max(_whole(channels[0].get("SamplesPerPixel", "1")), 1)
    return names if all(names) and len(names) == n_channels == len(set(names)) else None


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _named(root: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (element for element in root.iter() if _tag(element) == tag)


def _whole(text: str) -> int:
    """Return a whole number of a file, 0 if it is none."""
    try:
        return int(text)
    except ValueError:
        return 0
