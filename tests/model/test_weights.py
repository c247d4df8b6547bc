"""Where weights come from: the hub (one on loopback stands in), its cache, folders, files; and how they are named."""

import hashlib
import http.server
import json
import threading

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from clipfeat.errors import WeightsError
from clipfeat.model.encoder import load_encoder
from clipfeat.model.weights import arch_name, find_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.25, 0.2)


@pytest.fixture
def folder(tmp_path, tiny_arch):
    """A model in a folder as open_clip writes it: its configuration and its weights."""
    torch.manual_seed(5)
    path = tmp_path / "mine"
    path.mkdir()
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear"}
    config = {"model_cfg": open_clip.get_model_config(tiny_arch), "preprocess_cfg": preprocess}
    (path / CONFIG).write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in open_clip.create_model(tiny_arch).state_dict().items()}, path / WEIGHTS)
    return path


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub on loopback that serves ``lab/mine``; ``refuse`` maps a file's name to the error that is answered."""
    refuse = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, *, body):
            path = self.path.split("?")[0]
            name = path.rsplit("/", 1)[-1]
            there = (folder / name).is_file() and name not in refuse
            content = (folder / name).read_bytes() if there else b""
            code, error = (200, None) if there or path == "/" else refuse.get(name, (404, "EntryNotFound"))
            self.send_response(code)
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            if there:
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')  # noqa: S324
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield refuse
    server.shutdown()
    server.server_close()


def expected(folder):
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS)
    return {name.removeprefix("visual."): values for name, values in state.items() if name.startswith("visual.")}


def assert_loaded(encoder, folder):
    loaded = encoder.visual.state_dict()
    assert all(torch.equal(loaded[name], values) for name, values in expected(folder).items())
    assert (encoder.mean, encoder.std) == (MEAN, STD)


@pytest.mark.parametrize("pretrained", [None, "laion2b_s34b_b88k"])
def test_a_model_of_the_hub_is_named_by_its_repository(hub, folder, pretrained, caplog):
    encoder = load_encoder("hf-hub:lab/mine", pretrained)
    assert encoder.weights == "hf-hub:lab/mine"
    assert_loaded(encoder, folder)
    assert "random" not in caplog.text


@pytest.mark.parametrize(("code", "error"), [(404, "EntryNotFound"), (403, "GatedRepo"), (401, "RepoNotFound")])
@pytest.mark.parametrize("allow_random", [False, True])
def test_a_model_whose_weights_do_not_arrive_is_an_error_and_not_random(hub, folder, code, error, allow_random):
    for name in (WEIGHTS, "open_clip_pytorch_model.bin"):
        hub[name] = (code, error)
    message = (
        r"model.arch=hf-hub:lab/mine: its configuration is there, its weights can't be had \(.*\); log in to the hub"
    )
    with pytest.raises(WeightsError, match=message):
        load_encoder("hf-hub:lab/mine", "laion2b_s34b_b88k", allow_random=allow_random)


def test_a_file_beside_a_model_of_the_hub_is_read_and_named(hub, folder, tmp_path, tiny_arch):
    hub[WEIGHTS] = (404, "EntryNotFound")
    torch.manual_seed(8)
    model = open_clip.create_model(tiny_arch)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    encoder = load_encoder("hf-hub:lab/mine", str(tmp_path / "own.pt"))
    assert encoder.weights == "own.pt"
    assert torch.equal(encoder.visual.conv1.weight, model.visual.conv1.weight)
    with pytest.raises(WeightsError, match=r"model.pretrained=other.pt: no such file"):
        load_encoder("hf-hub:lab/mine", "other.pt")


def test_a_model_in_the_local_cache_needs_no_hub(hub, folder, monkeypatch):
    before = load_encoder("hf-hub:lab/mine", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    encoder = load_encoder("hf-hub:lab/mine", None)
    assert encoder.weights == "hf-hub:lab/mine"
    assert encoder.card == before.card
    assert_loaded(encoder, folder)
    with pytest.raises(WeightsError, match="hf-hub:lab/other: the model hub does not answer and the local cache lacks"):
        load_encoder("hf-hub:lab/other", None)


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_a_folder_is_a_model_with_its_weights_and_what_belongs_to_them(folder, prefix):
    arch = f"{prefix}{folder}"
    encoder = load_encoder(arch, "laion2b_s34b_b88k")
    assert encoder.weights == arch_name(arch) == "local-dir:mine"
    assert_loaded(encoder, folder)


def test_a_folder_may_hold_the_weights_of_a_named_architecture(folder, tiny_arch):
    encoder = load_encoder(tiny_arch, str(folder))
    assert encoder.weights == f"mine/{WEIGHTS}"
    assert_loaded(encoder, folder)


def test_folders_that_are_no_models_are_named(folder, tmp_path, tiny_arch):
    with pytest.raises(WeightsError, match=f"model.arch=local-dir:{tmp_path}/no: no {CONFIG} in {tmp_path}/no"):
        load_encoder(f"local-dir:{tmp_path}/no", None)
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.bin").touch()
    with pytest.raises(WeightsError, match=r"mine: expected one file of weights, .*; it holds a.safetensors, b.bin"):
        load_encoder(tiny_arch, str(folder))
    (folder / CONFIG).write_text("{}")
    with pytest.raises(WeightsError, match=rf"{CONFIG}: not open_clip's configuration of a model \('model_cfg'\)"):
        load_encoder(str(folder), None)


def test_two_architectures_are_told_apart_by_what_changes_values(folder, tiny_arch):
    own = find_weights(str(folder), None)
    config = json.loads((folder / CONFIG).read_text())
    for key, value in (("image_size", 112), ("layers", 3)):
        changed = json.loads(json.dumps(config))
        changed["model_cfg"]["vision_cfg"][key] = value
        (folder / CONFIG).write_text(json.dumps(changed))
        assert (find_weights(str(folder), None).arch_sha256 == own.arch_sha256) == (key == "image_size")
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config["model_cfg"] | {"quick_gelu": True}}))
    assert find_weights(str(folder), None).arch_sha256 != own.arch_sha256
    assert find_weights(tiny_arch, None).arch_sha256 == own.arch_sha256
