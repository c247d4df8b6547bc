import io
import zipfile

import numpy as np
import pytest

from clipfeat.output.npz import write_npz

ARRAYS = {
    "pts_feat": np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32),
    "half": np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float16),
    "idx": np.arange(7),
    "empty": np.zeros((0, 192), np.float32),
    "scalar": np.array(3.5),
    "flags": np.array([True, False]),
    "turned": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(20, dtype=np.int16)[::3],
}


def written(arrays=ARRAYS, meta='{"a": "ü"}'):
    file = io.BytesIO()
    write_npz(file, arrays, meta)
    file.seek(0)
    return file


def test_numpy_reads_what_is_written():
    with np.load(written(), allow_pickle=False) as data:
        assert data.files == [*ARRAYS, "meta"]
        for key, array in ARRAYS.items():
            assert data[key].dtype == array.dtype
            np.testing.assert_array_equal(data[key], array)
            assert data[key].shape == array.shape
        assert str(data["meta"]) == '{"a": "ü"}'


def test_zipfile_finds_nothing_wrong_and_the_members_are_those_of_savez():
    plain = io.BytesIO()
    np.savez(plain, **ARRAYS, meta=np.array('{"a": "ü"}'))
    with zipfile.ZipFile(written()) as ours, zipfile.ZipFile(plain) as theirs:
        assert ours.testzip() is None
        for name in theirs.namelist():
            if name != "turned.npy":  # savez keeps the Fortran order, we write C order
                assert ours.read(name) == theirs.read(name)
                assert ours.getinfo(name).CRC == theirs.getinfo(name).CRC


def test_a_flipped_bit_is_found_on_reading():
    data = bytearray(written().getvalue())
    data[1000] ^= 1
    with pytest.raises(zipfile.BadZipFile), np.load(io.BytesIO(data)) as found:
        found["pts_feat"]


def test_the_same_arrays_give_the_same_bytes():
    assert written().getvalue() == written().getvalue()


def test_objects_are_refused():
    with pytest.raises(ValueError, match="bad holds Python objects, expected numbers"):
        write_npz(io.BytesIO(), {"bad": np.array([{}])}, "")


def test_what_is_too_large_for_plain_zip_goes_through_numpy(monkeypatch):
    from clipfeat.output import npz

    monkeypatch.setattr(npz, "_LIMIT", 5000)
    with np.load(written(), allow_pickle=False) as data:
        np.testing.assert_array_equal(data["pts_feat"], ARRAYS["pts_feat"])


@pytest.mark.parametrize("before", [{}, {"uv_idx": np.ones((1000, 2), np.float32)}])
def test_a_large_array_begins_a_block_of_the_file(before):
    large = np.random.default_rng(0).normal(size=(3000, 96)).astype(np.float32)
    file = written({**before, "pts_feat": large, "conf_2d": np.ones(3000, np.float32)})
    assert file.getvalue().find(large.tobytes()) % 4096 == 0
    with np.load(file, allow_pickle=False) as data:
        np.testing.assert_array_equal(data["pts_feat"], large)
        assert data["conf_2d"].shape == (3000,)
    with zipfile.ZipFile(file) as members:
        assert members.testzip() is None
