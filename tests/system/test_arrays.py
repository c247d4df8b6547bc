import io
import struct
import zipfile

import numpy as np
import pytest

from clipfeat.system.arrays import read_npy, read_npz

ARRAYS = {
    "pts_feat": np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32),
    "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "empty": np.zeros((0, 192), np.float32),
    "scalar": np.array(3.5),
    "meta": np.array('{"a": "ü"}'),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_saves_comes_back(path, save):
    save(path, **ARRAYS, zeros=np.zeros((1000, 1000)))
    found = read_npz(path)
    assert list(found) == [*ARRAYS, "zeros"]
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
    assert found["pts_feat"].flags.writeable
    assert not found["zeros"].any()


def test_only_the_arrays_that_are_asked_for(path):
    np.savez(path, **ARRAYS)
    assert list(read_npz(path, ["meta", "turned", "none"])) == ["turned", "meta"]


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_that_numpy_saves_comes_back(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert found.dtype == ARRAYS[name].dtype


def member(array, shape=None, descr=None, version=(1, 0)):
    """A member whose header may lie."""
    file = io.BytesIO()
    header = {
        "descr": descr or array.dtype.str,
        "fortran_order": False,
        "shape": array.shape if shape is None else shape,
    }
    npy = np.lib.format
    {1: npy.write_array_header_1_0, 2: npy.write_array_header_2_0}.get(version[0], npy.write_array_header_1_0)(
        file, header
    )
    data = file.getvalue() + array.tobytes()
    return data[:6] + bytes(version) + data[8:]


X = np.arange(12.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member(X, (10**12, 3)), r"x.npy claims to be float64 of shape \(10{12}, 3\), but 96 bytes of it are there"),
        (member(X, (10**40,)), "x.npy claims to be float64 of shape"),
        (member(X, (-3, -4)), "x.npy claims to be float64 of shape"),
        (member(X, (11,)), "x.npy claims to be float64 of shape"),
        (member(X, descr="<U99999999"), "x.npy claims to be <U99999999 of shape"),
        (member(X, descr="|O"), "x.npy holds Python objects, expected numbers"),
        (member(X, version=(3, 0)), r"x.npy is of version \(3, 0\) of the npy format"),
        (member(X).replace(b"descr", b"discr"), "Header does not contain the correct keys"),
        (member(X).replace(b"'shape': (12", b"'shape': [12"), "Cannot parse header|shape is not valid"),
        (member(X)[:20], "EOF|expected"),
        (b"", "EOF|expected"),
        (b"junk" * 100, "magic string is not correct"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_named_and_nothing_is_allocated(path, content, message):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match=message):
        read_npz(path)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message.replace("x.npy", "it")):
        read_npy(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (8, 1, "RuntimeError: .*encrypted"),
        (10, 99, "NotImplementedError: .*compression"),
        (6, 255, "NotImplementedError: zip file version 25.5"),
        (20, 2**32 - 2, "claims .* bytes, more than the file can hold"),
        (24, 2**32 - 2, "claims 4294967294 bytes, more than the file can hold"),
        (42, 2**31, "."),
    ],
)
def test_a_directory_that_lies_is_named(path, field, value, message):
    np.savez(path, x=X)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + field
    data[at : at + 4 if value > 2**16 else at + 2] = struct.pack("<I" if value > 2**16 else "<H", value)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_npz(path)


def test_every_byte_may_be_wrong(path):
    """Any change is found by a checksum or a check, or changes nothing that is read."""
    np.savez(path, x=X)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = read_npz(path)
        except (ValueError, OSError):
            continue
        np.testing.assert_array_equal(found.get("x", X), X)


def test_other_files(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npz(path)
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="File is not a zip file"):
        read_npz(path)
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(ValueError, match="File is not a zip file"):
        read_npz(tmp_path / "a.npy")
