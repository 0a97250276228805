"""The command ``train``: a model from normal images, with snapshots from which a killed training is resumed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_uflow.cli.flags import config_of
from napari_uflow.cli.output import EXIT_FAILED, files_of, made_output, warn
from napari_uflow.cli.reporter import run_and_save
from napari_uflow.config import ModelConfig, TrainingConfig, training_preset
from napari_uflow.errors import ConfigError
from napari_uflow.wording import printable

if TYPE_CHECKING:
    from napari_uflow.image.region import NormalRegion
    from napari_uflow.model.record import TrainingRecord
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["train"]

# A model does not depend on these.
_FREE = {"cache_memory"}


@dataclass(frozen=True)
class _Plan:
    """A training: of a new model, of a model further, or the rest of an interrupted one, with its snapshot."""

    model: ModelConfig
    training: TrainingConfig
    init_from: TrainedModel | None = None
    snapshot: Path | None = None


def train(options: argparse.Namespace) -> int:
    """Train a model and write it to a file."""
    config_of(TrainingConfig, options)  # mistakes are told before anything is loaded
    config_of(ModelConfig, options)
    from napari_uflow.store.files import place_of

    with made_output(place_of(options.output).parent):
        return _train(options)


def _train(options: argparse.Namespace) -> int:
    output: Path = options.output
    from napari_uflow.store.files import delete
    from napari_uflow.store.model_place import check_model_place
    from napari_uflow.store.provenance import check_replaceable, identities
    from napari_uflow.training.snapshots import (
        describe,
        discard,
        interrupted,
        new_snapshot,
        prefix_of,
        writing_snapshots,
    )

    check_model_place(output, overwrite=options.overwrite)
    prefix = prefix_of(output)
    left = next(iter(interrupted(output.parent, prefix)), None)
    if left is not None and not options.resume:
        warn(
            f"an earlier training of '{output}' was interrupted ({describe(left)}); add --resume to continue it, or "
            f"delete '{left}'"
        )
    from napari_uflow.store.checkpoint import save_somewhere
    from napari_uflow.training.regions import read_regions
    from napari_uflow.training.train import train_steps

    regions = read_regions(
        options.images, options.normal, channels=options.channels, axes=options.axes, series=options.series, report=warn
    )
    inputs = files_of(region.plane for region in regions)
    inputs += [] if options.normal is None else options.normal.iterdir()
    check_replaceable(output, identities(inputs), overwrite=True)  # other files were checked as a place for a model
    plan = _rest(options, left, regions) if options.resume else _new(options)
    if plan.snapshot is not None:
        print(f"resuming the training of '{output}' ({describe(plan.snapshot)})", file=sys.stderr)
    snapshot = new_snapshot(output.parent, prefix)
    steps = train_steps(
        regions,
        plan.model,
        plan.training,
        weights=options.weights,
        device=options.device,
        init_from=plan.init_from,
        continues=plan.snapshot is not None,
    )

    def save(model: TrainedModel) -> tuple[str, Path, str]:
        path, reason = save_somewhere(output, model, overwrite=options.overwrite)
        delete(snapshot)
        if plan.snapshot is not None:
            discard(plan.snapshot, prefix)
        return model.record.outcome.text(), path, reason

    try:
        outcome, path, reason = run_and_save(writing_snapshots(steps, snapshot), options.interrupts, save)
    finally:
        if snapshot.exists():
            print(f"the best model so far is in '{snapshot}'; add --resume to continue the training", file=sys.stderr)
    print(printable(f"model: {path} ({outcome})"))
    if reason:
        warn(f"{reason}; the model is in '{path}' instead")
        return EXIT_FAILED
    return 0


def _new(options: argparse.Namespace) -> _Plan:
    """Return the training of a new model, or of the one to begin with."""
    from napari_uflow.store.checkpoint import load_model

    model = config_of(ModelConfig, options)
    training = config_of(TrainingConfig, options, training_preset(options.preset or "balanced"))
    init_from = None if options.init_from is None else load_model(options.init_from)
    if init_from is not None and model == ModelConfig():
        model = init_from.config
    return _Plan(model, training, init_from)


def _rest(options: argparse.Namespace, snapshot: Path | None, regions: list[NormalRegion]) -> _Plan:
    """Return the rest of an interrupted training.

    Raises
    ------
    ConfigError
        If there is none, or it has other parameters than those that are given.
    ImageError
        If it has other images.
    """
    if snapshot is None:
        raise ConfigError(
            f"there is no interrupted training of '{options.output}' to resume; train without --resume, or give the "
            f"--output of that training"
        )
    from napari_uflow.store.card import read_card
    from napari_uflow.store.checkpoint import load_model
    from napari_uflow.training.refine import check_same_images

    model = load_model(snapshot)
    check_same_images(model, regions)
    its, record = model.training, model.record
    if options.init_from is not None and read_card(options.init_from).record.date not in _beginnings(record):
        raise ConfigError(f"the interrupted training did not begin with '{options.init_from}'; leave out --init-from")
    asked = config_of(TrainingConfig, options, training_preset(options.preset) if options.preset else its).to_dict()
    for name, value in its.to_dict().items():
        if asked[name] != value and name not in _FREE:
            raise ConfigError(
                f"the interrupted training has {name} {value}, not {asked[name]}; leave the parameters out, or train "
                f"without --resume"
            )
    training = its.replace(cache_memory=asked["cache_memory"])
    return _Plan(config_of(ModelConfig, options, model.config), training, model, snapshot)


def _beginnings(record: TrainingRecord) -> list[str | None]:
    """Return the dates of the models that a training was resumed from."""
    dates, earlier = [], record.resumed_from
    while earlier is not None:
        dates.append(earlier.date)
        earlier = earlier.resumed_from
    return dates
