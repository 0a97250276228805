"""Flags of the command line, made from the descriptions of the parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from napari_uflow.config import Config, Parameter, parameters_of
from napari_uflow.errors import ConfigError
from napari_uflow.image.channels import channels_in

__all__ = ["add_common", "add_former", "add_parameters", "config_of"]

C = TypeVar("C", bound=Config)

# Names and values that parameters had before the first release.
_FORMER_FLAGS = {"augmentations": "--views", "specimen_pattern": "--field-pattern"}
_FORMER_VALUES = {
    "border": {"keep": "reflect", "hold": "replicate"},
    "calibration": {"promised": "conformal"},
}


class _FormerFlag(argparse.Action):
    """Flag under its former name: it sets the present one, with a note."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 - signature of argparse
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        _note(f"{option_string} is now called {_flag_of(self.dest)}")
        setattr(namespace, self.dest, values)


def _note(text: str) -> None:
    print(f"napari-uflow: note: {text}", file=sys.stderr)


def add_former(parser: argparse._ActionsContainer, former: str, name: str, **options: Any) -> None:
    """Accept the former name of a flag, which the help does not list.

    Parameters
    ----------
    parser : ArgumentParser, or group of one
        Gets the flag.
    former : str
        Former name, with its dashes.
    name : str
        Name of the option, as an attribute of the parsed options.
    **options
        Type of the value and the like, as for ``add_argument``.
    """
    parser.add_argument(
        former, action=_FormerFlag, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **options
    )


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
        flag = _flag_of(parameter.name)
        if parameter.type is bool:
            group.add_argument(
                flag, dest=parameter.name, action=argparse.BooleanOptionalAction, default=None, help=parameter.help
            )
            continue
        group.add_argument(
            flag,
            dest=parameter.name,
            default=None,
            type=partial(_present_value, parameter.name),
            metavar=_metavar(parameter),
            help=_help(parameter),
        )
        if parameter.name in _FORMER_FLAGS:
            add_former(group, _FORMER_FLAGS[parameter.name], parameter.name)


def _present_value(name: str, text: str) -> str:
    """Return a value under its present name, with a note if it is given under a former one."""
    present = _FORMER_VALUES.get(name, {}).get(text, text)
    if present != text:
        _note(f"{_flag_of(name)} {text} is now called {present}")
    return present


def _flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


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
            except ValueError as error:
                allowed = parameter.range_text
                raise ConfigError(f"{_flag_of(parameter.name)} must be a number ({allowed}), not {text!r}") from error
        else:
            values[parameter.name] = text
    return config.from_dict(values) if base is None else base.replace(**values)
