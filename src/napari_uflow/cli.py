"""The command line: ``napari-uflow demo | train | detect | evaluate | trust | show``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_uflow.config import Config, DetectionConfig, ModelConfig, Parameter, TrainingConfig, parameters_of
from napari_uflow.errors import ConfigError, Stopped, UFlowError
from napari_uflow.progress import Event, Message, Progress, Steps, TimeLeft, TrainingPoint, drain
from napari_uflow.system.apple import let_missing_operations_run_on_the_processor
from napari_uflow.wording import LEAST_PART, counted, how_far

if TYPE_CHECKING:
    from napari_uflow.batch.results import BatchSummary
    from napari_uflow.evaluation.evaluate import EvaluationRun

__all__ = ["main"]

T = TypeVar("T")
C = TypeVar("C", bound=Config)

_EXIT_FAILED = 1
_EXIT_MISTAKE = 2
_EXIT_STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done (a training that was stopped and kept its best model counts as done). 1: some files failed. 2: a mistake of
    the user, told in one line. 130: stopped by Ctrl-C before there was a result.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    let_missing_operations_run_on_the_processor()
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
        return code
    except Stopped as stopped:
        print(f"napari-uflow: {stopped}", file=sys.stderr)
        return _EXIT_STOPPED
    except UFlowError as error:
        print(f"napari-uflow: error: {error}", file=sys.stderr)
        return _EXIT_MISTAKE
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("napari-uflow: interrupted", file=sys.stderr)
        return _EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="napari-uflow",
        description="Find what is not normal in microscope images: train on normal images, then detect.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train, detect and evaluate on a built-in sample; needs no data")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo_output"), help="folder to write to (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="number of the sample data set (%(default)s)")
    _add_common(demo, images=False)
    demo.set_defaults(run=_demo)

    train = commands.add_parser("train", help="learn what is normal from images")
    train.add_argument("images", nargs="+", help="files, folders or patterns of normal images")
    train.add_argument(
        "-o", "--output", type=Path, default=Path("model.safetensors"), help="model file to write (%(default)s)"
    )
    train.add_argument(
        "--normal",
        type=Path,
        help="folder of masks, one for each image with its name: only what is above 0 is normal",
    )
    train.add_argument(
        "--init-from", type=Path, help="model file whose training goes on, with what it was trained on and more"
    )
    _add_common(train)
    _add_parameters(train, ModelConfig)
    _add_parameters(train, TrainingConfig)
    train.set_defaults(run=_train)

    detect = commands.add_parser("detect", help="find anomalies in images and write heatmaps, labels and tables")
    detect.add_argument("model", type=Path, help="model file")
    detect.add_argument("images", nargs="+", help="files, folders or patterns of images")
    detect.add_argument("-o", "--output", type=Path, default=Path("detected"), help="folder to write to (%(default)s)")
    detect.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a dask.distributed cluster whose machines see the same files: tcp://HOST:8786",
    )
    _add_common(detect)
    _add_parameters(detect, DetectionConfig)
    detect.set_defaults(run=_detect)

    evaluate = commands.add_parser("evaluate", help="compare with known truth and print the numbers")
    evaluate.add_argument("model", type=Path, help="model file")
    evaluate.add_argument(
        "root", type=Path, help="folder with test/good, test/KIND and ground_truth/KIND/NAME_mask.png"
    )
    evaluate.add_argument("-o", "--output", type=Path, help="folder for numbers (JSON) and an overview (PNG)")
    _add_common(evaluate)
    _add_parameters(evaluate, DetectionConfig, without=("false_alarms_per",))  # its images are single planes
    evaluate.set_defaults(run=_evaluate)

    trust = commands.add_parser("trust", help="report what a model's number of false alarms is worth")
    trust.add_argument("model", type=Path, help="model file")
    trust.add_argument(
        "images", nargs="*", help="files, folders or patterns of normal images that it was not trained on"
    )
    trust.add_argument("-o", "--output", type=Path, help="folder for numbers (JSON) and plots (PNG)")
    _add_common(trust)
    trust.set_defaults(run=_trust)

    show = commands.add_parser("show", help="tell what a model file holds")
    show.add_argument("model", type=Path, help="model file")
    show.add_argument("--json", action="store_true", help="print everything as JSON")
    show.set_defaults(run=_show)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, images: bool = True) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    if images:
        parser.add_argument(
            "--weights",
            type=Path,
            help="file of the backbone's pre-trained weights, or a folder of such files",
        )
        parser.add_argument(
            "--channels", type=_channels, help="up to three channels to use, by number or name: 0,2 or DAPI,GFP"
        )
        parser.add_argument(
            "--axes", help="axes of the files where they do not say: a letter each, such as ZYX or TCYX"
        )


def _channels(text: str) -> list[int | str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [int(name) if name.isdigit() else name for name in names]


def _add_parameters(parser: argparse.ArgumentParser, config: type[Config], without: Sequence[str] = ()) -> None:
    """Add a flag for each parameter of a configuration but some; its description is the only source."""
    group = parser.add_argument_group(config.__name__.removesuffix("Config").lower() + " parameters")
    for parameter in parameters_of(config):
        if parameter.name in without:
            continue
        flag = "--" + parameter.name.replace("_", "-")
        if parameter.type is bool:
            group.add_argument(
                flag, dest=parameter.name, action=argparse.BooleanOptionalAction, default=None, help=parameter.help
            )
            continue
        group.add_argument(flag, dest=parameter.name, default=None, metavar=_metavar(parameter), help=_help(parameter))


def _metavar(parameter: Parameter) -> str:
    return {int: "N", float: "X", str: "NAME"}[parameter.type]


def _help(parameter: Parameter) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    default = f"default {parameter.default}{unit}" if parameter.default != "" else ""
    notes = "; ".join(note for note in (parameter.range_text, default) if note)
    return f"{parameter.help} ({notes})".replace("%", "%%") if notes else parameter.help.replace("%", "%%")


def _config(config: type[C], options: argparse.Namespace) -> C:
    values: dict[str, Any] = {}
    for parameter in parameters_of(config):
        text = getattr(options, parameter.name, None)
        if text is None:
            continue
        if parameter.type in (int, float):
            try:
                values[parameter.name] = parameter.type(text)
            except ValueError as error:
                flag = "--" + parameter.name.replace("_", "-")
                raise ConfigError(f"{flag} must be a number ({parameter.range_text}), not {text!r}") from error
        else:
            values[parameter.name] = text
    return config.from_dict(values)


class _Reporter:
    """Prints events: one line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._phase = ""
        self._start = 0.0
        self._last = 0.0
        self._is_terminal = sys.stderr.isatty()
        self._open_line = False
        self._said: set[str] = set()
        self._time_left = TimeLeft()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Message):
            text = event.full_text
            if event.warning and text in self._said:
                return
            self._said.add(text)
            self._line(("warning: " if event.warning else "") + text)
        elif isinstance(event, TrainingPoint):
            holdout = ""
            if event.holdout_loss == event.holdout_loss:
                holdout = f", held out {event.holdout_loss:.4f}, held-out energies to {event.holdout_energy:.3g}"
            best = "  (best so far)" if event.is_best else ""
            self._line(f"  step {event.step}: loss {event.train_loss:.4f}{holdout}{best}")
        elif isinstance(event, Progress):
            self._progress(event)

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        seconds = self._time_left.seconds(event, now)
        if event.phase != self._phase:
            self._phase, self._start, self._last = event.phase, now, now - 3600
        is_end = event.done >= event.total
        if now - self._last < (0.2 if self._is_terminal else 15) and not is_end:
            return
        self._last = now
        left = ""
        if is_end:
            left = f", took {_duration(now - self._start)}"
        elif seconds is not None:
            left = f", {_duration(seconds)} left"
        text = f"{event.phase}: {how_far(event.done, event.total, event.part)}{left}"
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="\n" if is_end else "", file=sys.stderr, flush=True)
            self._open_line = not is_end
        elif is_end or event.done + event.part >= LEAST_PART:
            print(text, file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        if self._open_line:
            print("\r\x1b[K", end="", file=sys.stderr)
            self._open_line = False
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _run(steps: Steps[T]) -> T:
    """Drain a job with a progress line; the first Ctrl-C asks it to finish, the second one breaks off."""
    with _interrupts() as was_interrupted:
        return drain(steps, _Reporter(), was_interrupted)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    count = 0

    def handle(number: int, frame: object) -> None:  # noqa: ARG001 - the signal module's signature
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        print("\nfinishing; press Ctrl-C again to break off", file=sys.stderr)

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: Ctrl-C does not come here
        yield lambda: False
        return
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, previous)


