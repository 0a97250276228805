"""Errors that a user can cause; each message says what is wrong and what to do about it."""

__all__ = ["BackboneUnavailableError", "ConfigError", "ImageError", "ModelFileError", "Stopped", "UFlowError"]


class UFlowError(Exception):
    """Base of the errors that a user can cause and mend; the command line prints them as one line."""


class ConfigError(UFlowError, ValueError):
    """A parameter is out of its range or does not fit another one."""


class ImageError(UFlowError, ValueError):
    """An image, a mask or a file of images cannot be used as it is."""


class ModelFileError(UFlowError):
    """A model file cannot be read: wrong format, unknown format number, damaged or not a model at all."""


class BackboneUnavailableError(UFlowError):
    """The pre-trained weights of a backbone can be found neither on disk nor at the model hub."""


class Stopped(UFlowError):  # noqa: N818 - the outcome of a run, in the words of the user who asked for it
    """A run was asked to stop before it had anything to return."""
