import io
import json

import h5py
import numpy as np
import pytest

from clipfeat.errors import DataError
from clipfeat.output.files import read_arrays
from clipfeat.output.h5 import write_h5

META = json.dumps({"schema_version": 1, "why": "x" * 2000})
ARRAYS = {"pts_feat": np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32), "pts_idx": np.arange(50)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "frame_3.h5"
    with path.open("w+b") as file:
        write_h5(file, ARRAYS, META)
    return path


def test_every_byte_may_be_wrong(path):
    """A change is found by a checksum, or changes nothing that is read. HDF5's older format would hang here."""
    whole = path.read_bytes()
    data_from = whole.index(ARRAYS["pts_feat"].tobytes())
    found, different = 0, 0
    for at in [*range(data_from), *range(data_from, len(whole), 37)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            arrays, meta = read_arrays(path)
        except DataError:
            found += 1
            continue
        different += json.dumps(meta) != META or any(not np.array_equal(arrays[key], ARRAYS[key]) for key in ARRAYS)
    assert different == 0
    assert found > 500


def test_files_of_before_are_read(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as h5:
        for key, array in ARRAYS.items():
            h5.create_dataset(key, data=array)
        h5.attrs["meta"] = META
    arrays, meta = read_arrays(tmp_path / "old.h5")
    np.testing.assert_array_equal(arrays["pts_feat"], ARRAYS["pts_feat"])
    assert json.dumps(meta) == META


def replace(h5, name, **options):
    del h5[name]
    h5.create_dataset(name, **options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda h5: replace(h5, "pts_feat", shape=(10**12, 192), dtype="f4", chunks=(64, 64)),
            r"pts_feat claims 768000000000000 bytes, more than the file can hold",
        ),
        (lambda h5: replace(h5, "pts_feat", data=["a", "b"]), "pts_feat is no array of numbers"),
        (lambda h5: h5.create_group("more"), "more is no array of numbers"),
        (lambda h5: h5.__setitem__("more", h5py.SoftLink("/nowhere")), ".*component not found"),
        (lambda h5: h5.__setitem__("more", np.dtype("f4")), "more is no array of numbers"),
        (lambda h5: replace(h5, "pts_feat", data=np.zeros(3)), "its checksum does not fit"),
        (lambda h5: h5.attrs.__delitem__("meta"), ".*can't locate attribute: 'meta'"),
        (lambda h5: h5.attrs.__setitem__("meta", h5py.Empty("f")), "its checksum does not fit|Expecting value"),
        (lambda h5: h5.attrs.__setitem__("meta", "[1]"), "its checksum|its meta is no dictionary"),
    ],
)
def test_what_else_may_be_in_a_file_is_named(path, damage, message):
    with h5py.File(path, "r+") as h5:
        damage(h5)
    with pytest.raises(DataError, match=rf"frame_3.h5: not a whole feature file \([\"']?{message}"):
        read_arrays(path)


def test_a_folder_is_named_in_one_line(tmp_path):
    (tmp_path / "a.h5").mkdir()
    with pytest.raises(DataError, match="a.h5: not a whole feature file") as caught:
        read_arrays(tmp_path / "a.h5")
    assert len(str(caught.value).splitlines()) == 1


def test_old_hdf5_reads_the_files(path):
    """The superblock's version is the second, which HDF5 1.8 of 2008 reads; of the third it knows nothing."""
    assert path.read_bytes()[8] == 2
    file = io.BytesIO()
    write_h5(file, ARRAYS, META)
    assert file.getvalue() == path.read_bytes()
