"""What needs a GPU is played; ``tests/gpu`` does it."""

import mmap
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clipfeat.errors import ConfigError
from clipfeat.system.direct import PageBuffer
from clipfeat.system.pinned import pin, stack_to_device, to_device, to_host, wait

CPU = torch.device("cpu")


@pytest.fixture
def pinned(monkeypatch):
    """What a played driver has pinned: bytes by address."""
    found = {}
    runtime = SimpleNamespace(
        cudaHostRegister=lambda address, size, _: int(found.setdefault(address, size) != size),
        cudaHostUnregister=found.pop,
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    return found


def test_on_a_cpu_nothing_is_copied_but_what_is_stacked():
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    there = to_device(values, CPU)
    assert there.data_ptr() == values.ctypes.data
    assert to_host(there) is there
    wait(CPU)
    read_only = np.full((2, 3), 7, np.int32)
    read_only.setflags(write=False)
    found = stack_to_device([values, read_only], CPU)
    assert found.dtype == torch.int32
    np.testing.assert_array_equal(found, [values, read_only])


def test_memory_is_pinned_where_it_is_until_it_is_given_back(pinned):
    buffer = PageBuffer()
    buffer.floats(1000, 2)
    assert not pinned  # nobody asked for it
    array = buffer.floats(3000, 4, np.float16, pinned=True)
    assert (array.shape, array.dtype) == ((3000, 4), np.float16)
    [(address, size)] = pinned.items()
    assert (array.ctypes.data, size >= array.nbytes, size % mmap.PAGESIZE) == (address, True, 0)
    assert buffer.floats(100, 4, pinned=True).ctypes.data == address
    larger = buffer.floats(9000, 4, pinned=True)
    assert list(pinned) == [larger.ctypes.data] != [address]
    array[:] = 3  # it is still memory
    assert buffer.floats(5000, 4).ctypes.data == larger.ctypes.data  # and a CPU may fill what is pinned
    del buffer
    assert not pinned


def test_a_driver_that_refuses_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: SimpleNamespace(cudaHostRegister=lambda *_: 2))
    with pytest.raises(
        ConfigError, match=r"3 MiB of the host's memory can't be .* \(CUDA error 2\); take model.offload"
    ):
        pin(mmap.mmap(-1, 3 * 2**20))
