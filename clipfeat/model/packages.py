"""open_clip and timm, imported without what they have no use for here."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from clipfeat.system.collector import uncollected

_DYNAMO = "torch._dynamo.utils"


def import_open_clip() -> Any:
    """The package, in a third of the time that it takes by itself: see ``without_dynamo``."""
    with without_dynamo(), uncollected():
        return importlib.import_module("open_clip")


def import_timm() -> Any:
    """The package; as ``import_open_clip``."""
    with without_dynamo(), uncollected():
        return importlib.import_module("timm")


@contextmanager
def without_dynamo() -> Iterator[None]:
    """Lets torchvision and timm be imported without torch's compiler, which they ask for as they are imported.

    That compiler is 800 modules, more than a second of a core and 100 MB, and nothing here is compiled. torchvision
    asks it one question, in a function for boxes: in the compiler's place stands a module that imports it when it is
    asked. timm marks functions that are not to be compiled: they are marked, and nothing else. Afterwards all is as
    ever, and who needs the compiler finds it.
    """
    import torch

    if _DYNAMO in sys.modules:
        yield
        return
    stand_in, disable = _StandIn(_DYNAMO), torch.compiler.disable
    sys.modules[_DYNAMO], torch.compiler.disable = stand_in, _marked
    try:
        yield
    finally:
        torch.compiler.disable = disable
        stand_in.leave()


def _marked(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """``torch.compiler.disable``, as far as the compiler looks at it where it traces a caller."""
    if fn is None:
        return partial(_marked, recursive=recursive, reason=reason)
    fn._torchdynamo_disable, fn._torchdynamo_disable_msg = True, reason
    fn._torchdynamo_disable_recursive = recursive
    return fn


class _StandIn(ModuleType):
    """Of the compiler's module: what torchvision takes from it at import, and all else from the real one."""

    def leave(self) -> None:
        """Makes room for the real one, which may have come meanwhile."""
        if sys.modules.get(_DYNAMO) is self:
            del sys.modules[_DYNAMO]

    def is_compile_supported(self, device_type: str) -> bool:
        """What the real one says, when a function for boxes is called."""
        self.leave()
        return bool(importlib.import_module(_DYNAMO).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for a spec and a path
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(_DYNAMO), name)
