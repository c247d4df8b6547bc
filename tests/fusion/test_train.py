"""``clipfeat-train`` on small rooms: exact resume, interruption, what it writes, and what it says of bad input."""

import json
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors import safe_open

from clipfeat.cli.commands import train_main
from clipfeat.cli.schemas import register_schemas
from clipfeat.config.folder import config_dir
from clipfeat.errors import ConfigError, DataError, OutputError
from clipfeat.extraction.extract import extract
from clipfeat.fusion import train as train_module
from clipfeat.fusion.bi_fusion import BiFusionEncoder
from clipfeat.fusion.checkpoint import NAME, check_features, read_about
from clipfeat.fusion.config import TrainConfig
from clipfeat.fusion.frames import NO_CLASS, Classes, LabelledFrames, read_classes
from clipfeat.fusion.segmentation import load_segmenter
from clipfeat.fusion.train import split_scenes, train
from clipfeat.fusion.training import Training, augment, batch_frames, schedule
from clipfeat.output.folders import read_config, write_config
from clipfeat.output.store import FeatureStore

LABELS = "sampling.labels_file='${data.root}/{scene}/{scene}_vh_clean_2.labels.ply'"
SMALL = {"num_points": 60, "batch_size": 2, "steps": 4, "eval_every": 100, "device": "cpu"}


