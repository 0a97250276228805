"""From images to normal regions: the one rule of which images come from one specimen.

A specimen is an independent sample: a slide, a wafer, a culture. Tiles cut from one slide are alike, so they are held
out of training together, and a guarantee counts specimens, not images. The command line, the plugin and Python apply
this one rule to the same files:

1. A specimen that was given with a region is obeyed.
2. With a pattern, its group in the image's name is the specimen.
3. Otherwise the image's name is, without a tile coordinate at its end such as ``_x000_y128``. All planes of a file are
   of one specimen. Files of the same name in two folders come from two specimens.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.specimen import specimen_of
from napari_uflow.model.record import TrainingRecord
from napari_uflow.store.files import stem_of
from napari_uflow.store.images import find_images, read_planes
from napari_uflow.store.masks import MaskFolder, read_masks
from napari_uflow.store.provenance import left_out_text, without_results
from napari_uflow.system.patterns import search_group

__all__ = ["assign_specimens", "matching_specimens", "read_regions", "regions_of_training"]

logger = logging.getLogger(__name__)


def read_regions(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    masks: str | os.PathLike[str] | None = None,
    *,
    channels: int | str | Sequence[int | str] | None = None,
    axes: str | None = None,
    series: int | str | None = None,
    report: Callable[[str], None] = logger.warning,
) -> list[NormalRegion]:
    """Open files of normal images and return what is normal in them, plane by plane; hardly a pixel is read.

    Parameters
    ----------
    images : path-like, or iterable of path-like
        Files, folders or patterns, as for :func:`~napari_uflow.store.images.find_images`.
    masks : path-like, optional
        Folder with one mask for each image, of its name and ``_mask`` or of its name alone; pixels above 0 are normal.
        A mask of one plane is that of all planes of its image; those of a stack belong to the planes at the same
        positions. Without it, everything is normal.
    channels, axes, series
        As in :func:`~napari_uflow.store.images.read_planes`.
    report : callable
        Is told of results of a detection among the images, which are left out; by default they are logged.

    Returns
    -------
    list of NormalRegion
        Training applies the rule of this module to them, see :func:`assign_specimens`.

    Raises
    ------
    ImageError
        If there is no image, one cannot be read, or one has no mask or one that does not fit it.
    ConfigError
        If all files are results of a detection.
    """
    regions = []
    folder = None if masks is None else MaskFolder(masks)
    paths, results = without_results(find_images(images))
    if results:
        report(left_out_text(results))
    for path in paths:
        planes = read_planes(path, channels=channels, axes=axes, series=series)
        found = read_masks(_mask_of(folder, path), planes, axes=axes) if folder is not None else [None] * len(planes)
        regions += [NormalRegion(plane, mask) for plane, mask in zip(planes, found, strict=True)]
    return regions


def _mask_of(folder: MaskFolder, path: Path) -> Path:
    found = folder.find(path)
    if found is None:
        stem = stem_of(path)
        raise ImageError(
            f"there is no mask for '{path.name}' in '{folder}'; name it {stem}_mask.png or {stem}_mask.tif"
        )
    return found


def assign_specimens(
    regions: Sequence[NormalRegion], pattern: str = "", known: Collection[str] = ()
) -> list[NormalRegion]:
    """Return regions with their specimens by the rule of this module; those given by the user stay.

    Parameters
    ----------
    regions : sequence of NormalRegion
        A region that is given several times stays one object.
    pattern : str
        Regular expression whose only group is the specimen, searched in the names of the images; "" for the rule.
    known : collection of str
        Specimens of a model that is trained further: an image keeps the name that its specimen had there.

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or does not match a name.
    """
    if pattern:
        return _assigned_by_pattern(regions, pattern)
    name_of = _names_by_file(regions)
    with_folder = _names_with_folder(regions, name_of)
    assigned: dict[int, NormalRegion] = {}
    for region in regions:
        if region.has_given_specimen:
            assigned[id(region)] = region
        elif id(region) not in assigned:
            specimen, folder = specimen_of(name_of(region)), _folder(region)
            known_as = [name for name in _names_in(folder, specimen) if name in known]
            name = known_as[0] if known_as else with_folder.get((specimen, folder), specimen)
            assigned[id(region)] = region.of_specimen(name)
    return [assigned[id(region)] for region in regions]


def _assigned_by_pattern(regions: Sequence[NormalRegion], pattern: str) -> list[NormalRegion]:
    name_of = _names_by_file(regions)
    assigned: dict[int, NormalRegion] = {}
    for region, specimen in zip(regions, matching_specimens(regions, pattern), strict=True):
        if specimen is None:
            raise ConfigError(f"the specimen pattern {pattern!r} does not match the file name '{name_of(region)}'")
        assigned.setdefault(id(region), region if region.has_given_specimen else region.of_specimen(specimen))
    return [assigned[id(region)] for region in regions]


def matching_specimens(regions: Sequence[NormalRegion], pattern: str) -> list[str | None]:
    """Return the specimen of each region by a pattern, or the one that it was given with.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of any images.
    pattern : str
        Regular expression whose only group is the specimen, searched in the names of the images.

    Returns
    -------
    list of str or None
        None where the pattern does not match.

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or takes too long.
    """
    name_of = _names_by_file(regions)
    names = list(dict.fromkeys(name_of(region) for region in regions if not region.has_given_specimen))
    found = dict(zip(names, search_group(pattern, names), strict=True))
    return [region.specimen if region.has_given_specimen else found[name_of(region)] for region in regions]


def regions_of_training(
    regions: Sequence[NormalRegion], record: TrainingRecord, pattern: str = ""
) -> list[NormalRegion]:
    """Return the regions whose specimens had a part in a training, held out or not.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of any images.
    record : TrainingRecord
        Record of the training.
    pattern : str
        Specimen pattern of the training. A specimen of an image whose name it does not match had no part.

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or takes too long.
    """
    known = record.all_specimens
    if pattern:
        specimens = matching_specimens(regions, pattern)
    else:
        specimens = [assign_specimens([region], "", known)[0].specimen for region in regions]
    return [region for region, specimen in zip(regions, specimens, strict=True) if specimen in known]


def _names_by_file(regions: Sequence[NormalRegion]) -> Callable[[NormalRegion], str]:
    """Return the function that names a region's image: all planes of a file have the name of its first."""
    names: dict[str, str] = {}
    for region in regions:
        source = region.plane.source
        if source is not None:
            names.setdefault(source, _name_in_file(region.plane.name, source))
    return lambda region: region.plane.name if region.plane.source is None else names[region.plane.source]


