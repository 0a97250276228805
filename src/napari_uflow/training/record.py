"""The record of a training that ends."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Collection, Sequence
from importlib.metadata import version

import numpy as np
import torch

from napari_uflow import __version__
from napari_uflow.config import ModelConfig
from napari_uflow.detection.magnification import relative_magnification
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import EarlierTraining, TrainingOutcome, TrainingRecord
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.training.tiles import Split, regions_of

__all__ = ["record_of"]

# Names of images that a record keeps.
_MOST_NAMES = 1000


def record_of(
    regions: Sequence[NormalRegion],
    split: Split,
    outcome: TrainingOutcome,
    *,
    config: ModelConfig,
    marks: Collection[str],
    backbone_weights: str,
    device: torch.device,
    init_from: TrainedModel | None,
    continues: bool,
    pixel_size: PixelSize | None,
) -> TrainingRecord:
    """Return the record of a training that ends now.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of the training; repetitions count once.
    split : Split
        Tiles of the training.
    outcome : TrainingOutcome
        How it ends.
    config : ModelConfig
        Parts of the model.
    marks : collection of str
        What the images of the regions are known by again.
    backbone_weights : str
        File or package, or name at the model hub, of the backbone's weights.
    device : torch.device
        Device of the training.
    init_from : TrainedModel or None
        Model that it was resumed from.
    continues : bool
        That model is a snapshot of the same training.
    pixel_size : PixelSize or None
        Pixel size that the images were brought to.
    """
    distinct = list(dict.fromkeys(regions))
    planes = [region.plane for region in distinct]
    specimens, first_training, resumed_from = split.specimens, None, None
    known = frozenset(marks)
    seen = {tile.region.specimen for tile in (*split.train, *split.holdout)}
    if init_from is not None:
        seen |= init_from.record.all_specimens.union(init_from.record.earlier_specimens)
        known |= set(init_from.record.image_marks)
        specimens |= set(init_from.record.specimens)
        first_training = init_from.record.first_training or (None if continues else init_from.training)
        n_steps = int(max((point["step"] for point in init_from.history), default=0))
        resumed_from = EarlierTraining(init_from.record.date, n_steps, init_from.record.resumed_from, continues)
    ratios = [relative_magnification(config, pixel_size, plane) for plane in planes]
    if init_from is not None:
        ratios += init_from.record.pixel_size_range
    return TrainingRecord(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        outcome=outcome,
        n_images=len(planes),
        image_names=tuple(plane.title for plane in planes[:_MOST_NAMES]),
        image_marks=tuple(sorted(known)),
        specimens=tuple(sorted(specimens)),
        holdout_specimens=tuple(sorted(split.holdout_specimens)),
        earlier_specimens=tuple(sorted(seen - specimens - split.holdout_specimens)),
        n_tiles=len(split.train),
        n_holdout_tiles=len(split.holdout),
        n_marked_normal=sum(region.is_marked_normal for region in distinct),
        n_marked_held_out=sum(region.is_marked_normal for region in regions_of(split.holdout)),
        pixel_size=None if pixel_size is None else (pixel_size.height, pixel_size.width),
        unit=None if pixel_size is None else pixel_size.unit,
        pixel_size_range=(min([1.0, *ratios]), max([1.0, *ratios])),
        versions=_versions(),
        backbone_weights=backbone_weights,
        device=str(device),
        first_training=first_training,
        resumed_from=resumed_from,
    )


def _versions() -> dict[str, str]:
    return {
        "napari-uflow": __version__,
        "torch": torch.__version__,
        "timm": version("timm"),
        "FrEIA": version("FrEIA"),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