@pytest.fixture(scope="module")
def store(demo_root, tiny_arch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    register_schemas()
    fixed = [f"data.root={demo_root}", f"output_dir={folder}", "vis=none", f"model.arch={tiny_arch}"]
    fixed += [
        "model.pretrained=null",
        "sampling=mesh",
        "sampling.num_points=3000",
        "output=grid",
        "report=false",
        LABELS,
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        extract(OmegaConf.to_object(compose("extract", fixed)))
    return folder


def trained(store, folder, **changes):
    return train(TrainConfig(str(store), str(folder), **SMALL | changes))


def tensors(folder):
    with safe_open(folder / NAME, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("changes", [{}, {"use_tiny_sa_2d": True, "views": 2, "clip_cons_weight": 0.5}])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(store, tmp_path, monkeypatch, changes):
    whole = trained(store, tmp_path / "whole", **changes)
    do_step = Training.do_step

    def stop_in_the_third(self):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return do_step(self)

    monkeypatch.setattr(Training, "do_step", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt, match=r"3 of 4 steps are done in .*parts, the same command goes on"):
        trained(store, tmp_path / "parts", **changes)
    monkeypatch.undo()
    parts = trained(store, tmp_path / "parts", **changes)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.endswith("/exp_avg_sq") for name in one)
    assert [r["loss"] for r in whole["history"]] == [r["loss"] for r in parts["history"]]
    assert whole["miou"] == parts["miou"]


def test_what_is_written_and_read_back(store, tmp_path, caplog):
    caplog.set_level("INFO", "clipfeat")
    metrics = trained(store, tmp_path, eval_every=2)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert {"miou" in record for record in metrics["history"]} == {True, False}
    assert metrics["features"]["weights"] == "random"
    assert "held-out mIoU" in caplog.text
    assert metrics["table"] in caplog.text
    model, names = load_segmenter(tmp_path)
    assert len(names) == model.classify[-1].out_features
    frames = LabelledFrames(FeatureStore(store), ["demo0001_00"])
    known = Classes(np.array([int(name) for name in names]), names)
    hits = total = 0
    for key in frames.keys:
        batch = frames.batch([key], known, None, (0,), torch.device("cpu"))
        with torch.no_grad():
            told = model(**batch.inputs)[0].argmax(-1)
        hits += int((told == batch.target).sum())
        total += int((batch.target != NO_CLASS).sum())
    assert hits / total == pytest.approx(metrics["accuracy"])
    trained(store, tmp_path, eval_every=2)  # nothing is left to do
    with pytest.raises(
        OutputError, match=r"holds results of another configuration, which differs in seed: 0 there, 1 now"
    ):
        trained(store, tmp_path, eval_every=2, seed=1)
    again = trained(store, tmp_path, eval_every=2, seed=1, resume="overwrite")
    assert again["history"][0]["loss"] != metrics["history"][0]["loss"]


def test_a_training_stops_before_its_first_checkpoint_if_another_has_taken_the_folder(store, tmp_path, monkeypatch):
    do_step = Training.do_step

    def claimed_by_another(self):
        config = read_config(tmp_path / "both")
        write_config(tmp_path / "both", config | {"seed": 5})
        return do_step(self)

    monkeypatch.setattr(Training, "do_step", claimed_by_another)
    with pytest.raises(OutputError, match="another configuration, which differs in seed: 5 there, 0 now"):
        trained(store, tmp_path / "both")
    assert not (tmp_path / "both" / NAME).exists()


def test_the_loss_falls(store, tmp_path):
    history = trained(store, tmp_path, steps=40, num_points=200, learning_rate=5e-3)["history"]
    assert np.mean([r["loss"] for r in history[-5:]]) < 0.75 * np.mean([r["loss"] for r in history[:3]])


def test_frames_become_a_batch(store):
    frames = LabelledFrames(FeatureStore(store), ["demo0000_00", "demo0001_00"])
    classes = Classes(np.array([1, 3]), ["wall", "floor"])
    keys = [("demo0000_00", 20), ("demo0001_00", 0)]
    batch = frames.batch(keys, classes, 50, (1,), torch.device("cpu"))
    again = frames.batch(keys, classes, 50, (1,), torch.device("cpu"))
    other = frames.batch(keys, classes, 50, (2,), torch.device("cpu"))
    assert torch.equal(batch.point_id, again.point_id)
    assert not torch.equal(batch.point_id, other.point_id)
    assert batch.mask.all()
    for place, key in enumerate(keys):
        whole = frames.store.load(*key)
        rows = [
            {int(i): row for row, i in enumerate(whole.pts_idx)}[int(i) & (1 << 40) - 1] for i in batch.point_id[place]
        ]
        np.testing.assert_array_equal(batch.inputs["points"][place, :, :3], whole.xyz[rows])
        np.testing.assert_array_equal(batch.inputs["clip_feat"][place], whole.pts_feat[rows])
        label = whole.attributes["label"][rows]
        expected = np.select([label == 1, label == 3], [0, 1], NO_CLASS)
        np.testing.assert_array_equal(batch.target[place], expected)
        np.testing.assert_allclose(batch.inputs["points"][place, :, 3:] * 255, whole.attributes["rgb"][rows], atol=1e-4)
        assert (batch.point_id[place] >> 40 == place).all()
    poses = [torch.tensor(frames.store.meta("demo0000_00", i)["cam_to_world"]) for i in (0, 20)]
    torch.testing.assert_close(batch.inputs["previous_cam_to_world"][0].float(), poses[0])
    torch.testing.assert_close(batch.inputs["cam_to_world"][0].float(), poses[1])
    assert torch.equal(batch.inputs["previous_cam_to_world"][1], batch.inputs["cam_to_world"][1])
    mean, std = frames.statistics(keys, 10**6)
    every = np.concatenate([frames.store.load(*key).pts_feat for key in keys])
    np.testing.assert_allclose(mean, every.mean(0), atol=1e-5)
    np.testing.assert_allclose(std, every.std(0), atol=1e-5)


def test_maps_give_what_features_give(store):
    """The points of a batch of maps find their pixels by the camera alone."""
    key = ("demo0000_00", 40)
    classes, device = Classes(np.array([1]), ["wall"]), torch.device("cpu")
    plain, maps = (LabelledFrames(FeatureStore(store), ["demo0000_00"], with_maps=w) for w in (False, True))
    torch.manual_seed(0)
    encoder = BiFusionEncoder(clip_channels=64, offline_clip_feat=True).eval()
    with torch.no_grad():
        one = encoder(**plain.batch([key], classes, 300, (0,), device).inputs)
        two = encoder(**maps.batch([key], classes, 300, (0,), device).inputs)
    assert two.has_pixel.all()
    torch.testing.assert_close(one.clip_feat, two.clip_feat, atol=2e-3, rtol=0)
    torch.testing.assert_close(one.feat_fusion, two.feat_fusion, atol=2e-2, rtol=0)


def test_turning_a_sample_turns_its_camera_with_it(store):
    frames = LabelledFrames(FeatureStore(store), ["demo0000_00"])
    classes = Classes(np.array([1]), ["wall"])
    keys = frames.keys[:2]
    before, after = (frames.batch(keys, classes, 40, (0,), torch.device("cpu")) for _ in range(2))
    augment(after, np.random.default_rng(0))

    def seen(batch):
        to_cam = torch.linalg.inv(batch.inputs["cam_to_world"])
        xyz = batch.inputs["points"][..., :3].double()
        return xyz @ to_cam[:, :3, :3].transpose(1, 2) + to_cam[:, None, :3, 3]

    torch.testing.assert_close(seen(after), seen(before), atol=1e-5, rtol=0)
    assert (after.inputs["points"] - before.inputs["points"])[..., :2].abs().min() > 1e-3
    torch.testing.assert_close(after.inputs["points"][..., 2], before.inputs["points"][..., 2])


def test_every_frame_comes_once_an_epoch(store):
    frames = LabelledFrames(FeatureStore(store), ["demo0000_00", "demo0001_00"])
    cfg = TrainConfig("s", batch_size=2)
    epoch = [key for step in range(4) for key in batch_frames(frames, step, cfg)]
    assert sorted(epoch) == sorted(frames.keys)
    assert epoch != [key for step in range(4, 8) for key in batch_frames(frames, step, cfg)]
    first, second = batch_frames(frames, 3, TrainConfig("s", batch_size=2, views=2))
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_the_learning_rate_rises_and_falls():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001


def test_scenes_are_learnt_from_or_held_out(tmp_path):
    scenes = [f"s{i}" for i in range(9)]
    assert split_scenes(TrainConfig("s"), scenes) == (scenes[:6], scenes[6:])
    (tmp_path / "a").write_text("s3\n")
    (tmp_path / "b").write_text("s1\ns2\n")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert split_scenes(TrainConfig("s", val_scenes_file=a), scenes)[1] == ["s3"]
    assert len(split_scenes(TrainConfig("s", train_scenes_file=b), scenes)[1]) == 7
    assert split_scenes(TrainConfig("s", train_scenes_file=b, val_scenes_file=a), scenes) == (["s1", "s2"], ["s3"])
    for cfg in (TrainConfig("s", train_scenes_file=a, val_scenes_file=a), TrainConfig("s", val_scenes_file=a)):
        with pytest.raises(ConfigError, match="expected some of each and none in both"):
            split_scenes(cfg, ["s3"])


def test_the_command_ends_with_one_line_of_what_is_wrong(store, run_main, tmp_path):
    assert run_main(train_main)[1].startswith("clipfeat: store is not set: give the output_dir of clipfeat-extract")
    code, err = run_main(train_main, f"store={store}", "label=colour")
    assert code == 1
    assert "its points have no colour, but" in err
    code, err = run_main(train_main, f"store={store}", "batch_size=3", "views=2")
    assert "batch_size=3: expected a multiple of views=2" in err
    (tmp_path / "outputs/train").mkdir(parents=True, exist_ok=True)
    (tmp_path / "outputs/train" / NAME).write_bytes(b"x" * 50)
    code, err = run_main(train_main, f"store={store}", "device=cpu", "batch_size=2")
    assert code == 1
    assert "checkpoint.safetensors: damaged, or no checkpoint" in err


def test_a_checkpoint_of_another_model_is_refused(store, tmp_path):
    trained(store, tmp_path, steps=1)
    training = Training(
        TrainConfig(str(store), str(tmp_path), branches="2d"), FeatureStore(store), ["demo0000_00"], ["demo0001_00"],
        torch.device("cpu"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"of another model, which differs in .*; give its own settings"):
        training.resume(tmp_path / NAME)
    with pytest.raises(DataError, match="no such file, a checkpoint of clipfeat-train was expected"):
        load_segmenter(tmp_path / "nowhere")


def test_classes_have_names(tmp_path):
    (tmp_path / "a.csv").write_text("id,name,group\n1,wall,head\n28,lamp,common\n")
    assert read_classes(tmp_path / "a.csv") == {1: "wall", 28: "lamp"}
    (tmp_path / "b.csv").write_text("id,name\nwall,1\n")
    with pytest.raises(DataError, match="expected lines of id,name after a header"):
        read_classes(tmp_path / "b.csv")


def test_a_second_signal_does_not_wait():
    with train_module.signals_wait() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_in_another_thread_no_signal_is_touched():
    before, found = signal.getsignal(signal.SIGINT), []

    def look():
        with train_module.signals_wait() as asked:
            found.append((asked(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, True)]


def test_the_help_names_every_key():
    text = (config_dir() / "hydra/help/train.yaml").read_text()
    for name in TrainConfig.__dataclass_fields__:
        assert name in text
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert OmegaConf.to_object(compose("train", ["store=x"])) == TrainConfig("x")


def test_features_of_another_model_are_refused(store, tmp_path):
    """By a checkpoint that is read back, and by one that would be gone on from, whatever became of config.yaml."""
    trained(store, tmp_path)
    own, other = FeatureStore(store), FeatureStore(store)
    load_segmenter(str(tmp_path), own)
    other.model = own.model | {"precision": "fp16"}
    load_segmenter(tmp_path, other)
    other.model = own.model | {"attention": "naclip"}
    with pytest.raises(DataError, match="trained on features of another model .*attention: vanilla there, naclip now"):
        load_segmenter(tmp_path, other)
    about = read_about(tmp_path / NAME)
    with pytest.raises(DataError, match=r"checkpoint.safetensors: trained on features of another model"):
        check_features(tmp_path / NAME, about | {"features": {"arch": "A"}}, own)


def training_of(store, **changes):
    cfg = TrainConfig(str(store), "unused", **SMALL | changes)
    held, learnt = FeatureStore(store).scenes
    return Training(cfg, FeatureStore(store), [learnt], [held], torch.device("cpu"))


def test_a_training_without_half_precision_goes_on_with_it(store, tmp_path):
    """As one that begins on a CPU and goes on on a GPU, and back."""
    first = training_of(store)
    first.do_step()
    first.save(tmp_path / NAME)
    second = training_of(store)
    second.scaler = torch.amp.GradScaler("cpu", enabled=True)
    second.resume(tmp_path / NAME)
    assert (second.step, second.scaler.get_scale()) == (1, 2.0**16)
    second.do_step()
    second.save(tmp_path / NAME)
    third = training_of(store)
    third.resume(tmp_path / NAME)
    assert third.step == 2


def test_an_infinite_gradient_is_null_in_json(store, tmp_path, monkeypatch):
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: real(*a) * math.inf)
    metrics = trained(store, tmp_path)
    assert [record["gradient"] for record in metrics["history"]] == [None] * 4

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    assert json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse) == metrics
    with safe_open(tmp_path / NAME, "pt") as file:
        about = json.loads(file.metadata()["about"], parse_constant=refuse)
    about["history"][0]["gradient"] = math.inf  # as earlier versions kept it
    monkeypatch.setattr("clipfeat.fusion.training.load_checkpoint", lambda *_: about)
    again = training_of(store)
    again.resume(tmp_path / NAME)
    again.save(tmp_path / "again")