def _name_in_file(name: str, source: str) -> str:
    """Return an image's name without what napari adds to a name that it has already: "slide1 [2]"."""
    stem = stem_of(Path(source))
    return stem if re.fullmatch(rf"{re.escape(stem)}(\.(ome|OME))?( \[\d+\])?", name) else name


def _folder(region: NormalRegion) -> Path | None:
    return None if region.plane.source is None else Path(region.plane.source).absolute().parent


def _names_with_folder(
    regions: Sequence[NormalRegion], name_of: Callable[[NormalRegion], str]
) -> dict[tuple[str, Path | None], str]:
    """Return the names of specimens that need their folder's name, since an image of theirs is in two folders."""
    folders_of_image: defaultdict[str, set[Path]] = defaultdict(set)
    folders: defaultdict[str, set[Path]] = defaultdict(set)
    for region in regions:
        folder = _folder(region)
        if folder is not None and not region.has_given_specimen:
            name = name_of(region)
            folders_of_image[name].add(folder)
            folders[specimen_of(name)].add(folder)
    names: dict[tuple[str, Path | None], str] = {}
    for specimen in {specimen_of(name) for name, places in folders_of_image.items() if len(places) > 1}:
        places = folders[specimen]
        # as many folders of each path as tell them apart
        depth = next(n for n in range(1, 1000) if len({place.parts[-n:] for place in places}) == len(places))
        for place in places:
            names[specimen, place] = "/".join((*place.parts[-depth:], specimen))
    return names


def _names_in(folder: Path | None, specimen: str) -> list[str]:
    """Return the names under which a model may know a specimen, the shortest first."""
    parts = () if folder is None else folder.parts
    return [specimen, *("/".join((*parts[-n:], specimen)) for n in range(1, len(parts) + 1))]
