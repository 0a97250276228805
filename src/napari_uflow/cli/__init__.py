"""Command line: ``napari-uflow demo | train | detect | evaluate | trust | show``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

from napari_uflow.cli.interrupts import Interrupts
from napari_uflow.cli.output import EXIT_FAILED
from napari_uflow.cli.parser import make_parser
from napari_uflow.cli.reporter import silence
from napari_uflow.cli.terminal import OutputError, plain_streams
from napari_uflow.errors import OverwriteError, Stopped, UFlowError
from napari_uflow.system.apple import enable_mps_fallback
from napari_uflow.wording import printable

__all__ = ["main"]

_EXIT_WRONG_INPUT = 2
_EXIT_ABORTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command and options; those of the process by default.

    Returns
    -------
    int
        0: done (a stopped training that kept its best model counts as done). 1: some files failed, a model had to be
        saved elsewhere, or the standard output cannot be written to. 2: wrong input, explained in one line. 130, 143 or
        129: stopped by Ctrl-C, SIGTERM or SIGHUP before there was a result.
    """
    with plain_streams(), warnings.catch_warnings():
        # A figure shows boxes for letters that its font lacks; the user can do nothing about it.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        return _run(arguments)


def _run(arguments: Sequence[str] | None) -> int:
    options = make_parser().parse_args(arguments)
    interrupts = options.interrupts = Interrupts()
    enable_mps_fallback()
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()
        return code
    except Stopped as stopped:
        print(f"napari-uflow: {printable(str(stopped))}", file=sys.stderr)
        return interrupts.exit_code
    except OverwriteError as error:
        print(f"napari-uflow: error: {printable(str(error))}, or replace the file with --overwrite", file=sys.stderr)
        return _EXIT_WRONG_INPUT
    except UFlowError as error:
        print(f"napari-uflow: error: {printable(str(error))}", file=sys.stderr)
        return _EXIT_WRONG_INPUT
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        silence(sys.stdout)
        return 0
    except OutputError as error:
        silence(sys.stdout)
        with suppress(OSError):
            print(f"napari-uflow: error: the output cannot be printed ({error.strerror})", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("napari-uflow: interrupted", file=sys.stderr)
        return _EXIT_ABORTED
