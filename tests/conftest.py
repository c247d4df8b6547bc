"""What several tests share: small scans, a small ViT, and the real recordings where they are.

Nothing heavy is imported at the top: the process that hands the tests out to the workers needs none of it.
"""

import functools
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# Before torch and NumPy are loaded, here and in what the tests start: the cores are taken by tests side by side, and
# threads that wait for each other on a busy machine cost many times what these small networks do.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared" / "data"

TINY = "clipfeat-test-ViT"


MOST_WORKERS = 8
"""Each has torch and the rest in memory, 1 to 2 GB."""


@pytest.hookimpl(optionalhook=True)  # scripts/gpu_check.sh has no xdist
def pytest_xdist_auto_num_workers(config):
    """As many as there are cores; none, but this process alone, for single files or tests: they begin sooner."""
    from clipfeat.system.shards import usable_cores

    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # xdist knows it
    some = all(Path(argument.split("::")[0]).suffix == ".py" for argument in config.args)
    return 0 if some or usable_cores() == 1 else min(usable_cores(), MOST_WORKERS)


def pytest_collection_modifyitems(items):
    gpu = [item for item in items if "gpu" in item.keywords]
    if gpu and not os.environ.get("DRY"):
        import torch

        if not torch.cuda.is_available():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def gpu():
    """The device of the tests that are marked gpu; with DRY=1 the CPU, which shows that they can be run."""
    import torch

    return torch.device("cpu" if os.environ.get("DRY") else "cuda")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """``made_once(name, make)`` is a folder that ``make(folder)`` has filled; the workers share it, and only read."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # each worker has a folder of its own in it

    def made_once(name, make):
        folder, done = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session", autouse=True)
def configurations_remembered():
    """Most of the time of a small run is to compose it, see composition.py."""
    import composition

    with pytest.MonkeyPatch.context() as patch:
        composition.remember(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def own_user_cache(tmp_path_factory):
    """What commands keep in the user's cache folder lies elsewhere."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipfeat.config.paths.user_cache", lambda: folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def rooms_built_once():
    """A room of the demo takes two seconds, and does not change."""
    from clipfeat.data.demo import scans

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scans, "build_room", functools.cache(scans.build_room))
        yield


@pytest.fixture(scope="session")
def demo_root(made_once):
    """Two rendered scenes of four small frames; colour and depth of different sizes."""
    from clipfeat.data.demo import SceneOptions, render_scenes

    options = SceneOptions(
        num_frames=4, color_size=(216, 162), depth_size=(128, 96), depth_noise=0.0, depth_holes=0.0, lost_poses=0,
        mesh_spacing=0.1, seed=0,
    )  # fmt: skip
    return made_once("demo", lambda root: render_scenes(root, 2, options))


@pytest.fixture
def scans(demo_root, tmp_path):
    """A copy of the demo scans that a test may damage."""
    return Path(shutil.copytree(demo_root, tmp_path / "scans"))


@pytest.fixture
def demo_frames(demo_root):
    """All frames of the first demo scene."""
    from clipfeat.data.scannet import ScanNetDataset

    dataset = ScanNetDataset(demo_root)
    scene = dataset.scenes()[0]
    return [dataset.load(scene, i) for i in dataset.frame_ids(scene)]


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory):
    """Name of a ViT that open_clip builds in milliseconds: width 64, 2 blocks, 16-pixel patches, 224² input."""
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    return _small_arch(tmp_path_factory, TINY, text)


@pytest.fixture(scope="session")
def text_arch(tmp_path_factory):
    """Name of a model as small, whose text tower reads CLIP's own tokens."""
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return _small_arch(tmp_path_factory, "clipfeat-test-text", text)


def _small_arch(tmp_path_factory, name, text):
    import open_clip

    folder = tmp_path_factory.mktemp("arch")
    vision = {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    return name


@pytest.fixture(scope="session")
def warm():
    """A context of multiprocessing for processes that start in milliseconds, see warm.py."""
    import warm

    context = warm.warm_context()
    with warm.importable([CHECKOUT, CHECKOUT / "tests"]):
        first = context.Process(target=int)
        first.start()
    first.join()
    assert first.exitcode == 0
    return context


@pytest.fixture
def start_warm(warm, tmp_path):
    """Starts a Python program as ``warm.start`` does, and ends what is left of it."""
    from warm import start

    started = []

    def start_warm(program, arguments, environment):
        outputs = [tmp_path / f"{name}{len(started)}.txt" for name in ("stdout", "stderr")]
        started.append(start(warm, program, arguments, tmp_path, environment, outputs))
        return started[-1]

    yield start_warm
    for program in started:
        program.end()


@pytest.fixture
def warm_pools(warm, monkeypatch):
    """Processes that draw pictures or index points start in milliseconds, too: all are copies of one that is warm."""
    for room in ("vis.pictures", "extraction.uv_index"):
        monkeypatch.setattr(f"clipfeat.{room}.FreshContext", lambda: warm)


@pytest.fixture
def run_main(monkeypatch, capsys, tmp_path, warm_pools):
    """Runs a command in this process, in an empty folder; returns (exit code, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    # Hydra composes each configuration twice, the first time only to learn this. None is what it goes by where that
    # fails, and means what the command line says; programs in processes of their own go the long way.
    monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["clipfeat", *map(str, arguments)])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        handler = logging.StreamHandler(sys.stderr)  # capsys replaces stderr after basicConfig has seen it
        logging.getLogger("clipfeat").addHandler(handler)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            logging.getLogger("clipfeat").removeHandler(handler)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def run_cli(run_main, tiny_arch):
    """Runs ``clipfeat-extract`` as ``run_main`` does, with a small model and few points where nothing else is said."""
    from clipfeat.cli.commands import extract_main

    def run(*overrides, tiny=True, small=True):
        arguments = [f"model.arch={tiny_arch}", "model.pretrained=null"] if tiny else []
        arguments += ["vis=none", "sampling.num_points=200"] if small else []
        flags = [o for o in overrides if str(o).startswith("-")]  # argparse wants them before the overrides
        return run_main(extract_main, *flags, *arguments, *(o for o in overrides if o not in flags))

    return run


@pytest.fixture(scope="session")
def office():
    """Root of the real office scans; the test is skipped where they are missing."""
    root = SHARED / "office" / "scans"
    if not root.is_dir():
        pytest.skip("the real recordings are not here")
    return root
