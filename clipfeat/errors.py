"""The errors that a user is meant to read: one line that says what, what was expected, and what to do."""


class ClipfeatError(Exception):
    """Anything wrong with the input, the configuration or the machine; the command line prints it in one line."""


class ConfigError(ClipfeatError):
    """A configuration value that is out of range, missing or at odds with another."""


class DataError(ClipfeatError):
    """A data set, a scene or a scenes file that cannot be read at all."""


class DamagedFileError(DataError):
    """A feature file that is missing, cut off or changed."""


class FrameError(ClipfeatError):
    """One frame that cannot be used. ``on_bad_frame`` says whether it is skipped or stops the run."""


class WeightsError(ClipfeatError):
    """Weights that cannot be had or that do not fit the model."""


class CheckError(ClipfeatError):
    """A calibration check that was all that was asked for, and that warns."""


class OutputError(ClipfeatError):
    """A place that cannot be written to, or that holds the results of another run."""
