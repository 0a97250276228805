"""Parser of the command line: commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from napari_uflow.cli import commands as run
from napari_uflow.cli.flags import add_common, add_former, add_parameters
from napari_uflow.cli.train import train
from napari_uflow.config import DetectionConfig, ModelConfig, PresetName, TrainingConfig
from napari_uflow.wording import printable

__all__ = ["make_parser"]


class _Parser(argparse.ArgumentParser):
    """Parser whose errors quote no control characters of the command line, and for which ``--option=--`` is one."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the arguments; argparse makes an empty list of ``--option=--``."""
        found, rest = super().parse_known_args(args, namespace)
        for name, value in vars(found).items():
            if value == [] and name != "images":
                self.error(f"argument --{name.replace('_', '-')}: expected one argument")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Print the error and exit."""
        super().error(printable(message))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; the parsed options carry the function of the command as `run`."""
    parser = _Parser(
        prog="napari-uflow",
        description="Detect anomalies in microscope images: train on normal images, then detect.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _demo(commands.add_parser("demo", help="train, detect and evaluate on a built-in sample"))
    _train(commands.add_parser("train", help="learn from normal images"))
    _detect(commands.add_parser("detect", help="find anomalies in images; write heatmaps, labels and tables"))
    _evaluate(commands.add_parser("evaluate", help="compare detections with known masks"))
    _trust(
        commands.add_parser(
            "trust", help="compare accepted with observed false alarms, and plant defects to measure which are found"
        )
    )
    _drift(commands.add_parser("drift", help="tell whether the images of a model are still like those of its training"))
    _show(commands.add_parser("show", help="describe a model file"))
    return parser


def _demo(parser: argparse.ArgumentParser) -> None:
    _add_output(parser, "folder to write to", default="demo_output")
    _add_overwrite(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample data set (%(default)s)")
    add_common(parser, images=False)
    parser.set_defaults(run=run.demo)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="files, folders or patterns of normal images")
    _add_output(parser, "model file to write; an existing model is replaced", default="model.safetensors")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing file that is not a model, too; images are never replaced",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the training of this output that was killed, with the same images and parameters",
    )
    parser.add_argument(
        "--normal",
        type=_path,
        help="folder of masks named like the images (NAME_mask.png, NAME.tif, ...); pixels above 0 are normal",
    )
    parser.add_argument(
        "--init-from", type=_path, help="continue training this model; pass its original images plus new ones"
    )
    add_former(parser, "--start", "init_from", type=_path)
    parser.add_argument(
        "--preset",
        choices=get_args(PresetName),
        help="values of the training parameters that are not given: instant (no training: a Gaussian and a memory of "
        "normal positions, in seconds), fast, balanced (the defaults) or best (default balanced)",
    )
    add_common(parser)
    add_parameters(parser, ModelConfig)
    add_parameters(parser, TrainingConfig)
    parser.set_defaults(run=train)


def _detect(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("images", nargs="+", help="files, folders or patterns of images")
    _add_output(parser, "folder to write to", default="detected")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="address of a dask.distributed cluster whose machines see the same files: tcp://HOST:8786",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run that was stopped or killed in the output folder"
    )
    parser.add_argument(
        "--no-log",
        action="store_true",
        help="do not add the images to the drift log beside the model (MODEL.drift.jsonl), by which `drift` tells "
        "whether images are still like those of the training",
    )
    _add_overwrite(parser)
    add_common(parser)
    add_parameters(parser, DetectionConfig)
    parser.set_defaults(run=run.detect)


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "root",
        type=_path,
        help="folder with test/good, test/KIND and ground_truth/KIND/NAME_mask.png (or another kind of image)",
    )
    _add_output(
        parser,
        "folder for numbers (JSON), a table of the images (CSV) and an overview (PNG); without it, nothing is written",
    )
    _add_overwrite(parser)
    add_common(parser)
    add_parameters(parser, DetectionConfig, without=("false_alarms_per",))  # the images are single planes
    parser.set_defaults(run=run.evaluate)


def _trust(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("images", nargs="*", help="files, folders or patterns of normal images not used in training")
    _add_output(parser, "folder for numbers (JSON) and plots (PNG); without it, nothing is written")
    _add_overwrite(parser)
    parser.add_argument(
        "--planted",
        type=_count,
        default=60,
        metavar="N",
        help="defects to plant into these images, to measure which are found (%(default)s; 0: none)",
    )
    add_common(parser)
    parser.set_defaults(run=run.trust)


def _drift(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print all entries as JSON")
    parser.add_argument("--reset", action="store_true", help="begin again: images in the log no longer count")
    parser.set_defaults(run=run.drift)


def _show(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print all entries as JSON")
    parser.set_defaults(run=run.show)


def _path(text: str) -> Path:
    if not text:  # of a variable of a shell that is not set; a path of it would be the current folder
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {number}")
    return number


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=_path, help="model file")


def _add_output(parser: argparse.ArgumentParser, text: str, default: str | None = None) -> None:
    shown = text if default is None else f"{text} (%(default)s)"
    parser.add_argument("-o", "--output", type=_path, default=None if default is None else Path(default), help=shown)


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files in the output folder that are not results of this program; images are never replaced",
    )
