"""The blocks of a tower computed by OpenVINO, on a CPU, in the place of torch.

torch traces the blocks, OpenVINO compiles them for this processor; what comes after them (the last block of an
attention variant, norms, pooling, projection) is torch's as before, so that heads, attentions and windows need not
know.
"""

import sys
import threading
import warnings
from typing import Any

import torch
from torch import nn

from clipfeat.errors import ConfigError
from clipfeat.model.encoder import Encoder
from clipfeat.system.shards import usable_cores

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class _Traced(nn.Module):
    """The blocks as a module with the tower's weights, which is what is traced."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.visual = encoder.visual
        self._encoder = encoder

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._encoder.blocks(inputs))


class OpenvinoBlocks:
    """See ``Encoder.blocks``. Safe to call from several threads, each of which has requests of its own.

    A thread computes with as many cores as torch would give it (``torch.get_num_threads``): the batch is shared out
    among so many requests of one core each.

    Args:
        encoder: on the CPU, in float32.
        precision: fp32, or bf16, which only some processors compute fast.

    Raises:
        ConfigError: If OpenVINO is not installed, or can't compile the tower.
    """

    def __init__(self, encoder: Encoder, precision: str):
        ov = import_openvino()
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        example = torch.zeros(2, 3, encoder.input_size, encoder.input_size)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a trace can't know in general, and of its successor in torch
            # An example of two pictures: of one, the trace would not know that there may be more.
            traced = torch.jit.trace(_Traced(encoder).eval(), example, check_trace=False)
        cores = usable_cores()
        hints = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "NUM_STREAMS": cores,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,  # or several processes would share the first cores
        }
        try:
            # What openvino.convert_model does beside this takes a second, and changes nothing in what is computed.
            frontend = FrontEndManager().load_by_framework("pytorch")
            decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must outlive the conversion
            model = frontend.convert(frontend.load(decoder))
            model.reshape([-1, *example.shape[1:]])
            self._compiled = ov.Core().compile_model(model, "CPU", hints)
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1][:200]
            raise ConfigError(
                f"model.backend=openvino: can't compile this tower ({why}); take model.backend=torch"
            ) from error
        self._count = len(self._compiled.outputs)
        self._local = threading.local()

    def __call__(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """The same as ``Encoder.blocks``, in float32."""
        parts = inputs.float().contiguous().chunk(max(1, torch.get_num_threads()))
        requests = self._requests(len(parts))
        for request, part in zip(requests, parts, strict=True):
            request.start_async([part.numpy()])
        found = []
        for request in requests:
            request.wait()
            found.append([torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in range(self._count)])
        return [torch.cat(outputs) if len(outputs) > 1 else outputs[0] for outputs in zip(*found, strict=True)]

    def _requests(self, count: int) -> list[Any]:
        """The calling thread's."""
        kept: list[Any] = self._local.__dict__.setdefault("requests", [])
        while len(kept) < count:
            kept.append(self._compiled.create_infer_request())
        return kept[:count]


_TELEMETRY = "openvino_telemetry"


def import_openvino() -> Any:
    """The package, which by itself would tell its makers over the network that it was imported, and keep an id at home.

    It does without where the package for that is not installed, and so it seems here while it is imported.

    Raises:
        ConfigError: If it is not installed.
    """
    unasked = _TELEMETRY not in sys.modules
    if unasked:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            "model.backend=openvino needs the package openvino: pip install 'clipfeat[openvino]'"
        ) from error
    finally:
        if unasked:
            del sys.modules[_TELEMETRY]
    return openvino
