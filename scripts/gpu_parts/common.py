"""What the parts share: facts that are told at once and kept, and seconds a call."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipfeat.model.load import resolve_device

Rates = dict[str, float]


@dataclass
class Bench:
    """Where the parts measure, and what they found.

    Attributes:
        root: folder of the scans.
        arch: open_clip's name of the model; its weights are random.
        device: where it runs.
        path: of the JSON file that holds what was found so far.
        seconds: that one figure may take.
        facts: what was found, by name.
        rates: frames a second of what may bound a run, and ``disk``, bytes a second; see ``runs.bound``.
    """

    root: Path
    arch: str
    device: torch.device
    path: Path
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    rates: Rates = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, arch: str, device: str, path: Path) -> "Bench":
        """A bench on a device; a CPU is there to try the parts, with as little as they can do."""
        found = resolve_device(device)
        if found.type == "cuda":
            found = torch.device("cuda", torch.cuda.current_device())
        bench = cls(root, arch, found, path, 1.0 if found.type == "cuda" else 0.1)
        bench.note("torch", torch.__version__)
        bench.note("device", torch.cuda.get_device_name(found) if bench.gpu else "cpu")
        return bench

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    def sync(self) -> None:
        """Waits for the GPU."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def note(self, name: str, value: object) -> None:
        """Tells a fact and keeps it, at once: what is killed has not measured in vain."""
        self.facts[name] = value
        print(f"  {name}: {value}", flush=True)
        self.path.write_text(json.dumps(self.facts | {"rates": self.rates}, indent=1, default=str))

    def part(self, function: Callable[["Bench"], None]) -> None:
        """Measures a part; one that fails is told, and the others go on."""
        try:
            function(self)
        except Exception as error:  # noqa: BLE001 - the other parts are worth having all the same
            self.note(f"{function.__name__} FAILED", f"{type(error).__name__}: {str(error)[:300]}")

    def per_call(self, function: Callable[[], object]) -> float:
        """Seconds a call, after one that warms up."""
        function()
        self.sync()
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < self.seconds:
            function()
            count += 1
        self.sync()
        return (time.perf_counter() - begin) / count
