"""Maps of a file keep the calibration of its planes."""

import numpy as np
import pytest
import tifffile

from napari_uflow.batch import output
from napari_uflow.batch.output import map_paths, write_detections
from napari_uflow.detection.detect import detect
from napari_uflow.errors import UFlowError
from napari_uflow.image.plane import planes_of


@pytest.mark.parametrize(
    ("axes", "spacing", "interval"), [("ZYX", 1.5, None), ("TYX", None, 0.25), ("TZYX", 1.5, 0.25), ("QYX", None, None)]
)
@pytest.mark.parametrize("pixel_size", [(0.5, 0.25), (5e-6, 5e-6)])  # as ImageJ and as OME
def test_the_spacing_of_slices_and_the_interval_of_frames_are_kept(
    tiny_model, tmp_path, axes, spacing, interval, pixel_size
):
    shape = {"T": 2, "Z": 2, "Q": 2, "Y": 40, "X": 48}
    stack = np.random.default_rng(0).integers(50, 90, [shape[axis] for axis in axes], dtype=np.uint8)
    planes = planes_of(stack, axes, pixel_size=pixel_size, unit="mm", z_spacing=1.5, frame_interval=0.25)
    write_detections(tmp_path, "a", planes, [detect(tiny_model, plane, device="cpu") for plane in planes])
    for path in map_paths(tmp_path, "a").values():
        with tifffile.TiffFile(path) as file:
            assert file.series[0].axes == ("ZYX" if "Q" in axes else axes)
            if file.is_ome:
                pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
                found = pixels.get("PhysicalSizeZ"), pixels.get("TimeIncrement")
            else:
                found = file.imagej_metadata.get("spacing"), file.imagej_metadata.get("finterval")
        assert found == (spacing, interval)


def test_a_full_disk_leaves_no_part_of_the_maps(tiny_model, tmp_path, monkeypatch):
    """The tables do not list an image whose maps cannot all be written."""
    (plane,) = planes_of(np.random.default_rng(0).integers(50, 90, (40, 48), dtype=np.uint8), "YX")
    found = detect(tiny_model, plane, device="cpu")
    write = output.write_tiff

    def full(path, *arguments, **options):
        if path.name == "a_labels.tif":
            raise UFlowError("No space left on device")
        write(path, *arguments, **options)

    monkeypatch.setattr(output, "write_tiff", full)
    with pytest.raises(UFlowError, match="No space"):
        write_detections(tmp_path, "a", [plane], [found])
    assert list(tmp_path.iterdir()) == []
