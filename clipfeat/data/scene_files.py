"""Scenes that are told by a file each, which says what their pictures are: where the files lie, and frames' numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from clipfeat.data.base import check_scene_name, frame_number
from clipfeat.data.roots import check_root, start_of_patterns, where_scenes_are
from clipfeat.errors import DataError
from clipfeat.system.patterns import PathPattern

COUNTED = "names don't number the pictures, so frames are counted in the order of names"
"""What a user is told where frames have no numbers of their own."""


class SceneFiles:
    """The files that tell of scenes, below a root.

    Args:
        root: ``data.root``.
        patterns: where the file of a scene may lie, with ``{scene}``; of several in one folder the first counts.
        root_is_scene: ``data.root_is_scene``.
        named: what is expected there, for messages.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, root: Path, patterns: Sequence[str], *, root_is_scene: bool, named: str):
        self.root = check_root(root, named)
        self._patterns = [PathPattern(pattern) for pattern in patterns]
        self._root_is_scene = root_is_scene
        self._named = named

    def scenes(self) -> list[str]:
        """All scenes that have a file, sorted by name.

        Raises:
            DataError: If there is none, or a name of theirs is not allowed.
        """
        found = self._found(self.root, self._root_is_scene)
        if not found:
            raise DataError(f"data.root={self.root}: holds no {self._named}{self._hint()}")
        return sorted(check_scene_name(name, str(paths[0])) for name, paths in found.items())

    def paths(self, scene_id: str) -> list[Path]:
        """The files of a scene: one, or more where several patterns fit in several folders.

        Raises:
            DataError: If there is no such scene.
        """
        check_scene_name(scene_id, "scene")
        found = self._found(self.root, self._root_is_scene).get(scene_id)
        if found is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {self._named}{self._hint()}")
        return found

    def _found(self, root: Path, root_is_scene: bool) -> dict[str, list[Path]]:
        root, values = start_of_patterns(root, root_is_scene=root_is_scene)
        found: dict[str, list[Path]] = {}
        for pattern in self._patterns:
            for told, path in pattern.walk(root, values):
                paths = found.setdefault(told["scene"], [])
                if path.parent not in [other.parent for other in paths]:
                    paths.append(path)
        return found

    def _hint(self) -> str:
        return where_scenes_are(self.root, self._found, root_is_scene=self._root_is_scene)


@dataclass(frozen=True)
class Numbering:
    """The frames of a list of pictures.

    Attributes:
        places: frame number, ascending, to the place of its picture in the list.
        digits: frame number to how the picture's name spells it.
        counted: whether names didn't number the pictures, so that they were counted.
    """

    places: dict[int, int]
    digits: dict[int, str]
    counted: bool


def number_pictures(names: Sequence[PurePath], where: object) -> Numbering:
    """Frames have the last number in their picture's name.

    Where a name has none, or two pictures share one, they are numbered by their place, from 0, when sorted by path as
    text: nerfstudio's own order.

    Raises:
        DataError: If a number is too large; ``where`` names the list.
    """
    found = [re.findall(r"[0-9]+", name.stem)[-1:] for name in names]
    digits = [text for texts in found for text in texts]
    counted = not len(digits) == len({int(text) for text in digits}) == len(names)
    if counted:
        order = sorted(range(len(names)), key=lambda place: str(names[place]))
        digits = [str(number) for number in range(len(order))]
    else:
        order = list(range(len(names)))
    numbered = sorted((frame_number(text, where), text, place) for text, place in zip(digits, order, strict=True))
    return Numbering(
        places={number: place for number, _, place in numbered},
        digits={number: text for number, text, _ in numbered},
        counted=counted,
    )
