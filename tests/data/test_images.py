import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clipfeat.data.images import read_picture
from clipfeat.data.rasters import read_depth
from clipfeat.errors import FrameError
from clipfeat.types import Picture


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def test_png_comes_back_exactly_and_grey_and_alpha_become_rgb(tmp_path, picture):
    for name, image in (("rgb", picture), ("grey", picture[..., 0]), ("rgba", np.dstack([picture, picture[..., 0]]))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "rgb.png").pixels, picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "rgba.png").pixels, picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png").pixels[..., 2], picture[..., 0])


def test_depth_is_metres_and_invalid_values_are_zero(tmp_path):
    raw = np.array([[0, 1, 1500], [65534, 65535, 40000]], dtype=np.uint16)
    Image.fromarray(raw).save(tmp_path / "d.png")
    depth = read_depth(tmp_path / "d.png", 1000.0)
    np.testing.assert_allclose(depth, [[0, 0.001, 1.5], [65.534, 0, 40.0]], rtol=1e-6)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(read_depth(tmp_path / "d.png", 4000.0)[0, 2], 0.375)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_a_truncated_picture_is_named(tmp_path, picture, kind, keep):
    path = tmp_path / f"7.{kind}"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(FrameError, match=rf"7\.{kind}: (not a picture|damaged file)"):
        read_picture(path).pixels


def test_other_bad_pictures_are_named(tmp_path, picture):
    with pytest.raises(FrameError, match=r"none.jpg: no such file, a JPEG or PNG picture was expected"):
        read_picture(tmp_path / "none.jpg").pixels
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(picture).save(tmp_path / "bmp.png", "BMP")
    with pytest.raises(FrameError, match="bmp.png: not a picture, a JPEG or PNG picture was expected"):
        read_picture(tmp_path / "bmp.png")
    with pytest.raises(FrameError, match="folder.jpg: damaged file"):
        read_picture(tmp_path / "folder.jpg").pixels
    Image.fromarray(picture[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(FrameError, match="8 bits a channel was expected, got mode I"):
        read_picture(tmp_path / "deep.png").pixels
    Image.fromarray(picture[..., 0]).save(tmp_path / "8bit.png")
    with pytest.raises(FrameError, match="8bit.png: 8-bit depth, but 16 bits in one channel were expected"):
        read_depth(tmp_path / "8bit.png", 1000.0)
    with pytest.raises(
        FrameError, match=r"no such file, a 16-bit depth picture \(PNG, PGM, TIFF or NPY\) was expected"
    ):
        read_depth(tmp_path / "none.png", 1000.0)


def lie_about_size(path, width, height):
    """Another size in the header of a PNG, with the right checksum, or of a baseline JPEG."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0\x00\x11\x08")
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    path.write_bytes(data)


def test_a_header_that_lies_about_its_size_allocates_nothing(tmp_path, picture):
    path = tmp_path / "lie.png"
    Image.fromarray(picture).save(path)
    lie_about_size(path, 200_000, 200_000)
    with pytest.raises(FrameError, match="lie.png"):
        read_picture(path).pixels


@pytest.mark.filterwarnings("ignore:Image size")  # as the command line does
@pytest.mark.parametrize("size", [(8193, 8192), (60_000, 2000), (65_500, 65_500)])
@pytest.mark.parametrize("name", ["c.png", "c.jpg", "d.png"])
def test_a_header_that_says_more_than_any_picture_has_is_named(tmp_path, picture, name, size):
    path = tmp_path / name
    Image.fromarray(picture[..., 0].astype(np.uint16) if name == "d.png" else picture).save(path)
    lie_about_size(path, *size)
    with pytest.raises(FrameError, match=rf"{name}: damaged file \(.*pixels"):
        read_depth(path, 1000.0) if name == "d.png" else read_picture(path)


def test_a_jpeg_that_is_too_short_for_its_pixels_is_named_before_it_is_decoded(tmp_path, picture):
    path = tmp_path / "7.jpg"
    Image.fromarray(picture).save(path)
    size = path.stat().st_size
    lie_about_size(path, 4000, 3000)
    with pytest.raises(FrameError, match=rf"7.jpg: damaged file \(its header says 4000×3000 pixels in {size} bytes"):
        read_picture(path)


@pytest.mark.parametrize("options", [{"optimize": True}, {"progressive": True, "quality": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_of_one_colour_is_as_short_as_a_picture_can_be(tmp_path, mode, options):
    Image.new(mode, (4096, 4096)).save(tmp_path / "0.jpg", **options)
    assert 4096 * 4096 / (tmp_path / "0.jpg").stat().st_size < 512
    assert read_picture(tmp_path / "0.jpg").pixels.max() <= 1
    Image.new(mode, (4096, 4096)).save(tmp_path / "0.png")
    assert not read_picture(tmp_path / "0.png").pixels.any()


def test_a_picture_is_decoded_when_its_pixels_are_asked_for(tmp_path, picture):
    path = tmp_path / "rgb.png"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    read = read_picture(path)
    path.unlink()  # all that is needed was read
    assert (read.width, read.height) == (80, 60)
    np.testing.assert_array_equal(read.pixels, picture)
    assert read.pixels is read.pixels
    path.write_bytes(whole[: len(whole) // 2])
    half = read_picture(path)
    with pytest.raises(FrameError, match="rgb.png: damaged file"):
        _ = half.pixels
    path.write_bytes(b"")
    with pytest.raises(FrameError, match="rgb.png: not a picture, a JPEG or PNG picture was expected"):
        read_picture(path)
    with pytest.raises(FrameError, match="none.png: no such file, a JPEG or PNG picture was expected"):
        read_picture(tmp_path / "none.png")


def test_the_digest_of_a_picture_changes_with_the_picture(tmp_path, picture):
    edited = picture.copy()
    edited[0, 0, 0] ^= 1
    digests = []
    for number, pixels in enumerate((picture, picture, edited)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        digests.append(read_picture(tmp_path / f"{number}.png").digest)
    assert digests[0] == digests[1] != digests[2]
    of_pixels = [Picture.of(pixels).digest for pixels in (picture, picture.copy(), edited, picture.reshape(80, 60, 3))]
    assert of_pixels[0] == of_pixels[1]
    assert len(set(of_pixels)) == 3
    assert all(len(digest) == 32 for digest in digests + of_pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"quality": 40, "subsampling": 2}, {"progressive": True}, {"subsampling": 0}])
def test_jpegs_have_the_very_pixels_that_pillow_gives(tmp_path, mode, options):
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((333, 251))
    smooth.convert(mode).save(tmp_path / "0.jpg", **options)
    if mode == "CMYK":
        with pytest.raises(FrameError, match="8 bits a channel was expected, got mode CMYK"):
            read_picture(tmp_path / "0.jpg").pixels
        return
    expected = np.asarray(Image.open(tmp_path / "0.jpg").convert("RGB"))
    found = read_picture(tmp_path / "0.jpg").pixels
    assert found.flags.c_contiguous or found.transpose(2, 0, 1).flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
