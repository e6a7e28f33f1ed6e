"""The errors that a user can meet, each named after what is wrong and saying what to do.

The command line prints the message of a `HullforgeError` alone, without a traceback, and exits with 2; any
other exception is a defect of hullforge and keeps its traceback.
"""


class HullforgeError(Exception):
    """Base of all errors that are about the user's input, files or machine."""


class ConfigError(HullforgeError):
    """A key of the campaign's configuration is unknown, missing or out of range."""


class PrototypeError(HullforgeError):
    """A prototype can't be read or compiled."""


class PausedError(HullforgeError):
    """The allocation ends before the work does; the same command goes on from there."""


class EngineError(HullforgeError):
    """An engine is missing, of another version than declared, or can't do what the protocol asks."""


class ProtocolError(HullforgeError):
    """A protocol file is malformed or lacks a functional."""


class ModelError(HullforgeError):
    """A model folder is incomplete or does not fit the campaign."""


class TableError(HullforgeError):
    """A table is not what its schema says, was cut short, or was written by a newer version."""


class SealError(HullforgeError):
    """A sealed round or a release no longer matches its checksums, or the config contradicts it."""
