"""The tensors of a TorchScript archive, as OpenAI publishes CLIP, without running anything that it holds.

Such an archive is a zip file of a pickle and of the tensors' bytes, beside the program. The pickle is read by an
unpickler that knows tensors and plain containers; of the archive's own classes only the attributes are taken.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import torch

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Node:
    """Stands in for an object of a class of the archive: a module, whose attributes are all that is looked at."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, and not a checkpoint of ``torch.save``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """The parameters and buffers by their names, as ``state_dict()`` of the loaded archive would give them.

    Raises:
        ValueError: If the archive asks for anything but tensors and plain containers.
        Exception: What zip files and pickles raise when they are damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl")
        with archive.open(pickled) as file:
            root = _Unpickler(file, archive, str(PurePosixPath(pickled).parent)).load()
    return dict(_named_tensors(root, ""))


def _named_tensors(node: Any, prefix: str) -> list[tuple[str, torch.Tensor]]:
    found = []
    for name, value in vars(node).items():
        if isinstance(value, torch.Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Node):
            found += _named_tensors(value, f"{prefix}{name}.")
    return found


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self._archive = archive
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """Only what an archive of tensors needs; nothing is imported."""
        if module.split(".")[0] == "__torch__":
            return type(name, (_Node,), {})
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "device"): str,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return _as_it_is
        if module == "torch" and name in _DTYPES:
            return name
        raise ValueError(f"the archive asks for {module}.{name}, which is not run")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        """The numbers of a storage, all in a row."""
        kind, dtype, key, _device, count = pid
        if kind != "storage" or not str(key).replace("_", "").isalnum():
            raise ValueError(f"the archive asks for {kind} {key}, a storage was expected")
        data = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
        return torch.frombuffer(data, dtype=_DTYPES[dtype], count=count) if count else torch.empty(0)


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def _as_it_is(data: Any, *_: Any) -> Any:
    return data
