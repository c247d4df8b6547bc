import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from phone_recordings import shots, write_video

from clipfeat.data.video import Video, _Decoder, import_av
from clipfeat.errors import ConfigError, DataError, FrameError


@pytest.fixture(scope="module")
def colors():
    return [shot.color for shot in shots(23)]


def is_frame(video, colors, number):
    return np.abs(video.picture(number).pixels.astype(int) - colors[number]).max() < 6


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx265", "a.mp4"), ("libx265", "a.mkv")])
def test_each_frame_is_its_own_in_any_order_and_from_several_threads(codec, name, colors, tmp_path):
    pytest.importorskip("av")
    video = Video(write_video(tmp_path / name, colors, codec))
    assert len(video) == len(colors)
    order = np.random.default_rng(0).permutation(len(colors)).tolist()
    assert all(is_frame(video, colors, i) for i in [*range(len(colors)), *order])
    lanes = [list(range(first, len(colors), 4)) for first in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda lane: all(is_frame(video, colors, i) for i in lane), lanes))


def test_frames_in_order_are_decoded_once_and_others_from_the_key_frame_before(colors, tmp_path):
    """Counted by what the decoder gives."""
    pytest.importorskip("av")
    video = Video(write_video(tmp_path / "a.mp4", colors, g="5", bf="0", sc_threshold="0"))
    assert video._keys.tolist() == [0, 5, 10, 15, 20]

    def decoded(numbers):
        video._decoder = decoder = _Decoder(*video.open(), video._times, video._keys)
        count, sought = 0, 0
        container = decoder._container

        class Counting:
            def seek(self, *arguments, **options):
                nonlocal sought
                sought += 1
                container.seek(*arguments, **options)

            def decode(self, stream):
                nonlocal count
                for frame in container.decode(stream):
                    count += 1
                    yield frame

        decoder._container = Counting()
        for number in numbers:
            video.picture(number)
        return count, sought

    assert decoded(range(23)) == (23, 1)
    assert decoded(range(0, 23, 7)) == (22, 1)
    assert decoded([0, 20]) == (2, 2)
    assert decoded([20, 0]) == (2, 2)
    assert decoded([12, 13, 11]) == (4, 1)  # which is kept
    assert decoded([12, 13, 12]) == (4 + 3, 2)  # but not after it was asked for
    lanes = [3, 1, 0, 2, 6, 7, 5, 4, 11, 8, 9, 10, *range(22, 11, -1)]
    assert decoded(lanes) == (23, 1)


@pytest.mark.parametrize(("turned", "orientation"), [(90, 8), (180, 3), (-90, 6)])
def test_a_note_of_rotation_is_told_and_not_followed(turned, orientation, colors, tmp_path):
    pytest.importorskip("av", minversion="18")  # to write one; older ones read it
    picture = Video(write_video(tmp_path / "a.mp4", colors[:1], turned=turned)).picture(0)
    assert (picture.width, picture.height, picture.orientation) == (32, 24, orientation)


@pytest.mark.parametrize(("curve", "told"), [("bt709", ""), ("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_a_curve_of_hdr_is_known(curve, told, colors, tmp_path):
    pytest.importorskip("av")
    assert Video(write_video(tmp_path / "a.mp4", colors[:2], color_trc=curve)).hdr == told


def test_a_video_that_is_cut_off_or_none_is_told(colors, tmp_path):
    pytest.importorskip("av")
    data = write_video(tmp_path / "a.mp4", colors).read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[:-300])
    with pytest.raises(DataError, match="a.mp4: no video, or cut off .*; copy or record it again"):
        Video(tmp_path / "a.mp4")
    noise = np.random.default_rng(0).integers(0, 255, (23, 48, 64, 3), np.uint8)  # of many bytes, for some to be left
    data = write_video(tmp_path / "a.mkv", noise).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    video = Video(tmp_path / "a.mkv")
    assert 0 < len(video) < len(noise)
    assert all(video.picture(i).width == 64 for i in range(len(video)))
    with pytest.raises(FrameError, match=rf"a.mkv: frame 22: the video holds {len(video)} frames, from 0.*; is it cut"):
        video.picture(22)
    with pytest.raises(DataError, match="b.mp4: no such file, expected a video"):
        Video(tmp_path / "b.mp4")


def test_damage_costs_the_frames_up_to_the_next_key_frame(tmp_path):
    """Of H.264. HEVC's decoder makes some picture of nearly anything, and nobody can know."""
    pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (15, 48, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", noise, bf="0", sc_threshold="0", crf="30")
    whole = [Video(path).picture(i).pixels for i in range(15)]
    data = path.read_bytes()
    at = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 2
    path.write_bytes(data[:at] + bytes(300) + data[at + 300 :])
    video, bad = Video(path), []
    for i in range(15):
        try:
            np.testing.assert_array_equal(video.picture(i).pixels, whole[i])
        except FrameError:
            bad.append(i)
    assert bad
    assert set(bad) <= set(range(5, 10))
    with pytest.raises(FrameError, match=f"a.mp4: frame {bad[0]}: can't be decoded.*; copy or record it again"):
        video.picture(bad[0])


def test_a_package_that_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"needs the package av: pip install 'clipfeat\[video\]'"):
        import_av()
