"""Export of a result: files, a script, a paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow._napari.contributions.io import write_image, write_labels, write_mask
from napari_uflow._napari.layers.axes import axis_letters
from napari_uflow._napari.layers.place import channel_options, place_of
from napari_uflow._napari.layers.planes import planes_of_layer
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import ConfigError, UFlowError
from napari_uflow.store.endings import with_ending

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["EXPORTS", "as_methods_text", "as_python", "export"]

EXPORTS: Mapping[str, tuple[str, str, str]] = {
    "csv": ("Table (CSV)...", " regions.csv", "Tables (*.csv)"),
    "geojson": ("Outlines for QuPath (GeoJSON)...", " regions.geojson", "GeoJSON (*.geojson *.json)"),
    "labels": ("Labels as TIFF...", " labels.tif", "TIFF (*.tif *.tiff)"),
    "mask": ("Mask as TIFF, 0 and 255...", " mask.tif", "TIFF (*.tif *.tiff)"),
    "heatmap": ("Heatmap as TIFF...", " heatmap.tif", "TIFF (*.tif *.tiff)"),
}
"""Kind of file -> menu entry, end of the proposed name, and filter of the dialog."""

_ENDINGS = {"csv": (".csv",), "geojson": (".geojson", ".json")}


def export(kind: str, path: str, result: LayerDetection, image: Image | None) -> str:
    """Write a result to a file and return its name.

    Parameters
    ----------
    kind : str
        One of `EXPORTS`.
    path : str
        Name of the file; a missing ending is added.
    result : LayerDetection
        The result.
    image : Image or None
        Image layer of the result; None if it was closed.

    Raises
    ------
    ConfigError
        If the file is the image, its ending is that of another kind of file, or the added ending makes it a file of
        another origin, for which no dialog has asked.
    UFlowError
        If the file cannot be written.
    """
    if kind in ("csv", "geojson"):
        from napari_uflow.store.provenance import check_replaceable, identities

        name = with_ending(path, _ENDINGS[kind])
        sources = identities(Path(found.provenance.source) for found in result.detections if found.provenance.source)
        check_replaceable(name, sources, overwrite=name == path)  # the dialog has asked for this name only
        shown = result.shown()
        detections = [plane.found for plane in shown]
        if kind == "csv":
            from napari_uflow.store.regions import write_regions

            write_regions(name, detections, overwrite=True)
        else:
            from napari_uflow.store.geojson import write_geojson

            places = [_place(result, plane.index, image) for plane in shown]
            write_geojson(name, detections, places, overwrite=True)
        return name
    write = {"labels": write_labels, "mask": write_mask, "heatmap": write_image}[kind]
    layer = result.heatmap if kind == "heatmap" else result.labels
    data, meta, _ = layer.as_layer_data_tuple()
    return write(path, data, meta)[0]


def _place(result: LayerDetection, index: tuple[int, ...], image: Image | None) -> dict[str, int]:
    """Return the position of a plane by the axes that QuPath knows."""
    if image is not None:
        try:
            place = place_of(image, result.labels, index)
        except UFlowError:  # the image was changed: use the axes of the result
            pass
        else:
            return {"row": place.row, "col": place.col, **{a.lower(): place.at[a] for a in "ZT" if a in place.at}}
    letters = axis_letters(result.labels)
    return {letter.lower(): i for letter, i in zip(letters, index, strict=False) if letter in "ZT"}


def as_python(result: LayerDetection, session: Session, index: tuple[int, ...], image: Image | None) -> str:
    """Return a script that repeats a detection with its own model.

    `index` is the plane of a result that does not cover the image.
    """
    from napari_uflow.evaluation.methods import python_script

    found = dict(result.planes)[index]
    scope = result.labels.metadata.get("napari_uflow", {}).get("scope")
    options = channel_options(result.labels)
    positions = None
    if scope in ("slice", "view") and image is not None:
        place = place_of(image, result.labels, index)
        planes = planes_of_layer(image, **options)
        positions = [i for i, plane in enumerate(planes) if plane.index == place.at] if len(planes) > 1 else None
    remarks = ["Only a part of the image was processed in napari; this script processes all of it."] * (scope == "view")
    remarks += [
        "Regions were painted or erased by hand in napari; this script gives those detected."
    ] * result.is_edited
    model = result.model or session.model
    return python_script(
        found,
        None if model is None else session.path_of(model),
        positions=positions,
        channels=options["channels"],
        remark=" ".join(remarks),
    )


def as_methods_text(result: LayerDetection | None, session: Session) -> str:
    """Return a paragraph for the methods section, on the model that made the result.

    Raises
    ------
    ConfigError
        If there is no model.
    """
    from napari_uflow.evaluation.methods import methods_text

    model = (None if result is None else result.model) or session.model
    if model is None:
        raise ConfigError("no model to describe: open the model of this result")
    if result is None:
        return methods_text(model, None)
    return methods_text(model, list(result.detections), is_edited=result.is_edited)
