"""The errors that a user is meant to read: one line that says what, what was expected, and what to do."""

import re
from pathlib import Path

_LONGEST = 1000
"""Characters that a message may have; of a longer one the middle is left out."""


def one_line(text: str) -> str:
    """A text as one printable line, whatever a damaged file or a library's own words brought into it."""
    text = re.sub(r"\s*\n\s*", " ", text)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 3 :]}"


class ClipfeatError(Exception):
    """Anything wrong with the input, the configuration or the machine; the command line prints it in one line."""

    def __str__(self) -> str:
        """The message, see ``one_line``."""
        return one_line(super().__str__())


class ConfigError(ClipfeatError):
    """A configuration value that is out of range, missing or at odds with another."""


class DataError(ClipfeatError):
    """A data set, a scene or a scenes file that cannot be read at all."""


class DamagedFileError(DataError):
    """A feature file that is missing, cut off or changed."""


class NoResultsError(DataError):
    """A folder in which clipfeat has written nothing."""


class FrameError(ClipfeatError):
    """One frame that cannot be used. ``on_bad_frame`` says whether it is skipped or stops the run."""


class WeightsError(ClipfeatError):
    """Weights that cannot be had or that do not fit the model."""


class CheckError(ClipfeatError):
    """A calibration check that was all that was asked for, and that warns."""


class CannotTellError(ClipfeatError):
    """A question that was all that was asked, and that could not be answered: neither yes nor no."""


class OutputError(ClipfeatError):
    """A place that cannot be written to, or that holds the results of another run."""


class EngineError(ClipfeatError):
    """Processes that can't be had, or that die again and again."""


def process_died(what: str, instead: str) -> OutputError:
    """The error of a process of our own that ended without a word.

    Args:
        what: which one it was.
        instead: what does without such processes.
    """
    return OutputError(f"{what} died, perhaps for want of memory; what was finished is kept; {instead}")


def tell_how_far(
    error: BaseException, done: int, total: int, folder: Path, *, overwrite: bool, unit: str = "frames"
) -> None:
    """Raises an error that stops a run again, with how far the run came; one that says nothing of the run is left.

    Args:
        error: that stops the run.
        done: frames, or scenes, whose files are there.
        total: those of the run.
        folder: where they are.
        overwrite: whether the same command would begin anew.
        unit: what is counted.

    Raises:
        KeyboardInterrupt: In place of one.
        OutputError: In place of one, such as of a full disk.
    """
    same = "the same command with resume=true" if overwrite else "the same command"
    how_far = f"{done} of {total} {unit} are done in {folder}, {same} goes on from there"
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(how_far) from error
    if isinstance(error, OutputError):
        raise OutputError(f"{error}; {how_far}") from error
