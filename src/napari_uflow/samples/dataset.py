"""Data sets of drawn fibre images, in memory and as files in the layout of MVTec AD."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_uflow.samples.defects import DefectKind
from napari_uflow.samples.fibres import FibreField, fibre_field

__all__ = ["fibre_dataset", "write_fibre_dataset"]


def fibre_dataset(
    n_normal: int, n_defective: int, *, shape: tuple[int, int] = (256, 256), seed: int = 0, **drawing: Any
) -> list[FibreField]:
    """Draw normal images, then defective ones with one kind of defect each.

    Parameters
    ----------
    n_normal, n_defective : int
        Number of images without and with defects. The kinds alternate; an image has 1 to 3 defects of its kind.
    shape : (int, int)
        Rows and columns (M, N) of each image.
    seed : int
        Seed of the data set, 0 or more. Image ``i`` does not depend on the number of other images.
    **drawing
        ``severity``, ``diameter_px`` and ``aligned`` of :func:`fibre_field`.

    Returns
    -------
    list of FibreField
        First the normal images, then the defective ones.
    """
    normals = [fibre_field(_field_seed(seed, 0, i), shape=shape, **drawing) for i in range(n_normal)]
    order: tuple[DefectKind, ...] = get_args(DefectKind)
    return normals + [
        fibre_field(_field_seed(seed, 1, i), shape=shape, defects=1 + (i // 3) % 3, kinds=(order[i % 3],), **drawing)
        for i in range(n_defective)
    ]


def write_fibre_dataset(
    folder: str | Path,
    *,
    n_train: int = 20,
    n_test_good: int = 5,
    n_test_defective: int = 9,
    shape: tuple[int, int] = (256, 256),
    seed: int = 0,
    **drawing: Any,
) -> Path:
    """Write a data set as PNG files in the layout of MVTec AD.

    The images go to ``train/good``, ``test/good`` and ``test/<kind>``, the masks (0 or 255) to
    ``ground_truth/<kind>/<stem>_mask.png``. Existing files of the same names are overwritten.

    Parameters
    ----------
    folder : str or Path
        Folder to write to; created if it does not exist.
    n_train, n_test_good, n_test_defective : int
        Number of training images, of normal and of defective test images.
    shape : (int, int)
        Rows and columns (M, N) of each image.
    seed : int
        Seed of the data set, 0 or more.
    **drawing
        ``severity``, ``diameter_px`` and ``aligned`` of :func:`fibre_field`.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    fields = fibre_dataset(n_train + n_test_good, n_test_defective, shape=shape, seed=seed, **drawing)
    counts: dict[str, int] = {}
    for i, drawn in enumerate(fields):
        group = f"test/{drawn.kinds[0]}" if drawn.kinds else "train/good" if i < n_train else "test/good"
        stem = f"{counts.setdefault(group, 0):03d}"
        counts[group] += 1
        _write_png(folder / group / f"{stem}.png", drawn.image)
        if drawn.kinds:
            _write_png(folder / "ground_truth" / drawn.kinds[0] / f"{stem}_mask.png", drawn.mask * np.uint8(255))
    return folder


def _field_seed(seed: int, group: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, group, index)).generate_state(1)[0])


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    signature = PngInfo()
    signature.add_text("Source", "napari-uflow sample")  # by which `store.provenance` knows the files
    Image.fromarray(image).save(path, pnginfo=signature)
