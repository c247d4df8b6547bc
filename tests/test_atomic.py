import numpy as np
import pytest

from clipfeat.atomic import atomic_file
from clipfeat.direct import direct_file

BOTH = pytest.mark.parametrize("open_file", [atomic_file, direct_file])
BYTES = np.random.default_rng(0).integers(0, 255, 5_000_123, dtype=np.uint8)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 5_000_123])
def test_what_is_written_is_there_and_nothing_else(tmp_path, open_file, size):
    path = tmp_path / "deep" / "x.bin"
    with open_file(path) as file:
        for part in np.array_split(BYTES[:size], 3):
            file.write(part.data)
        assert not path.exists()
    assert path.read_bytes() == BYTES[:size].tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


@BOTH
def test_a_file_appears_whole_or_not_at_all(tmp_path, open_file):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")

    def stop_half_way():
        with open_file(path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"before"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
