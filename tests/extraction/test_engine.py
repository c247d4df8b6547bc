import sys

import pytest

RAY = "engine=ray"


def test_without_its_package_ray_says_what_to_install(run_cli, demo_root, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "clipfeat.extraction.ray", raising=False)
    code, err = run_cli(f"data.root={demo_root}", RAY)
    assert (code, err) == (1, 'clipfeat: engine=ray needs the package ray: pip install "clipfeat[ray]"\n')


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shard.index=0", "shard.count=2"], "engine=ray: this process would be shard 0 of 2, but Ray divides the sce"),
        (["device=cuda:1"], "device=cuda:1: Ray chooses the GPU of each actor; take device=auto, cuda or cpu"),
        (["device=cpu", "engine.gpus_per_worker=1"], "engine.gpus_per_worker=1: at odds with device=cpu; leave one"),
        (["engine.address=127.0.0.1:1"], "engine.address=127.0.0.1:1: nothing answers there"),
        (["engine.address=here"], "engine.address=here: expected auto, or host:port of a cluster that runs"),
        (["engine.address=ray://here:1"], "engine.address=ray://here:1: expected auto, or host:port of a clus"),
    ],
)
def test_what_ray_cannot_do_is_told(run_cli, demo_root, overrides, message):
    pytest.importorskip("ray")
    code, err = run_cli(f"data.root={demo_root}", RAY, *overrides)
    assert code == 1
    assert f"clipfeat: {message}" in err


def test_torchrun_and_ray_are_at_odds(run_cli, demo_root, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "this process would be shard 1 of 4, but Ray divides" in run_cli(f"data.root={demo_root}", RAY)[1]
