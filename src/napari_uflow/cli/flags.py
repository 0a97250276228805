"""Flags of the command line, made from the descriptions of the parameters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from napari_uflow.config import Config, Parameter, parameters_of
from napari_uflow.errors import ConfigError
from napari_uflow.image.channels import channels_in

__all__ = ["add_common", "add_parameters", "config_of"]

C = TypeVar("C", bound=Config)


def add_common(parser: argparse.ArgumentParser, *, images: bool = True) -> None:
    """Add the flags that commands share: device and, for commands that read images, weights, channels, axes, series."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    if images:
        parser.add_argument(
            "--weights", type=Path, help="file of the pre-trained weights of the backbone, or folder of such files"
        )
        parser.add_argument(
            "--channels", type=channels_in, help="one to three channels, by name or by number from 0: DAPI,GFP or 0,2"
        )
        parser.add_argument(
            "--axes", help="axes of the files, one letter each, such as ZYX or TCYX; overrides those in the files"
        )
        parser.add_argument(
            "--series",
            help="one image of files with several, by name or by number from 0, such as the label of a slide",
        )


def add_parameters(parser: argparse.ArgumentParser, config: type[Config], without: Sequence[str] = ()) -> None:
    """Add a flag for each parameter of a configuration, except those named in `without`."""
    group = parser.add_argument_group(config.__name__.removesuffix("Config").lower() + " parameters")
    for parameter in parameters_of(config):
        if parameter.name in without:
            continue
        flag = _flag(parameter)
        if parameter.type is bool:
            group.add_argument(
                flag, dest=parameter.name, action=argparse.BooleanOptionalAction, default=None, help=parameter.help
            )
            continue
        group.add_argument(flag, dest=parameter.name, default=None, metavar=_metavar(parameter), help=_help(parameter))


def _flag(parameter: Parameter) -> str:
    return "--" + parameter.name.replace("_", "-")


def _metavar(parameter: Parameter) -> str:
    return {int: "N", float: "X", str: "NAME"}[parameter.type]


def _help(parameter: Parameter) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    default = f"default {parameter.default}{unit}" if parameter.default != "" else ""
    notes = "; ".join(note for note in (parameter.range_text, default) if note)
    return f"{parameter.help} ({notes})".replace("%", "%%") if notes else parameter.help.replace("%", "%%")


def config_of(config: type[C], options: argparse.Namespace, base: C | None = None) -> C:
    """Return the configuration that the flags describe.

    Parameters
    ----------
    config : type
        Kind of configuration.
    options : Namespace
        Values of the flags; None for those that were not given.
    base : Config, optional
        Configuration whose values the others keep; the defaults by default.

    Raises
    ------
    ConfigError
        If a value is not of the parameter's type or out of its range.
    """
    values: dict[str, Any] = {}
    for parameter in parameters_of(config):
        text = getattr(options, parameter.name, None)
        if text is None:
            continue
        if parameter.type in (int, float):
            try:
                values[parameter.name] = parameter.type(text)
            except (ValueError, TypeError) as error:  # argparse makes a list of the value "--"
                allowed = parameter.range_text
                raise ConfigError(f"{_flag(parameter)} must be a number ({allowed}), not {text!r}") from error
        else:
            values[parameter.name] = text
    return config.from_dict(values) if base is None else base.replace(**values)
