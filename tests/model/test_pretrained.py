"""Weights of a model: found or told why not, loaded from files, random where that is allowed."""

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipfeat.errors import WeightsError
from clipfeat.model import pretrained
from clipfeat.model import weights as weights_module
from clipfeat.model.encoder import load_encoder


def inputs(size=224, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_random_weights_are_seeded_and_hashed(tiny_arch):
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    first, same, other = (load_encoder(tiny_arch, None, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert torch.equal(first.tokens(inputs()), same.tokens(inputs()))


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_checkpoint_file_is_loaded(tiny_arch, tmp_path, kind):
    torch.manual_seed(5)
    model = open_clip.create_model(tiny_arch)
    path = tmp_path / f"clip.{kind}"
    state = model.state_dict()
    if kind == "pt":
        torch.save({"state_dict": state}, path)
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    encoder = load_encoder(tiny_arch, str(path))
    assert encoder.weights == f"clip.{kind}"
    loaded = encoder.visual.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.visual.state_dict().items())
    path.write_bytes(bytes(path.stat().st_size))  # a trainer's next epoch, or a file system that went away
    assert all(torch.equal(value, loaded[name]) for name, value in model.visual.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_in_any_form_are_the_models_own(tiny_arch, tmp_path, precision):
    """Half precision, columns first, views of one tensor: as many programs leave them."""
    state = open_clip.create_model(tiny_arch).state_dict()
    together = torch.cat([v.flatten() for v in state.values() if v.dtype == torch.float32])
    torch.save({k: v.half().T.contiguous().T if v.ndim == 2 else v for k, v in state.items()}, tmp_path / "half.pt")
    begins, views = 0, {}
    for name, values in state.items():
        views[name] = (
            together[begins : begins + values.numel()].view(values.shape) if values.is_floating_point() else values
        )
        begins += values.numel() if values.is_floating_point() else 0
    torch.save(views, tmp_path / "views.pt")
    for name in ("half", "views"):
        encoder = load_encoder(tiny_arch, str(tmp_path / f"{name}.pt"), precision=precision)
        own = encoder.visual.state_dict()
        assert {value.dtype for key, value in own.items() if key.endswith("proj")} == {pretrained.DTYPES[precision]}
        for key, value in own.items():
            assert value.is_contiguous()
            assert value.untyped_storage().nbytes() == value.nbytes
            torch.testing.assert_close(value.float(), state[f"visual.{key}"], rtol=0.01, atol=1e-3)


def test_a_file_s_normalisation_is_that_of_its_model_s_published_weights(tmp_path, caplog):
    path = tmp_path / "pe.pt"
    torch.save(open_clip.create_model("PE-Core-T-16-384").state_dict(), path)
    encoder = load_encoder("PE-Core-T-16-384", str(path), input_size=384)
    assert (encoder.mean, encoder.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    clip = weights_module.usual_published("ViT-B-16")
    assert clip["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert "differ in mean" not in caplog.text
    published = weights_module.usual_published("ViT-L-14")
    assert published == {"interpolation": "bicubic"}
    pretrained._warn_of_unknown_published(weights_module.Found("ViT-L-14", {}, "w.pt", path, published))
    assert "model.arch=ViT-L-14: its published weights differ in mean, std or interpolation" in caplog.text


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch, tiny_arch, tmp_path):
    monkeypatch.setattr(weights_module, "hub_answers", lambda: False)
    give = "give a checkpoint file, or model.pretrained=null for random weights"
    with pytest.raises(WeightsError, match=f"not in the local cache, and the hub does not answer; {give}"):
        load_encoder("ViT-B-16", "laion2b_s34b_b88k")
    with pytest.raises(WeightsError, match=f"model.pretrained=missing.pt: no such file; {give}"):
        load_encoder("ViT-B-16", "missing.pt")
    with pytest.raises(
        WeightsError, match=f"model.pretrained=laion9b: no tag of ViT-B-16 .*laion2b_s34b_b88k.*; {give}"
    ):
        load_encoder("ViT-B-16", "laion9b")
    with pytest.raises(WeightsError, match="model.arch=ViT-B-17: open_clip knows no such model; near it: .*ViT-B-16"):
        load_encoder("ViT-B-17", None)
    with pytest.raises(
        WeightsError, match="trained with QuickGELU, which ViT-B-16 has not; take model.arch=ViT-B-16-quick"
    ):
        load_encoder("ViT-B-16", "openai")
    with pytest.raises(
        WeightsError, match="model.arch=hf-hub:a/b: the model hub does not answer and the local cache lacks it"
    ):
        load_encoder("hf-hub:a/b", None)


@pytest.mark.parametrize("content", [b"", b"junk" * 50, b"PK\x03\x04" + b"0" * 100])
@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named(tiny_arch, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: not a checkpoint"):
        load_encoder(tiny_arch, str(tmp_path / name))


def test_a_checkpoint_of_another_model_is_named(tiny_arch, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="other.pt: not a checkpoint of CLIP; it holds weight"):
        load_encoder(tiny_arch, str(tmp_path / "other.pt"))


def test_a_pickle_that_would_run_code_is_not_run(tiny_arch, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="evil.pt"):
        load_encoder(tiny_arch, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


def test_only_where_it_is_allowed_random_weights_stand_in_and_say_so(monkeypatch, caplog):
    monkeypatch.setattr(weights_module, "hub_answers", lambda: False)
    encoder = load_encoder("ViT-B-32", "laion2b_s34b_b79k", allow_random=True)
    assert encoder.weights == "random"
    assert "weights=random" in caplog.text
