"""Copies to and from a GPU through memory that is pinned: neither the thread nor the GPU waits for them.

From memory of the usual kind, which the system may move, CUDA copies into a pinned piece of its own first, and the
thread waits for all that its stream has to do before. On a CPU nothing is copied that need not be.
"""

import mmap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfeat.errors import ConfigError


def pinned_empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory of the host for copies to or from a device: its values anything, pinned if the device is a GPU."""
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def to_device(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An array on a device; on a CPU it shares the array's memory, which must be writable."""
    tensor = torch.from_numpy(values)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def stack_to_device(arrays: Sequence[NDArray[Any]], device: torch.device) -> torch.Tensor:
    """Arrays of one shape and type, stacked, on a device: copied once on the host, and once to the device."""
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    together = pinned_empty((len(arrays), *arrays[0].shape), dtype, device)
    np.stack(arrays, out=together.numpy())
    return together.to(device, non_blocking=True)


def to_host(values: torch.Tensor) -> torch.Tensor:
    """A tensor on the host; of a GPU's, the values are there once its stream has come so far (``wait``)."""
    if values.device.type == "cpu":
        return values
    there = pinned_empty(values.shape, values.dtype, values.device)
    return there.copy_(values, non_blocking=True)


def wait(device: torch.device) -> None:
    """Waits until the thread's stream of a GPU has done all that it was given; other threads go on meanwhile."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def pin(memory: mmap.mmap) -> Callable[[], None]:
    """Pins memory where it is, for the copies of a GPU.

    Returns:
        What ends that; to be called before the memory is given back.

    Raises:
        ConfigError: If the driver refuses.
    """
    address = np.frombuffer(memory, np.uint8).ctypes.data
    runtime = torch.cuda.cudart()
    if status := int(runtime.cudaHostRegister(address, len(memory), 0)):
        raise ConfigError(
            f"{len(memory) >> 20} MiB of the host's memory can't be pinned for the GPU's features (CUDA error "
            f"{status}); take model.offload=cpu"
        )
    return partial(_unpin, address)


def _unpin(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)
