from clipfeat.errors import DataError, FrameError
from clipfeat.sampling.locate import locate_some


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


def test_one_of_the_next_frames_stands_in_for_one_that_can_not_be_used():
    keys = [("s", i) for i in range(100)]
    assert locate_some(lambda frame: frame, Frames(bad=[25, 26]), keys) == [27, 75]
    assert locate_some(lambda frame: frame, Frames(bad=range(70, 100)), keys) == [25]
