"""``data.root``: where patterns begin in it, and where the scenes are if it is not the folder that holds them."""

import shlex
from collections.abc import Callable, Collection, Container
from pathlib import Path

from clipfeat.errors import DataError

MOST_FOLDERS = 50
"""Folders in a folder that are looked into: a message need not wait for thousands."""

_SHOWN = 3

Found = Callable[[Path, bool], Collection[object]]
"""The scenes of a root; of one that is itself a scene, or isn't."""


def check_root(root: Path, holds: str) -> Path:
    """Returns ``data.root`` if it is a folder.

    Args:
        root: the folder.
        holds: what it is expected to hold, for messages.

    Raises:
        DataError: If it is a file, or not there.
    """
    if root.is_file():
        raise DataError(f"data.root={root}: a file, expected the folder that holds it; it holds {holds}")
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder, expected one that holds {holds}")
    return root


def start_of_patterns(root: Path, *, root_is_scene: bool) -> tuple[Path, dict[str, str]]:
    """The folder that patterns are looked for in, and what is known beforehand: {scene}, if ``root`` is one itself."""
    if not root_is_scene:
        return root, {}
    scene = root.resolve() if root.name in ("", "..") else root.absolute()
    return scene.parent, {"scene": scene.name}


def where_scenes_are(root: Path, found: Found, *, root_is_scene: bool | None = None) -> str:
    """Of a root that holds no scene, what it is instead: the end of a message.

    Args:
        root: as it was given.
        found: looks for scenes.
        root_is_scene: ``data.root_is_scene``; None for a layout without that key.
    """
    above = root.absolute().parent

    def is_there(place: Path, root_is_scene: bool) -> int:
        try:
            return len(found(place, root_is_scene))
        except DataError:  # what is wrong elsewhere is not what the user asked for
            return 0

    if is_there(root, not root_is_scene):
        if root_is_scene is None:
            return f"; this is a scene itself, say {_root(above)} and give the scene in scenes_file"
        return f"; it is there for data.root_is_scene={str(not root_is_scene).lower()}"
    below = ((folder, is_there(folder, False)) for folder in folders_in(root)[:MOST_FOLDERS])
    if said := [f"{folder} holds {count} scene{'' if count == 1 else 's'}" for folder, count in below if count]:
        return "".join(f"; {one}" for one in said[:_SHOWN])
    inside = next((place for place in (above, above.parent) if is_there(place, True)), None)
    return "" if inside is None else f"; this is a part of a scene, say {_root(inside.parent)}"


def folders_in(folder: Path, without: Container[Path] = ()) -> list[Path]:
    """The folders in a folder, by name; none that is hidden.

    Raises:
        DataError: If it can't be listed.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.name[0] != "." and path not in without)
    except OSError as error:
        raise DataError(f"{folder}: can't be listed ({error})") from error
    return [path for path in paths if path.is_dir()]


def _root(folder: Path) -> str:
    return shlex.quote(f"data.root={folder}")
