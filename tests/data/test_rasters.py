"""Depth, masks and labels in PGM, TIFF and NPY: the same numbers as in PNG, and a line where a file is not whole."""

import numpy as np
import pytest
from PIL import Image

from clipfeat.data.rasters import bits_of_picture, read_depth, read_labels
from clipfeat.errors import FrameError

MM = np.array([[0, 1, 1500, 300], [4095, 65535, 40000, 256]], dtype=np.uint16)
METRES = [[0, 0.001, 1.5, 0.3], [4.095, 0, 40.0, 0.256]]


def pgm(values, largest=65535, comment=b"# by hand\n"):
    height, width = values.shape
    stored = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    return b"P5 %s%d %d\n%d\n" % (comment, width, height, largest) + stored


def save(path, values, **options):
    """``values`` in the format that the name says; under any name the content decides."""
    if path.suffix == ".pgm":
        path.write_bytes(pgm(values))
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["0.png", "0.pgm", "0.tiff", "0.npy"])
def test_whole_numbers_mean_the_same_in_each_format(tmp_path, name):
    path = save(tmp_path / name, MM)
    depth = read_depth(path, 1000.0)
    assert depth.dtype == np.float32
    assert depth.flags.writeable
    np.testing.assert_allclose(depth, METRES, rtol=1e-6)
    np.testing.assert_array_equal(read_labels(path), MM)
    assert bits_of_picture(path, "label") == 16


@pytest.mark.parametrize(
    "content",
    [
        pgm(MM // 16, largest=4095),  # Pillow would stretch these to 65535
        b"P2\n# text\n4 2\n4095\n" + "\n".join(" ".join(map(str, row)) for row in MM // 16).encode(),
    ],
)
def test_a_pgm_is_not_scaled_to_its_largest_value(tmp_path, content):
    (tmp_path / "0.pgm").write_bytes(content)
    np.testing.assert_array_equal(read_labels(tmp_path / "0.pgm"), MM // 16)


@pytest.mark.parametrize("kind", [">u2", "<i4", "<i8", "fortran", "(h, w, 1)"])
def test_arrays_of_other_whole_numbers(tmp_path, kind):
    values = {"fortran": np.asfortranarray(MM), "(h, w, 1)": MM[..., None]}.get(kind)
    np.save(tmp_path / "0.npy", MM.astype(kind) if values is None else values)
    np.testing.assert_array_equal(read_labels(tmp_path / "0.npy"), MM)


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}])
@pytest.mark.parametrize("scale", [1, 1000])
def test_floats_need_a_unit(tmp_path, options, scale):
    stored = np.array([[0, np.nan, 1.5], [np.inf, 0.25, 65535]], np.float32) * scale
    expected = [[0, 0, 1.5], [0, 0.25, 65535 if scale > 1 else 0]]
    for path in (save(tmp_path / "0.tif", stored, **options), save(tmp_path / "0.npy", stored.astype(np.float64))):
        with pytest.raises(
            FrameError, match=r"depth in floats, whose unit is not said: data.depth_float_scale=1 for m"
        ):
            read_depth(path, 1000.0)
        np.testing.assert_allclose(read_depth(path, 1000.0, float_scale=scale), expected, rtol=1e-6)
        with pytest.raises(
            FrameError, match=r"floats, but an 8- or 16-bit label picture \(PNG, PGM, TIFF or NPY\) was"
        ):
            read_labels(path)
    np.save(tmp_path / "0.npy", -stored)
    with pytest.raises(FrameError, match=r"0.npy: [23] depths below 0, the least -"):
        read_depth(tmp_path / "0.npy", 1000.0, float_scale=scale)


def test_eight_bits_are_labels_and_no_depth(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (tmp_path / "0.pgm").write_bytes(pgm(values, largest=255))
    for path in (tmp_path / "0.pgm", save(tmp_path / "0.tiff", values), save(tmp_path / "0.npy", values)):
        np.testing.assert_array_equal(read_labels(path), values)
        assert bits_of_picture(path, "label") == 8
        with pytest.raises(FrameError, match="8-bit depth, but 16 bits in one channel were expected"):
            read_depth(path, 1000.0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # Pillow's; the error is what counts
@pytest.mark.parametrize("name", ["0.pgm", "0.tiff", "0.npy"])
def test_a_file_that_is_cut_off_is_named_wherever_it_is_cut(tmp_path, name):
    path = save(tmp_path / name, np.arange(600, dtype=np.uint16).reshape(20, 30))
    whole = path.read_bytes()
    for keep in [*range(3, 150, 7), len(whole) // 2, len(whole) - 200, len(whole) - 1]:
        path.write_bytes(whole[:keep])
        with pytest.raises(FrameError, match=rf"{name}: .*16-bit label picture \(PNG, PGM, TIFF or NPY\)"):
            read_labels(path)


def header(text):
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


BAD = {
    "size.pgm": (pgm(MM) + b"\n", "17 bytes of pixels, its header says 16"),
    "large.pgm": (pgm(MM, largest=4096), "a value of 65535, above the 4096 that its header says"),
    "most.pgm": (b"P5 1 1 70000\n\0\0", "its largest value is said to be 70000"),
    "huge.pgm": (b"P5 90000 90000 65535\n\0\0", "its header says 90000×90000 pixels, 64 million are read at most"),
    "words.pgm": (b"P2 2 1 300\n1 one\n", "invalid literal"),
    "few.pgm": (b"P2 2 1 300\n1\n", "holds 1 values, but 2×1 pixels"),
    "huge.npy": (header("{'descr':'<u2','fortran_order':False,'shape':(90000,90000)}"), "90000×90000 pixels"),
    "cube.npy": (header("{'descr':'<u2','fortran_order':False,'shape':(2,2,3)}"), r"an array of shape \(2, 2, 3\)"),
    "pickle.npy": (header("{'descr':'|O','fortran_order':False,'shape':(2,2)}"), "an array of object"),
    "code.npy": (header("__import__('os').abort()"), "can't be read as a 16-bit depth picture"),
    "short.tiff": (b"II*\0" + bytes(64), "a TIFF that is damaged or of a kind that is not read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_picture_is_told_in_a_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameError, match=rf"{name}: .*{message}"):
        read_depth(tmp_path / name, 1000.0)


def test_several_channels_or_pages_and_wide_numbers(tmp_path):
    rgb = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    rgb.save(tmp_path / "rgb.tiff")
    with pytest.raises(FrameError, match=r"rgb.tiff: can't be read as .* with one channel \(TIFF of mode RGB\)"):
        read_depth(tmp_path / "rgb.tiff", 1000.0)
    page = Image.fromarray(MM)
    page.save(tmp_path / "two.tiff", save_all=True, append_images=[page])
    with pytest.raises(FrameError, match=r"two.tiff: .*\(2 pages\)"):
        read_depth(tmp_path / "two.tiff", 1000.0)
    np.save(tmp_path / "wide.npy", np.array([[-1, 5]]))
    with pytest.raises(FrameError, match="wide.npy: whole numbers from -1 to 5, expected 0 to 65535"):
        read_labels(tmp_path / "wide.npy")
