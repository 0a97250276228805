"""Commands of the command line: one function each, which returns the exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_uflow.cli.flags import config_of
from napari_uflow.cli.output import EXIT_FAILED, files_of, made_output, warn
from napari_uflow.cli.reporter import run_and_save, run_job
from napari_uflow.config import DetectionConfig
from napari_uflow.progress import Steps
from napari_uflow.wording import counted, printable, without_subject

if TYPE_CHECKING:
    from napari_uflow.batch.results import BatchSummary
    from napari_uflow.cli.interrupts import Interrupts
    from napari_uflow.evaluation.evaluate import EvaluationRun
    from napari_uflow.evaluation.trust import TrustReport
    from napari_uflow.model.record import EarlierTraining
    from napari_uflow.store.card import ModelCard

__all__ = ["demo", "detect", "drift", "evaluate", "show", "trust"]

_EVALUATION, _IMAGES, _OVERVIEW = "evaluation.json", "images.csv", "overview.png"
_TRUST, _PLOTS = "trust.json", "trust.png"
# Images of many sizes have as many guarantees.
_MOST_GUARANTEES = 5


def detect(options: argparse.Namespace) -> int:
    """Detect in files and write the results to a folder."""
    config = config_of(DetectionConfig, options)
    from napari_uflow.batch.cluster import detect_on_cluster_steps
    from napari_uflow.batch.files import detect_files_steps
    from napari_uflow.store.checkpoint import load_model
    from napari_uflow.store.images import find_images

    model = load_model(options.model)
    steps: Callable[..., Steps[BatchSummary]] = detect_files_steps
    if options.scheduler is not None:
        steps = partial(detect_on_cluster_steps, scheduler=options.scheduler)
    interrupts: Interrupts = options.interrupts
    summary = run_job(
        steps(
            model,
            find_images(options.images),
            options.output,
            config,
            channels=options.channels,
            axes=options.axes,
            series=options.series,
            device=options.device,
            weights=options.weights,
            resume=options.resume,
            overwrite=options.overwrite,
            model_path=None if options.no_log else options.model,
        ),
        interrupts,
    )
    _print_summary(summary, options.output)
    if summary.was_stopped:
        return interrupts.exit_code
    return EXIT_FAILED if summary.failed else 0


def _print_summary(summary: BatchSummary, output: Path) -> None:
    if summary.n_planes:
        noun = "plane" if summary.n_planes > len(summary.done) else "image"
        where = f"{summary.n_anomalous_planes} of {counted(summary.n_planes, noun)}"
        print(printable(f"{counted(summary.n_regions, 'anomalous region')} in {where}; written to {output}"))
    else:
        print("no image was processed")
    if summary.was_stopped:
        n_files = len(summary.done) + len(summary.failed) + len(summary.left_out)
        print(f"stopped: {len(summary.left_out)} of {counted(n_files, 'file')} not processed; --resume continues")
    for guarantee in summary.guarantees[:_MOST_GUARANTEES]:
        print(f"reliability: {guarantee.details()}")
    n_more = len(summary.guarantees) - _MOST_GUARANTEES
    if n_more > 0:
        print(f"reliability: {counted(n_more, 'other statement')} for images or stacks of other sizes, see their files")
    if summary.to_confirm:
        print(printable(f"next: {summary.to_confirm}"))
    if summary.warnings:
        print(f"warnings: {counted(len(summary.warnings), 'file')}, see summary.csv", file=sys.stderr)
    for path, reason in summary.failed:
        name = printable(str(path))
        print(f"failed: {name}: {without_subject(reason, name)}", file=sys.stderr)
    if summary.to_repeat:
        failed = counted(len(summary.to_repeat), "file")
        print(f"{failed} failed for want of disk space, memory or a drive; add --resume to try again", file=sys.stderr)


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate a model on a data set with masks."""
    with made_output(options.output):
        return _evaluate(options)


