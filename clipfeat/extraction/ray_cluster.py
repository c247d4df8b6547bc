"""The Ray cluster that a run's actors live in: joining or starting it, and how many have room there."""

import logging
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from clipfeat.errors import EngineError
from clipfeat.extraction.config import EngineConfig, ExtractConfig
from clipfeat.system.shards import usable_cores

_OBJECT_STORE_BYTES = 80 << 20
"""What Ray takes at least, about. Nothing of size goes through it."""


def join_cluster(engine: EngineConfig) -> None:
    """Joins the cluster that ``engine.address`` names, or starts one on this machine.

    Raises:
        EngineError: If that fails.
    """
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if engine.address not in (None, "auto"):
        _check_answers(engine.address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if engine.address is None:
            cores = max(usable_cores(), (engine.num_workers or 1) * engine.cpus_per_worker)
            own = {"num_cpus": cores, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
            ray.init(address="local", **own, **quiet)
        else:
            ray.init(address=engine.address, runtime_env=_environment(), **quiet)
    except (RuntimeError, ValueError, OSError, RayError) as error:
        address = "null" if engine.address is None else engine.address
        what_to_do = "start one by ray start --head, set RAY_AUTH_MODE=token if it has a token, or leave it out"
        what_to_do = "" if engine.address is None else f"; {what_to_do}"
        raise EngineError(f"engine.address={address}: no Ray cluster to be had ({error}){what_to_do}") from error
    if threading.current_thread() is threading.main_thread() and on_terminate is not None:
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has set its own


def find_room(cfg: ExtractConfig) -> tuple[int, float]:
    """How many actors to start in the cluster, and the GPUs of each.

    Raises:
        EngineError: If the cluster has no room for any.
    """
    engine = cfg.engine
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = engine.gpus_per_worker
    if gpus is None:
        found = any(node.get("GPU") for node in nodes)
        gpus = float(cfg.device == "cuda" or (cfg.device == "auto" and found))
    fit = 0
    for node in nodes:
        room = node.get("CPU", 0.0) // engine.cpus_per_worker
        fit += int(min(room, node.get("GPU", 0.0) // gpus) if gpus else room)
    if not fit and (engine.num_workers is None or engine.address is None):
        has = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:5])
        raise EngineError(
            f"engine.cpus_per_worker={engine.cpus_per_worker} engine.gpus_per_worker={gpus:g}: no node of "
            f"the Ray cluster has so many, they have {has}"
        )
    return engine.num_workers or fit, gpus


def _check_answers(address: str) -> None:
    """Looks whether anything listens there: Ray itself would wait for many minutes.

    Raises:
        EngineError: If not.
    """
    host, _, port = address.rpartition(":")
    expected = "expected auto, or host:port of a cluster that runs, as ray start tells it"
    if not (host and port.isdecimal() and int(port) < 1 << 16) or "/" in host:
        raise EngineError(f"engine.address={address}: {expected}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise EngineError(f"engine.address={address}: nothing answers there ({error}); {expected}") from error


def _environment() -> dict[str, Any]:
    """What the actors of a cluster that runs already need of this process's environment."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return {}
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(str(Path(part).resolve()) for part in path.split(os.pathsep))}}
