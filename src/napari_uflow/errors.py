"""Errors caused by input; each message names the problem and a remedy."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BackboneUnavailableError",
    "ConfigError",
    "ImageError",
    "ModelFileError",
    "OverwriteError",
    "Stopped",
    "UFlowError",
]


class UFlowError(Exception):
    """Base of the errors that a user can cause and correct; the command line prints them as one line."""


class ConfigError(UFlowError, ValueError):
    """A parameter is out of its range or conflicts with another one."""


class ImageError(UFlowError, ValueError):
    """An image, a mask or an image file cannot be used."""


class ModelFileError(UFlowError):
    """A model file cannot be read: it is damaged, of an unknown format, or not a model."""


class OverwriteError(ConfigError):
    """A file exists that this package has not written; the command line replaces it only with ``--overwrite``."""


class BackboneUnavailableError(UFlowError):
    """The pre-trained weights of a backbone can be found neither on disk nor at the model hub.

    Parameters
    ----------
    reason : str
        Cause, without a full stop.
    url : str, optional
        Address of the file to download.
    path : Path, optional
        Place in the weights folder to save it to.

    Attributes
    ----------
    reason, url, path
        As given.
    """

    def __init__(self, reason: str, *, url: str | None = None, path: Path | None = None) -> None:
        super().__init__(reason)
        self.reason, self.url, self.path = reason, url, path

    def __str__(self) -> str:
        return self.text("give it with --weights (in Python: weights=)")

    def text(self, other_place: str) -> str:
        """Return the reason and the remedies in one sentence.

        Parameters
        ----------
        other_place : str
            Clause that says how to use a file in another folder than the weights folder.
        """
        if self.url is None:
            remedy = f"if the file is elsewhere, {other_place}"
        else:
            remedy = f"download {self.url} on a computer with internet and save it as {self.path}, or {other_place}"
        return f"{self.reason}; {remedy}; or choose the backbone 'scattering', which needs no weights"


class Stopped(UFlowError):  # noqa: N818 - the outcome of a run, in the words of the user who asked for it
    """A job was asked to stop before it had a result."""