def _evaluate(options: argparse.Namespace) -> int:
    config = config_of(DetectionConfig, options)
    from napari_uflow.evaluation.evaluate import evaluate_steps, find_test_images
    from napari_uflow.store.checkpoint import load_model

    model = load_model(options.model)
    images = find_test_images(
        options.root, channels=options.channels, axes=options.axes, series=options.series, report=warn
    )
    name = options.root.resolve().name
    inputs = [*files_of(image.plane for image in images), *(image.truth for image in images if image.truth)]
    _check_replaceable(options, inputs, _EVALUATION, _IMAGES, _OVERVIEW)

    def save(run: EvaluationRun) -> None:
        try:
            if options.output is not None:
                _write_evaluation(run, options.output, name)
        finally:  # on a full disk, the numbers are at least printed
            print(_evaluation_table(run, printable(name)))
            print(f"reliability: {run.images[0].detection.guarantee.details()}")

    steps = evaluate_steps(model, images, config, device=options.device, weights=options.weights)
    run_and_save(steps, options.interrupts, save)
    return 0


def _check_replaceable(options: argparse.Namespace, inputs: Iterable[Path], *names: str) -> None:
    """Check that the results of a command, if it writes any, replace no image and no file of another origin."""
    from napari_uflow.store.provenance import check_replaceable, identities

    if options.output is not None:
        for name in names:
            check_replaceable(options.output / name, identities(inputs), overwrite=options.overwrite)


def _evaluation_table(run: EvaluationRun, name: str) -> str:
    by_nfa = run.to_dict()["image_auroc_nfa"]
    text = "-" if by_nfa is None else f"{by_nfa:.3f}"
    return f"{run.evaluation.as_table(name)}\n{'image AUROC, ranked by NFA':<40}{text:>9}"


def _write_evaluation(run: EvaluationRun, folder: Path, name: str, n_rows: int = 8) -> None:
    from napari_uflow.batch.output import overview_row
    from napari_uflow.evaluation.figures import save_figure
    from napari_uflow.evaluation.overview import overview
    from napari_uflow.store.report import write_report
    from napari_uflow.store.table import EVALUATION_COLUMNS, lines_of, write_table

    write_report(folder / _EVALUATION, run.to_dict())
    write_table(folder / _IMAGES, EVALUATION_COLUMNS, [lines_of(item.row() for item in run.images)])
    rows = [
        overview_row(item.image.plane, item.detection, item.image.mask(), kind=item.image.kind)
        for item in _of_all_kinds(run, n_rows)
    ]
    limits = run.images[0].detection.config.heatmap_limits
    save_figure(overview(rows, score_limits=limits, title=name), folder / _OVERVIEW)


def _of_all_kinds(run: EvaluationRun, n_rows: int) -> list[Any]:
    """Choose the first images of every kind in turn."""
    by_kind: dict[str, list[Any]] = {}
    for item in run.images:
        by_kind.setdefault(item.image.kind, []).append(item)
    chosen: list[Any] = []
    for rank in range(n_rows):
        chosen += [items[rank] for items in by_kind.values() if rank < len(items)]
    chosen = chosen[:n_rows]
    return sorted(chosen, key=lambda item: item.image.kind)


