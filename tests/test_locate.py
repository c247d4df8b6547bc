from clipfeat.errors import DataError, FrameError
from clipfeat.locate import locate_some


class Frames:
    """A data set that only notes which frames it was asked for."""

    def __init__(self, bad=()):
        self.asked = []
        self.bad = bad

    def load(self, scene_id, frame_id):
        self.asked.append(frame_id)
        if frame_id in self.bad:
            raise (FrameError, DataError)[frame_id % 2]("bad")
        return frame_id


def test_a_few_frames_are_spread_over_all_of_them():
    for count, expected in ((0, []), (1, [0]), (60, [30]), (100, [25, 75]), (6000, [1000, 3000, 5000])):
        dataset = Frames()
        keys = [("s", i) for i in range(count)]
        assert locate_some(lambda frame: -frame, dataset, keys) == [-i for i in expected]
        assert dataset.asked == expected


def test_frames_that_can_not_be_used_are_left_out():
    assert locate_some(lambda frame: frame, Frames(bad=[25]), [("s", i) for i in range(100)]) == [75]
    assert locate_some(lambda frame: frame, Frames(bad=[25, 75]), [("s", i) for i in range(100)]) == []
