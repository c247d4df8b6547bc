import numpy as np
import pytest
from phone_recordings import jpeg, shots
from ros_bags import compressed, compressed_depth, image, message, png16

from clipfeat.data.ros_images import calibration_of, color_of, depth_of
from clipfeat.errors import DataError, FrameError

COLOR = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
RAW = np.random.default_rng(1).integers(300, 4000, (6, 8)).astype("<u2")


@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("rgb8", COLOR), ("bgr8", COLOR[..., ::-1]), ("8UC3", COLOR[..., ::-1]), ("mono8", COLOR[..., :1]),
        ("rgba8", np.concatenate([COLOR, COLOR[..., :1]], -1)),
        ("bgra8", np.concatenate([COLOR[..., ::-1], COLOR[..., :1]], -1)),
    ],
)  # fmt: skip
def test_raw_colour_of_each_encoding_and_with_filled_up_rows(encoding, stored):
    expected = np.repeat(COLOR[..., :1], 3, -1) if encoding == "mono8" else COLOR
    for step in (None, stored.shape[1] * stored.shape[2] + 7):
        picture = color_of(message(image(stored, encoding, step)), "here", 0)
        np.testing.assert_array_equal(picture.pixels, expected)
    turned = color_of(message(image(stored, encoding)), "here", 90)
    np.testing.assert_array_equal(turned.pixels, np.rot90(expected, -1))


def test_packed_colour():
    color = shots(1)[0].color
    picture = color_of(message(compressed(jpeg(color), "bgr8; jpeg compressed bgr8")), "here", 0)
    assert np.abs(picture.pixels.astype(int) - color).max() < 6
    with pytest.raises(FrameError, match="here: not a picture"):
        color_of(message(compressed(b"nonsense", "jpeg")), "here", 0)


def test_depth_of_each_encoding():
    metres = (RAW / 1000).astype(np.float32)
    holes = metres.copy()
    holes[0, 0] = np.nan
    for fields in (
        image(RAW, "16UC1"), image(RAW, "mono16", step=19), image(RAW.astype(">u2"), "16UC1", big=1),
        image(metres, "32FC1"), compressed_depth(RAW), compressed(png16(RAW), "16UC1; png compressed "),
    ):  # fmt: skip
        np.testing.assert_allclose(depth_of(message(fields), "here", 1000), metres)
    assert depth_of(message(image(holes, "32FC1")), "here", 1000)[0, 0] == 0
    np.testing.assert_allclose(depth_of(message(image(RAW, "16UC1")), "here", 4000), RAW / 4000, rtol=1e-6)
    packed = (100 / metres + 0.5).round()
    fields = compressed_depth(packed, "32FC1; compressedDepth png", a=100, b=0.5)
    np.testing.assert_allclose(depth_of(message(fields), "here", 1000), 100 / (packed - 0.5), rtol=1e-6)


def test_what_is_not_read_is_told():
    for fields, read, expected in (
        (image(COLOR, "bayer_rggb8"), color_of, r"here: colour of the encoding bayer_rggb8, expected rgb8.*image_proc"),
        (image(RAW, "rgb8") | {"step": 3}, color_of, "here: 96 bytes, expected 6 rows of 24 for 8 pixels"),
        (image(COLOR, "rgb8"), depth_of, "here: depth of the encoding rgb8, expected 16UC1, mono16, 32FC1"),
        (
            compressed_depth(RAW, "16UC1; compressedDepth rvl") | {"data": b"x" * 30},
            depth_of,
            "compressedDepth rvl', exp",
        ),
        (
            compressed(png16(RAW)[:-9], "16UC1; png"),
            depth_of,
            "here: packed as '16UC1; png', expected a whole 16-bit PNG",
        ),
        (compressed(png16(RAW), "32FC1; png"), depth_of, "without the numbers that make metres of it"),
    ):
        with pytest.raises(FrameError, match=expected):
            read(message(fields), "here", 0)


def info(**changes):
    whole = message({"width": 0, "height": 0})
    k, p = np.diag([9.0, 9, 1]).ravel(), np.hstack([np.diag([7.0, 7, 1]), np.ones((3, 1))]).ravel()
    fields = {"K": k, "P": p, "D": [0.0], "width": 8, "height": 6, "roi": whole, "binning_x": 0, "binning_y": 1}
    return message(fields | changes)


def test_k_is_that_of_the_pictures_or_what_is_wrong_with_it():
    found = calibration_of(info(), "/info", rectified=False)
    assert (found.intrinsics[0, 0], found.size) == (9, (8, 6))
    bent = {"D": [0.1, -0.2, 0, 0, 0.3], "distortion_model": "plumb_bob"}
    found = calibration_of(info(**bent), "/info", rectified=True)
    assert (found.intrinsics[0, 0], found.distortion) == (7, None)
    found = calibration_of(info(**bent), "/info", rectified=False)
    assert (found.intrinsics[0, 0], found.distortion.radial) == (9, (0.1, -0.2, 0.3, 0))
    fisheye = {"D": [0.1, 0, 0, 0], "distortion_model": "equidistant"}
    assert calibration_of(info(**fisheye), "/info", rectified=False).distortion.fisheye
    with pytest.raises(
        DataError, match=r"/info: the lens distorts .plumb_bob, D: 0.1, -0.2, 0, 0, 0.3.; say data.rect"
    ):
        calibration_of(info(**bent), "/info", rectified=None)
    bent = {"D": [1.0] * 9, "distortion_model": "rational_polynomial"}
    with pytest.raises(DataError, match=r"which is not read .9 numbers, of which 8 are read.; rectify the pictures by"):
        calibration_of(info(**bent), "/info", rectified=False)
    with pytest.raises(
        DataError, match=r"which is not read .expected plumb_bob, rational_polynomial, equidistant, fis"
    ):
        calibration_of(info(D=[1], distortion_model="polar"), "/info", rectified=False)
    with pytest.raises(DataError, match="/info: K is 0: the camera was not calibrated"):
        calibration_of(info(K=np.zeros(9)), "/info", rectified=False)
    with pytest.raises(DataError, match="/info: pictures are a part of the camera's, or binned"):
        calibration_of(info(binning_x=2), "/info", rectified=False)
