"""The errors a user can cause: one line each, naming the culprit and the mend."""

from __future__ import annotations


class PicoformerError(Exception):
    """Base of every error that is the input's fault; the command line prints it as one line, without a traceback."""


class ModelError(PicoformerError):
    """A model file is broken, not ONNX, or holds numbers that cannot be used."""


class UnsupportedError(PicoformerError):
    """A model asks for something that is not covered; names the node and what to do instead."""


class DataError(PicoformerError):
    """Calibration, test or input data does not match the model, or is not finite."""


class ConfigError(PicoformerError, ValueError):
    """A setting is unknown or has a bad value; names the key, and in a TOML file the line.

    It is a ValueError too, so that validation reports it with its place in the file.
    """


class FitError(PicoformerError):
    """A model does not fit the target: bytes needed, bytes had, and the biggest contributors."""


class ToolError(PicoformerError):
    """A program that is needed (compiler, emulator) is missing or failed."""


class DeviceError(PicoformerError):
    """A device under test crashed, hung, or answered something that makes no sense."""