def _check_output(path: Path, *, is_folder: bool) -> None:
    """Find out before a long run, not after it, that the result cannot be written."""
    folder = path if is_folder else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to the folder '{folder}': {error.strerror}") from error
    if not os.access(folder, os.W_OK) or (not is_folder and path.is_dir()):
        raise ConfigError(f"cannot write to '{path}'; choose another --output")


def _train(options: argparse.Namespace) -> int:
    model_config, training = _config(ModelConfig, options), _config(TrainingConfig, options)
    _check_output(options.output, is_folder=False)
    from napari_uflow.store.checkpoint import load_model, save_model
    from napari_uflow.training.regions import read_regions
    from napari_uflow.training.train import train_steps

    init_from = None if options.init_from is None else load_model(options.init_from)
    if init_from is not None and model_config == ModelConfig():
        model_config = init_from.config
    regions = read_regions(options.images, options.normal, channels=options.channels, axes=options.axes)
    steps = train_steps(
        regions, model_config, training, weights=options.weights, device=options.device, init_from=init_from
    )
    model = _run(steps)
    save_model(options.output, model)
    print(f"model: {options.output} ({model.record.outcome.text()})")
    return 0


def _detect(options: argparse.Namespace) -> int:
    config = _config(DetectionConfig, options)
    _check_output(options.output, is_folder=True)
    from napari_uflow.batch.cluster import detect_on_cluster_steps
    from napari_uflow.batch.files import detect_files_steps
    from napari_uflow.store.checkpoint import load_model
    from napari_uflow.store.images import find_images

    model = load_model(options.model)
    run: Callable[..., Steps[BatchSummary]] = detect_files_steps
    if options.scheduler is not None:
        run = partial(detect_on_cluster_steps, scheduler=options.scheduler)
    summary = _run(
        run(
            model,
            find_images(options.images),
            options.output,
            config,
            channels=options.channels,
            axes=options.axes,
            device=options.device,
            weights=options.weights,
        )
    )
    print(
        "no image could be looked at"
        if not summary.n_planes
        else f"{summary.n_regions} anomalous regions in {summary.n_anomalous_planes} of {summary.n_planes} "
        f"{'planes' if summary.n_planes > len(summary.done) else 'images'}; written to {options.output}"
    )
    if summary.was_stopped:
        n_files = len(summary.done) + len(summary.failed) + len(summary.left_out)
        print(f"stopped: {len(summary.left_out)} of {counted(n_files, 'file')} were not looked at")
    for guarantee in summary.guarantees:
        print(f"false alarms: {guarantee.text()}")
    for path, reason in summary.failed:
        print(f"failed: {path}: {reason}", file=sys.stderr)
    if summary.was_stopped:
        return _EXIT_STOPPED
    return _EXIT_FAILED if summary.failed else 0


