import pytest

from clipfeat.data.config import FramesConfig, ScanNetConfig
from clipfeat.data.layouts import build_dataset
from clipfeat.data.selection import frame_keys, list_frames, list_scenes, own_scenes
from clipfeat.errors import DataError
from clipfeat.system.shards import Shard


class Recordings:
    """Scenes of so many frames; a scene of -1 can't be read."""

    def __init__(self, **counts):
        self.counts = counts

    def scenes(self):
        return sorted(self.counts)

    def frame_ids(self, scene_id):
        if self.counts.get(scene_id, -1) < 0:
            raise DataError(f"{scene_id}: can't be read")
        return list(range(self.counts[scene_id]))


FOUR = Recordings(a=4, b=1, c=2, d=3)


def test_stride_and_count_hold_for_each_scene():
    cfg = FramesConfig(frame_stride=2, frames_per_scene=1)
    assert list_scenes(cfg, FOUR) == {"a": [0], "b": [0], "c": [0], "d": [0]}
    assert list_frames(FramesConfig(frame_stride=3), FOUR) == [("a", 0), ("a", 3), ("b", 0), ("c", 0), ("d", 0)]


def test_shards_have_each_frame_once():
    shares = [list_frames(FramesConfig(), FOUR, shard=Shard(index, 2)) for index in range(2)]
    assert sorted(shares[0] + shares[1]) == frame_keys(list_scenes(FramesConfig(), FOUR))
    assert [len(share) for share in shares] == [5, 5]


def test_a_bad_scene_is_told_by_its_own_shard_alone():
    some = Recordings(a=2, b=-1, c=2)
    told = []
    for index in range(2):
        bad = {}
        list_frames(FramesConfig(), some, bad, Shard(index, 2))
        told += bad.items()
    assert told == [("b", "b: can't be read")]
    with pytest.raises(DataError, match=r"^b: can't be read$"):
        list_scenes(FramesConfig(on_bad_frame="fail"), some, {})
    with pytest.raises(DataError, match="none of the 1 scenes can be read; the first: x: can't be read"):
        list_scenes(FramesConfig(), Recordings(x=-1), {})


def test_scenes_of_a_file_come_in_its_order_and_one_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "scenes.txt"
    path.write_text("d\nb\n")
    cfg = FramesConfig(scenes_file=str(path))
    assert list(list_scenes(cfg, FOUR)) == ["d", "b"]
    path.write_text("z\n")
    with pytest.raises(DataError, match=rf"^scenes_file={path}: z: can't be read$"):
        list_scenes(cfg, FOUR, {})


def test_own_scenes_drop_the_bad_ones_of_others():
    bad = {"a": "why", "c": "why"}
    own = own_scenes({"a": [], "b": [0], "c": []}, Shard(0, 2), bad)
    assert bad == {scene_id: "why" for scene_id in own if scene_id != "b"}


def test_a_run_of_no_frame_is_refused():
    with pytest.raises(DataError, match="none of the 2 scenes has a frame; expected one at least"):
        list_scenes(FramesConfig(), Recordings(a=0, b=0))


@pytest.mark.parametrize("number", [1 << 63, -1])
def test_a_number_that_no_array_can_hold_is_refused(number):
    class Stamped(Recordings):
        def frame_ids(self, scene_id):
            return [5, number]

    with pytest.raises(
        DataError, match=f"a: frame {number}, but a frame's number is 0 or more and has 18 digits at most"
    ):
        list_scenes(FramesConfig(), Stamped(a=2))


def test_a_root_without_scenes_is_told_with_what_knows_more(tmp_path):
    cfg = FramesConfig(data=ScanNetConfig(root=str(tmp_path)))
    with pytest.raises(DataError) as error:
        list_scenes(cfg, build_dataset(cfg.data))
    assert "holds no scene, expected folders such as scene0000_00/color" in str(error.value)
    assert f"; clipfeat-inspect {tmp_path} tells what lies there, and which data= reads it" in str(error.value)
