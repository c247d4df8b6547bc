"""``import clipfeat``: what is there, that it waits for nothing, and that type checkers see it."""

import ast
import pkgutil
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from conftest import CHECKOUT

import clipfeat

FUNCTIONS = {
    "build_uv_index", "collate_points", "extract", "fuse", "load_model", "project_frame", "query", "sample_img_feat",
    "unproject_depth",
}  # fmt: skip
CLASSES = {"ClipfeatError", "FeatureDataset", "FeatureMap3D", "FeatureStore"}


def test_what_it_names_is_there():
    assert set(clipfeat.__all__) == FUNCTIONS | CLASSES | {"__version__"}
    assert sorted(clipfeat.__all__) == clipfeat.__all__ == dir(clipfeat)
    assert all(isinstance(getattr(clipfeat, name), type) for name in CLASSES)
    assert all(callable(getattr(clipfeat, name)) for name in FUNCTIONS)
    assert all(getattr(clipfeat, name).__name__ == name for name in FUNCTIONS | CLASSES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", clipfeat.__version__)


def test_what_it_does_not_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'clipfeat' has no attribute 'extrakt'"):
        clipfeat.extrakt
    with pytest.raises(ImportError):
        from clipfeat import extrakt  # noqa: F401


def test_importing_it_imports_nothing_that_is_slow():
    program = (
        "import sys, clipfeat\n"
        "dir(clipfeat), clipfeat.__version__, clipfeat.ClipfeatError\n"
        "own = {name for name in sys.modules if name.startswith('clipfeat')}\n"
        "print(sorted(own), sorted({'torch', 'numpy', 'hydra', 'omegaconf', 'tqdm'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    own = ["clipfeat", "clipfeat.errors", "clipfeat.system", "clipfeat.system.faces"]
    assert said.stdout == f"{own} []\n"


def test_no_room_hides_what_it_hands_on():
    """Whoever imports ``clipfeat.<room>`` sets that attribute of the package, and a function of the name is gone."""
    rooms = {room.name for room in pkgutil.iter_modules(clipfeat.__path__)}
    assert not rooms & set(clipfeat.__all__)
    for room in rooms:
        import_module(f"clipfeat.{room}")
    assert callable(clipfeat.extract)
    assert callable(clipfeat.fuse)
    assert callable(clipfeat.query)


def test_type_checkers_see_the_same_names_from_the_same_places():
    tree = ast.parse((CHECKOUT / "clipfeat" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen.keys() == FUNCTIONS | CLASSES
    assert {name: getattr(clipfeat, name).__module__ for name in seen} == seen


MODEL = "model='vit_b16': expected a loaded one, such as clipfeat.load_model(\"vit_b16\")"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: clipfeat.extract("x", "out", model="vit_b16"), MODEL),
        (lambda: clipfeat.FeatureMap3D("vit_b16"), MODEL),
        (
            lambda: clipfeat.FeatureMap3D(points=np.eye(3)),
            "points of type ndarray: expected clipfeat.types.Points, such",
        ),
        (lambda: clipfeat.FeatureMap3D().merge("a.npz"), "other='a.npz': expected another map, as FeatureMap3D.load(p"),
        (
            lambda: clipfeat.sample_img_feat(np.zeros((2, 4, 4)), np.zeros((1, 2))),
            "feature_map of type ndarray: expected a clipfeat.types.FeatureMap, such as FeatureMap(values, ",
        ),
    ],
)
def test_what_is_easily_taken_for_another_thing_is_told(use, message):
    with pytest.raises(TypeError) as told:
        use()
    assert str(told.value).startswith(message)