def _evaluate(options: argparse.Namespace) -> int:
    config = _config(DetectionConfig, options)
    if options.output is not None:
        _check_output(options.output, is_folder=True)
    from napari_uflow.evaluation.evaluate import evaluate_steps, find_test_images
    from napari_uflow.store.checkpoint import load_model

    model = load_model(options.model)
    images = find_test_images(options.root, channels=options.channels, axes=options.axes)
    run = _run(evaluate_steps(model, images, config, device=options.device, weights=options.weights))
    print(_evaluation_table(run, options.root.resolve().name))
    print(f"false alarms: {run.images[0].detection.guarantee.text()}")
    if options.output is not None:
        _write_evaluation(run, options.output, options.root.resolve().name)
    return 0


def _evaluation_table(run: EvaluationRun, name: str) -> str:
    by_nfa = run.to_dict()["image_auroc_nfa"]
    text = "-" if by_nfa is None else f"{by_nfa:.3f}"
    return f"{run.evaluation.as_table(name)}\n{'image AUROC, ranked by NFA':<40}{text:>9}"


def _write_evaluation(run: EvaluationRun, folder: Path, name: str, n_rows: int = 8) -> None:
    from napari_uflow.batch.output import overview_row
    from napari_uflow.evaluation.figures import save_figure
    from napari_uflow.evaluation.overview import overview
    from napari_uflow.store.files import atomic_path

    with atomic_path(folder / "evaluation.json") as path:
        path.write_text(json.dumps(run.to_dict(), indent=2) + "\n", encoding="utf-8")
    rows = [
        overview_row(item.image.plane, item.detection, item.image.mask(), kind=item.image.kind)
        for item in _spread(run, n_rows)
    ]
    save_figure(overview(rows, score_limits=(0, 1), title=name), folder / "overview.png")


