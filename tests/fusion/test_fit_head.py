import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipfeat.cli.commands import fit_head_main
from clipfeat.errors import ConfigError
from clipfeat.fusion.config import FitHeadConfig
from clipfeat.fusion.fit_head import Moments, kept_share, pca_weights
from clipfeat.model.heads import Proj128Head, build_head


def moments_of(rows, parts=7):
    moments = Moments(rows.shape[1])
    for part in np.array_split(rows, parts):
        moments.add(part)
    return moments


def test_moments_of_parts_are_those_of_the_whole():
    rows = np.random.default_rng(0).normal(3, 2, (500, 12)).astype(np.float32)
    moments = moments_of(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-4)


def test_the_components_are_those_of_scikit_learn_and_orthonormal():
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3000, 192)) @ rng.normal(size=(192, 192)) + rng.normal(size=192)
    weights = pca_weights(moments_of(rows))
    axes = weights["conv.weight"][:, :, 0, 0]
    torch.testing.assert_close(axes[:192] @ axes[:192].T, torch.eye(192), atol=1e-5, rtol=0)
    assert not axes[192:].any()
    pca = PCA(128).fit(rows)
    assert kept_share(moments_of(rows), weights) == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    head = Proj128Head(768)
    head.load_state_dict(weights)
    found = head.to_points(head.conv(torch.from_numpy(rows[:50, :, None, None]).float())[:, :, 0, 0]).detach().numpy()
    expected = pca.transform(rows[:50])
    np.testing.assert_allclose(found[:, :20], (expected * np.sign(expected[0] * found[0]))[:, :20], atol=0.02)


def test_the_command_fits_weights_that_the_extraction_takes(run_main, run_cli, tiny_arch, demo_root, tmp_path):
    tiny = [f"data.root={demo_root}", f"model.arch={tiny_arch}", "model.pretrained=null"]
    output = tmp_path / "pca.safetensors"
    code, err = run_main(fit_head_main, *tiny, f"output_file={output}", "frames_per_scene=2")
    assert code == 0, err
    assert "weights=random; use it by model/head=proj128 model.head.weights=" in err
    report = json.loads(output.with_suffix(".json").read_text())
    assert (report["frames"], report["cells"], report["weights"]) == (4, 4 * 28 * 28, "random")
    assert report["variance_kept"] == pytest.approx(1, abs=1e-4)  # 16 channels only
    build_head("proj128", 64, output, seed=0)
    code, err = run_cli(f"data.root={demo_root}", "model/head=proj128", f"model.head.weights={output}",
                        "frames_per_scene=1", f"output_dir={tmp_path}/out")  # fmt: skip
    assert code == 0, err
    beside = tmp_path / "out/head_proj128.safetensors"
    kept = load_file(beside)
    assert all((kept[name] == value).all() for name, value in load_file(output).items())
    assert "does not say which encoder" not in err
    for number, path in enumerate((output, beside)):  # both say whose they are: random weights of another seed are not
        code, err = run_cli(f"data.root={demo_root}", "model/head=proj128", f"model.head.weights={path}", "seed=1",
                            "frames_per_scene=1", f"output_dir={tmp_path}/other{number}")  # fmt: skip
        assert code == 1
        assert f"model.head.weights={path}: fitted to another encoder, {tiny_arch} weights=random" in err


def test_the_command_trains_weights(run_main, tiny_arch, demo_root, tmp_path):
    tiny = [f"data.root={demo_root}", f"model.arch={tiny_arch}", "model.pretrained=null", "method=clip_cons", "steps=2"]
    output = tmp_path / "cons.safetensors"
    code, err = run_main(fit_head_main, *tiny, f"output_file={output}", "sampling.num_points=100")
    assert code == 0, err
    report = json.loads(output.with_suffix(".json").read_text())
    assert (report["fitted"], report["frames"], report["steps"]) == ("clip_cons", 8, 2)
    assert report["points_seen_twice"] > 100
    trained, seeded = build_head("proj128", 64, output, seed=0), build_head("proj128", 64, None, seed=0)
    assert (trained.linear.weight != seeded.linear.weight).any()
    code, err = run_main(fit_head_main, *tiny, f"output_file={output}", "frames_per_scene=1")
    assert code == 0, err
    assert "no point is seen by two frames; take more of each scene" in err


def test_a_method_that_is_not_there():
    with pytest.raises(ConfigError, match="method=ica: expected one of pca, clip_cons"):
        FitHeadConfig(method="ica")


def test_the_output_is_a_safetensors_file():
    with pytest.raises(ConfigError, match="output_file=head.pt: expected a .safetensors file"):
        FitHeadConfig(output_file="head.pt")