def demo(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    with made_output(options.output):
        from napari_uflow.samples.demo import run_demo

        run = partial(run_job, interrupts=options.interrupts)
        return run_demo(options.output, seed=options.seed, device=options.device, run=run, overwrite=options.overwrite)


def trust(options: argparse.Namespace) -> int:
    """Compare accepted with observed false alarms, and plant defects."""
    with made_output(options.output):
        return _trust(options)


def _trust(options: argparse.Namespace) -> int:
    from napari_uflow.evaluation.figures import save_figure
    from napari_uflow.evaluation.trust import trust_steps
    from napari_uflow.evaluation.trust_figure import trust_figure
    from napari_uflow.store.checkpoint import load_model
    from napari_uflow.training.regions import read_regions

    model = load_model(options.model)
    regions = (
        read_regions(options.images, channels=options.channels, axes=options.axes, series=options.series, report=warn)
        if options.images
        else []
    )
    planes = [region.plane for region in regions]
    _check_replaceable(options, files_of(planes), _TRUST, _PLOTS)

    def save(report: TrustReport) -> None:
        try:
            if options.output is not None:
                report.save(options.output / _TRUST)
                save_figure(trust_figure(report, title=options.model.name), options.output / _PLOTS)
        finally:
            print(report.as_table())
        if options.output is not None:
            print(f"plots     {options.output / _PLOTS}")

    steps = trust_steps(
        model,
        planes,
        planted_into=regions,
        n_planted=options.planted,
        device=options.device,
        weights=options.weights,
        model_path=options.model,
    )
    run_and_save(steps, options.interrupts, save)
    return 0


def drift(options: argparse.Namespace) -> int:
    """Print the state of the drift test of a model, or begin it again."""
    from napari_uflow.evaluation.drift import DriftWatch
    from napari_uflow.store.checkpoint import load_model

    watch = DriftWatch(load_model(options.model), options.model)
    if options.reset:
        watch.reset()
    state = watch.state
    if options.json:
        print(json.dumps(state.to_dict(), indent=2))
    else:
        print(printable(f"{watch.log_path}\n" + "\n".join(state.sentences()), keep="\n"))
    return 0


def show(options: argparse.Namespace) -> int:
    """Print the contents of a model file."""
    from napari_uflow.model.info import has_joint_levels, sizes_text
    from napari_uflow.store.card import read_card

    card = read_card(options.model)
    if options.json:
        print(json.dumps(card.to_dict(), indent=2))
        return 0
    record, history, earlier = card.record, card.history, card.record.resumed_from
    n_specimens, n_held_out = len(record.all_specimens), len(record.counted_specimens)
    with_earlier = " of this and earlier trainings" if record.began_with else ""
    held_out = "each held out in turn" if record.folds else f"{n_held_out} of them held out"
    of_them = f" from {counted(n_specimens, 'specimen')}{with_earlier}, {held_out}"
    print(printable(f"{options.model}: U-Flow model, format {card.format}"))
    lines = {
        "backbone": f"{card.model.backbone} ({record.backbone_weights or 'no weights to load'})",
        "weights included": "yes" if card.has_backbone else "no, required: --weights",
        "feature normalisation": card.model.feature_norm,
        "evidence": card.model.evidence if has_joint_levels(card.model) else "energies of a pyramid",
        "magnification": f"{card.model.magnification:g}",
        "octaves": f"{sizes_text(card.model.octaves)} size",
        "tile": f"{card.model.tile} pixels",
        "trained": f"{record.date or 'unknown'}, {record.outcome.text()}",
        "resumed from": _earlier_text(earlier),
        "images": f"{record.n_images}{of_them}",
        **({"conditions": _conditions(card)} if card.training.condition_pattern else {}),
        "tiles": f"{record.n_tiles} to train on, {record.n_holdout_tiles} held out",
        "intensity range": ", ".join(
            f"{low:g} to {high:g}" for low, high in zip(card.intensity.low, card.intensity.high, strict=True)
        ),
        "pixel size": f"{record.pixel_size[0]:g} {record.unit or ''}" if record.pixel_size else "unknown",
        "last losses": f"train {_number(history[-1]['train_loss'])}, held out {_number(history[-1]['holdout_loss'])}"
        if history
        else "none",
        "planted defects": record.planted.text() if record.planted else "not measured",
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    }
    for name, text in lines.items():
        print(f"  {name + ':':<24}{printable(text)}")
    return 0


def _earlier_text(earlier: EarlierTraining | None) -> str:
    if earlier is None:
        return "nothing"
    if earlier.is_same:
        return f"its step {earlier.n_steps}, after an interruption"
    return f"a model of {earlier.date}, {counted(earlier.n_steps, 'step')}"


def _conditions(card: ModelCard) -> str:
    """Return the conditions of a model, with the specimens that false alarms are counted on."""
    found = (card.calibration or {}).get("conditions", {})
    return ", ".join(f"{name} ({counted(len(of['specimens']), 'specimen')})" for name, of in found.items()) or "none"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
