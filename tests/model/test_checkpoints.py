"""Weights files as people have them: each gives the very features of the plain file, or is told by its name."""

import argparse
import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clipfeat.errors import WeightsError
from clipfeat.model.encoder import load_encoder
from clipfeat.model.pretrained import load_clip
from clipfeat.model.torchscript import read_torchscript


@pytest.fixture(scope="module")
def arches(tmp_path_factory):
    """Two names of one small architecture: with GELU, and with QuickGELU as OpenAI trained."""
    folder = tmp_path_factory.mktemp("arch")
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    for name, quick in (("clipfeat-test-forms", False), ("clipfeat-test-forms-quickgelu", True)):
        config = {"embed_dim": 32, "quick_gelu": quick, "vision_cfg": vision, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return "clipfeat-test-forms", "clipfeat-test-forms-quickgelu"


@pytest.fixture(scope="module")
def model(arches):
    torch.manual_seed(3)
    model = open_clip.create_model(arches[1]).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn(weights.shape))
    return model


@pytest.fixture
def state(model):
    return {name: values.clone() for name, values in model.state_dict().items()}


def inputs():
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tokens(arch, path):
    with torch.no_grad():
        return load_encoder(arch, str(path), input_size=32).tokens(inputs())


def as_transformers(state):
    """The same weights by the names of transformers' CLIPModel."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    for ours, theirs in (
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        for kind in ("weight", "bias"):
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    parts = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "ln_1": "layer_norm1", "ln_2": "layer_norm2"}  # fmt: skip
    for ours, theirs, layers in (("visual.transformer", "vision_model", 2), ("transformer", "text_model", 1)):
        for layer in range(layers):
            own, other = f"{ours}.resblocks.{layer}", f"{theirs}.encoder.layers.{layer}"
            for kind in ("weight", "bias"):
                for letter, part in zip("qkv", state[f"{own}.attn.in_proj_{kind}"].chunk(3), strict=True):
                    out[f"{other}.self_attn.{letter}_proj.{kind}"] = part.contiguous()
                for name, new in parts.items():
                    out[f"{other}.{new}.{kind}"] = state[f"{own}.{name}.{kind}"]
    return out


def prefixed(state, prefix):
    return {prefix + name: values for name, values in state.items()}


FORMS = {
    "plain": lambda s: s,
    "a trainer's": lambda s: {"epoch": 3, "name": "run", "state_dict": prefixed(s, "module."), "optimizer": {}},
    "model": lambda s: {"model": s},
    "Lightning's": lambda s: {
        "state_dict": prefixed(s, "model.") | {"loss.scale": torch.ones(1)}, "hyper_parameters": {"lr": 1e-4},
    },
    "compiled": lambda s: {"state_dict": prefixed(s, "_orig_mod.")},
    "compiled and parallel": lambda s: prefixed(s, "module._orig_mod."),
    "model in model": lambda s: {"model": {"state_dict": prefixed(s, "clip.")}, "step": torch.tensor(5)},
    "logit_bias": lambda s: s | {"logit_bias": torch.zeros(())},
    "custom text": lambda s: {n if n.startswith(("visual.", "logit")) else f"text.{n}": v for n, v in s.items()},
    "image tower": lambda s: {name: v for name, v in s.items() if name.startswith("visual.")},
    "image tower without its name": lambda s: {n.removeprefix("visual."): v for n, v in s.items() if "visual." in n},
    "transformers'": as_transformers,
    "transformers' image tower": lambda s: {n: v for n, v in as_transformers(s).items() if n.startswith("vi")},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_whatever_form_gives_the_features_of_the_plain_one(arches, model, state, tmp_path, form):
    content = FORMS[form](state)
    torch.save(content, tmp_path / "weights.anything")
    expected = load_encoder(arches[1], None, input_size=32)
    expected.visual.load_state_dict(model.visual.state_dict())
    with torch.no_grad():
        wanted = expected.tokens(inputs())
    assert torch.equal(tokens(arches[1], tmp_path / "weights.anything"), wanted)
    if all(isinstance(values, torch.Tensor) for values in content.values()):
        # By its content, whatever its name says.
        save_file({name: values.clone() for name, values in content.items()}, tmp_path / "weights.bin")
        assert torch.equal(tokens(arches[1], tmp_path / "weights.bin"), wanted)


@pytest.fixture
def archive(model, tmp_path):
    """What OpenAI publishes: the model as a TorchScript archive, with three numbers beside its weights."""
    import copy

    own = copy.deepcopy(model)
    for name, value in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 64)):
        if hasattr(own, name):
            delattr(own, name)
        own.register_buffer(name, torch.tensor(value))
    traced = torch.jit.trace(own, (inputs(), torch.zeros(1, 8, dtype=torch.long)), check_trace=False)
    path = tmp_path / "ViT-B-32.pt"
    traced.save(str(path))
    return path


def test_openai_s_archive_is_read_without_running_it(arches, model, state, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("the archive is run"))
    read = read_torchscript(archive)
    assert {name: read[name] for name in state}.keys() == state.keys()
    assert all(torch.equal(read[name], values) for name, values in state.items())
    torch.save(state, tmp_path / "plain.pt")
    assert torch.equal(tokens(arches[1], archive), tokens(arches[1], tmp_path / "plain.pt"))


def test_an_archive_that_asks_for_more_than_tensors_is_refused(archive, tmp_path):
    import pickle
    import zipfile

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as evil:
        evil.writestr("evil/data.pkl", pickle.dumps(Evil()))
        evil.writestr("evil/constants.pkl", b"")
    with pytest.raises(WeightsError, match=r"evil.pt: not a checkpoint, or damaged \(.*open, which is not run"):
        load_encoder("ViT-B-32", str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["archive", "state dict", "training", "safetensors", "transformers"])
def test_weights_of_openai_are_refused_in_an_architecture_without_quickgelu(arches, state, archive, tmp_path, form):
    marked = state | {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(64)}
    path = archive if form == "archive" else tmp_path / "model.safetensors"
    if form == "transformers":
        save_file(as_transformers(state), path)
        (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": "quick_gelu"}}))
    elif form == "safetensors":
        save_file(marked, path)
    elif form != "archive":
        torch.save(marked if form == "state dict" else {"epoch": 1, "state_dict": prefixed(marked, "module.")}, path)
    message = "trained with QuickGELU, which clipfeat-test-forms has not; take model.arch=clipfeat-test-forms-quickgelu"
    with pytest.raises(WeightsError, match=message):
        load_encoder(arches[0], str(path), input_size=32)
    load_encoder(arches[1], str(path), input_size=32)


@pytest.mark.parametrize("half", [False, True])
def test_a_file_that_does_not_tell_its_activation_says_so_in_a_line(arches, state, tmp_path, caplog, half):
    """As OpenAI published them, and as converted since, products are numbers of half precision, and norms are not."""
    if half:
        state = {name: v.half().float() if v.ndim > 1 else v for name, v in state.items()}
    torch.save(state, tmp_path / "w.pt")
    load_encoder(arches[0], str(tmp_path / "w.pt"), input_size=32)
    (line,) = caplog.messages
    assert "w.pt: does not tell whether it was trained with QuickGELU, which clipfeat-test-forms has not" in line
    assert "take model.arch=clipfeat-test-forms-quickgelu" in line
    assert ("its numbers look like theirs" in line) == half
    caplog.clear()
    load_encoder(arches[1], str(tmp_path / "w.pt"), input_size=32)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 598000000\n",
         "not a checkpoint but a Git-LFS pointer to one: run 'git lfs pull' where it lies"),
        (b"<!DOCTYPE html><html>", "not a checkpoint but a web page; download the file itself"),
        (b"", "not a checkpoint but an empty file; copy or download it again"),
        ({"args": argparse.Namespace(lr=1), "state_dict": {}}, "holds argparse.Namespace besides tensors, which is"),
        ({"epoch": 3, "optimizer": {}}, "not a checkpoint of CLIP but a dictionary of epoch, optimizer; expected"),
        ({"a.visual.x": torch.ones(1), "b.visual.x": torch.ones(1)}, r"holds several models \(a., b.\); save one of"),
        ({"vision_model.head.probe": torch.ones(1)}, "weights of transformers that are not CLIP's"),
        ({"visual.conv1.weight": torch.ones(64, 3, 16, 16)}, "lacks visual.class_embedding, visual.*; holds nothing"),
    ],
)  # fmt: skip
def test_what_a_file_is_is_told(arches, tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=message) as told:
        load_encoder(arches[1], str(path), input_size=32)
    assert "weights.pt" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_is_cut_off_is_named(arches, state, tmp_path):
    save_file(state, tmp_path / "whole.safetensors")
    torch.save(state, tmp_path / "whole.pt")
    for path in (tmp_path / "whole.safetensors", tmp_path / "whole.pt"):
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(WeightsError, match=f"{path.name}: not a checkpoint, or damaged .*; copy or download it"):
            load_encoder(arches[1], str(path), input_size=32)


def test_texts_need_a_text_tower(arches, state, tmp_path):
    torch.save({name: v for name, v in state.items() if name.startswith("visual.")}, tmp_path / "image.pt")
    with pytest.raises(WeightsError, match=r"image.pt: holds the image tower alone, and texts need the text tower"):
        load_clip(arches[1], str(tmp_path / "image.pt"), input_size=32, precision="fp32", device="cpu",
                  allow_random=False, seed=0, text=True)  # fmt: skip


def test_the_hash_is_that_of_the_published_weights_in_whatever_precision_and_size(arches, model, state, tmp_path):
    torch.save(state, tmp_path / "w.pt")
    for path in (None, str(tmp_path / "w.pt")):
        hashes = {load_encoder(arches[1], path, input_size=32, precision=p).weights_sha256 for p in ("fp32", "fp16")}
        assert len(hashes) == 1
    encoder = load_encoder(arches[1], str(tmp_path / "w.pt"), input_size=64)
    assert encoder.visual.positional_embedding.shape != model.visual.positional_embedding.shape
    assert {encoder.weights_sha256} == hashes
