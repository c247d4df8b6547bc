"""The errors that a user is meant to read: one line that says what, what was expected, and what to do."""

import re

_LONGEST = 1000
"""Characters that a message may have; of a longer one the middle is left out."""


class ClipfeatError(Exception):
    """Anything wrong with the input, the configuration or the machine; the command line prints it in one line."""

    def __str__(self) -> str:
        """The message as one printable line, whatever a damaged file or a library's own words brought into it."""
        text = re.sub(r"\s*\n\s*", " ", super().__str__())
        text = "".join(char if char.isprintable() else "?" for char in text)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 3 :]}"


class ConfigError(ClipfeatError):
    """A configuration value that is out of range, missing or at odds with another."""


class DataError(ClipfeatError):
    """A data set, a scene or a scenes file that cannot be read at all."""


class SchemaError(DataError):
    """A feature file that another version of clipfeat wrote, in a way that this one does not know."""


class FrameError(ClipfeatError):
    """One frame that cannot be used. ``on_bad_frame`` says whether it is skipped or stops the run."""


class WeightsError(ClipfeatError):
    """Weights that cannot be had or that do not fit the model."""


class CheckError(ClipfeatError):
    """A calibration check that was all that was asked for, and that warns."""


class OutputError(ClipfeatError):
    """A place that cannot be written to, or that holds the results of another run."""
