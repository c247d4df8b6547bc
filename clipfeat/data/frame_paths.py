"""Files beside a data set's own, one a frame: masks and labels, told by a pattern."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PADDED = range(2, 11)
"""Digits that numbers are padded to, as far as any data set does it."""

NamesOf = Callable[[str, int], dict[str, str]]
"""From a scene and a frame's number to what {scene}, {sequence} and {frame} stand for in the data set's own names."""


@dataclass(frozen=True)
class FramePaths:
    """The files that a pattern means.

    Attributes:
        pattern: with {scene} and {frame} in it, and perhaps {sequence}; a relative one begins where the command was
            given, or in the root of the data set.
        root: of the data set, or None.
        names_of: its names; None takes the scene's id and the number.
    """

    pattern: str
    root: Path | None = None
    names_of: NamesOf | None = None

    def __call__(self, scene_id: str, frame_id: int) -> Path:
        """The file of a frame: whichever spelling of it is there, else the plain one, for a message."""
        spellings = self._spellings(scene_id, frame_id)
        plain = next(spellings)
        if plain.is_file():
            return plain
        return next((path for path in spellings if path.is_file()), plain)

    def _spellings(self, scene_id: str, frame_id: int) -> Iterator[Path]:
        names = self.names_of(scene_id, frame_id) if self.names_of else {}
        # A scene with sequences is one name together, but for patterns that tell the two apart.
        scene = names.get("scene", scene_id) if "{sequence}" in self.pattern else scene_id
        text = self.pattern.replace("{scene}", scene).replace("{sequence}", names.get("sequence", ""))
        padded = (str(frame_id).zfill(digits) for digits in _PADDED)
        for digits in dict.fromkeys([str(frame_id), names.get("frame", str(frame_id)), *padded]):
            path = Path(text.replace("{frame}", digits))
            yield path
            if self.root is not None and not path.is_absolute():
                yield self.root / path


def frame_paths(pattern: str, dataset: Any, root: str | Path | None) -> FramePaths:
    """The files that a pattern means beside a data set, whose own names it uses where it tells them."""
    return FramePaths(pattern, None if root is None else Path(root), getattr(dataset, "names_of", None))
