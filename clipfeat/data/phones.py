"""What recordings of phones share: where their scenes lie, and whether their files tell of the same frames."""

from collections.abc import Sequence
from pathlib import Path

from clipfeat.data.base import check_scene_name
from clipfeat.data.roots import check_root, start_of_patterns, where_scenes_are
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
        self.root = check_root(root, f"<scene>/{inner}")
        self.inner = inner
        self._root_is_scene = root_is_scene

    def scenes(self) -> list[str]:
        """The names of all of them, sorted.

        Raises:
            DataError: If there is none.
        """
        if not (found := self.found(self.root, self._root_is_scene)):
            raise DataError(f"data.root={self.root}: holds no <scene>/{self.inner}{self.hint()}")
        return sorted(found)

    def folder(self, scene_id: str) -> Path:
        """The folder of a scene.

        Raises:
            DataError: If there is no such scene.
        """
        folder = self.found(self.root, self._root_is_scene).get(scene_id)
        if folder is None:
            raise DataError(f"{self.root}: no such scene {scene_id}, expected {scene_id}/{self.inner}{self.hint()}")
        return folder

    def hint(self) -> str:
        """What may help where a scene was not found: the end of a message."""
        return where_scenes_are(self.root, self.found, root_is_scene=self._root_is_scene)

    def found(self, root: Path, root_is_scene: bool) -> dict[str, Path]:
        """Below a root, from each scene's name to its folder; hidden ones are left out."""
        root, values = start_of_patterns(root, root_is_scene=root_is_scene)
        up = len(Path(self.inner).parts) - 1
        return {
            check_scene_name(found["scene"], str(path)): path.parents[up]
            for found, path in PathPattern(f"{{scene}}/{self.inner}").walk(root, values)
            if not found["scene"].startswith(".")
        }


def tell_of_video(
    tell: ToldOnce, scene_id: str, video: Video, said: str, numbers: Sequence[int], packed: int | None = None
) -> None:
    """Tells of files with other numbers of frames than the list of poses, whose numbers may not pair them; and of HDR.

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
    if video.hdr:
        tell(
            scene_id,
            "hdr",
            f"{video.path}: its colours are HDR ({video.hdr}) and are taken as they are stored, so white is grey; "
            "record without HDR",
        )
