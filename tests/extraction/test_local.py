import threading
import time

import pytest
import torch
from planted import PlantedModel

import clipfeat
from clipfeat.extraction.config import ExtractConfig
from clipfeat.extraction.local import LocalEngine


@pytest.mark.parametrize(("processes", "gpus", "fraction"), [(1, 1, None), (4, 4, None), (4, 1, 1 / 4), (6, 4, 1 / 2)])
def test_processes_that_share_a_gpu_share_its_memory(monkeypatch, processes, gpus, fraction):
    """Played on a CPU."""
    chosen, taken = [], []
    monkeypatch.setenv("LOCAL_RANK", str(processes - 1))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: taken.append(args))
    LocalEngine(ExtractConfig())
    device = torch.device(f"cuda:{(processes - 1) % gpus}")
    assert chosen == [device]
    assert taken == ([] if fraction is None else [(fraction, device)])


def test_more_threads_read_than_use_a_gpu(demo_root, tmp_path):
    model, lock, using, most = PlantedModel(demo_root, step=60), threading.Lock(), [0], [0]
    model.most_lanes, real = 2, model.feature_maps

    def feature_maps(*arguments):
        with lock:
            using[0] += 1
            most[0] = max(most[0], using[0])
        time.sleep(0.02)
        with lock:
            using[0] -= 1
        return real(*arguments)

    model.feature_maps = feature_maps
    readers, network_input = set(), model.network_input

    def of_thread(frame):
        readers.add(threading.get_ident())
        time.sleep(0.05)
        return network_input(frame)

    model.network_input = of_thread
    overrides = ["vis=none", "report=false", "num_workers=6", "batch_size=1", "output=grid"]
    clipfeat.extract(demo_root, tmp_path / "run", overrides=overrides, model=model)
    assert most[0] <= 2 < len(readers)
