"""What recordings of phones share: where their scenes lie, and whether their files tell of the same frames."""

from collections.abc import Sequence
from pathlib import Path

from clipfeat.data.base import check_scene_name, start_of_patterns
from clipfeat.data.told import ToldOnce
from clipfeat.data.video import Video
from clipfeat.errors import DataError
from clipfeat.system.patterns import PathPattern


class SceneFolders:
    """The folders below ``data.root`` that hold a certain file.

    Args:
        root: ``data.root``.
        inner: the file, as a path below a scene's folder.
        root_is_scene: whether ``root`` is itself a scene.

    Raises:
        DataError: If ``root`` is no folder.
    """

    def __init__(self, root: Path, inner: str, *, root_is_scene: bool):
        if not root.is_dir():
            what = "a file, expected the folder that holds it" if root.is_file() else "no such folder"
            raise DataError(f"data.root={root}: {what}; scenes are <root>/<scene>/{inner}")
        self.root = root
        self.inner = inner
        self._root_is_scene = root_is_scene

    def found(self) -> dict[str, Path]:
        """From each scene's name to its folder; hidden ones are left out."""
        return self._found(root_is_scene=self._root_is_scene)

    def scenes(self) -> list[str]:
        """The names of all of them, sorted.

        Raises:
            DataError: If there is none.
        """
        if not (found := self.found()):
            raise DataError(f"data.root={self.root}: holds no <scene>/{self.inner}{self.hint()}")
        return sorted(found)

    def folder(self, scene_id: str) -> Path:
        """The folder of a scene.

        Raises:
            DataError: If there is no such scene.
        """
        folder = self.found().get(scene_id)
        if folder is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {scene_id}/{self.inner}{self.hint()}")
        return folder

    def hint(self) -> str:
        """What may help where a scene was not found: the end of a message."""
        other = not self._root_is_scene
        return f"; it is there for data.root_is_scene={str(other).lower()}" if self._found(root_is_scene=other) else ""

    def _found(self, *, root_is_scene: bool) -> dict[str, Path]:
        root, values = start_of_patterns(self.root, root_is_scene=root_is_scene)
        up = len(Path(self.inner).parts) - 1
        return {
            check_scene_name(found["scene"], str(path)): path.parents[up]
            for found, path in PathPattern(f"{{scene}}/{self.inner}").walk(root, values)
            if not found["scene"].startswith(".")
        }


def tell_of_counts(
    tell: ToldOnce, scene_id: str, video: Video, said: str, numbers: Sequence[int], packed: int | None = None
) -> None:
    """Tells of files with other numbers of frames than the list of poses: then their numbers may not pair them.

    Args:
        tell: takes what a user should know of the scene.
        scene_id: of the recording.
        video: of it.
        said: the list, and how it says its frames.
        numbers: of the list's frames, ascending.
        packed: frames of depth.bin, where there is one that tells.
    """
    if len({len(video), numbers[-1] + 1, len(numbers)} | {packed} - {None}) > 1:
        beside = "" if packed is None else f" and depth.bin {packed}"
        tell(
            scene_id,
            "counts",
            f"{video.path}: holds {len(video)} frames{beside}, but {said} {len(numbers)}, up to number {numbers[-1]}; "
            f"they are paired by number, from 0: is one of the files cut off?",
        )