def _spread(run: EvaluationRun, n_rows: int) -> list[Any]:
    """Choose images of every kind in turn, in their order: not the prettiest ones."""
    by_kind: dict[str, list[Any]] = {}
    for item in run.images:
        by_kind.setdefault(item.image.kind, []).append(item)
    chosen: list[Any] = []
    for rank in range(n_rows):
        chosen += [items[rank] for items in by_kind.values() if rank < len(items)]
    chosen = chosen[:n_rows]
    return sorted(chosen, key=lambda item: item.image.kind)


def _demo(options: argparse.Namespace) -> int:
    _check_output(options.output, is_folder=True)
    from napari_uflow.samples.demo import run_demo

    return run_demo(options.output, seed=options.seed, device=options.device, run=_run)


def _trust(options: argparse.Namespace) -> int:
    if options.output is not None:
        _check_output(options.output, is_folder=True)
    from napari_uflow.evaluation.figures import save_figure
    from napari_uflow.evaluation.trust import trust_steps
    from napari_uflow.evaluation.trust_figure import trust_figure
    from napari_uflow.store.checkpoint import load_model
    from napari_uflow.store.images import find_images, read_planes

    model = load_model(options.model)
    paths = find_images(options.images) if options.images else []
    planes = [p for path in paths for p in read_planes(path, channels=options.channels, axes=options.axes)]
    report = _run(trust_steps(model, planes, device=options.device, weights=options.weights))
    print(report.as_table())
    if options.output is not None:
        report.save(options.output / "trust.json")
        save_figure(trust_figure(report, title=options.model.name), options.output / "trust.png")
        print(f"look at   {options.output / 'trust.png'}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from napari_uflow.store.card import read_card

    card = read_card(options.model)
    if options.json:
        print(json.dumps(card.to_dict(), indent=2))
        return 0
    record, history, earlier = card.record, card.history, card.record.resumed_from
    n_specimens, n_held_out = len(record.all_specimens), len(record.holdout_specimens)
    of_them = "" if earlier else f" from {counted(n_specimens, 'specimen')}, {n_held_out} of them held out"
    print(f"{options.model}: U-Flow model, format {card.format}")
    lines = {
        "backbone": f"{card.model.backbone} ({record.backbone_weights or 'no weights to load'})",
        "weights included": "yes" if card.has_backbone else "no, give them with --weights",
        "feature normalisation": card.model.feature_norm,
        "tile": f"{card.model.tile} pixels",
        "trained": f"{record.date or 'unknown'}, {record.outcome.text()}",
        "resumed from": f"a model of {earlier.date}, {counted(earlier.n_steps, 'step')}" if earlier else "nothing",
        "images": f"{record.n_images}{of_them}",
        "tiles": f"{record.n_tiles} to train on, {record.n_holdout_tiles} held out",
        "intensity range": ", ".join(
            f"{low:g} to {high:g}" for low, high in zip(card.intensity.low, card.intensity.high, strict=True)
        ),
        "pixel size": f"{record.pixel_size[0]:g} {record.unit or ''}" if record.pixel_size else "unknown",
        "last losses": f"train {_number(history[-1]['train_loss'])}, held out {_number(history[-1]['holdout_loss'])}"
        if history
        else "none",
        "versions": ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    }
    for name, text in lines.items():
        print(f"  {name + ':':<24}{text}")
    return 0


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
