"""What this machine's processor computes natively."""

from functools import cache
from typing import Any

import torch

_BF16 = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16", "sve_bf16")
"""Instructions that multiply bfloat16, as ``torch.cpu.get_capabilities`` calls them on x86 and ARM."""


@cache
def computes_bf16() -> bool:
    """Whether it multiplies bfloat16 natively: twice as fast as float32 then, and many times slower otherwise."""
    return any(capabilities().get(name) for name in _BF16)


def capabilities() -> dict[str, Any]:
    """What torch finds of the processor; of versions before 2.14 only what they know of bfloat16."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        return dict(ask())
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return {"avx512_bf16": known()}


def processor_name() -> str:
    """Its name, where torch knows it."""
    return str(capabilities().get("cpu_name") or "this processor")
