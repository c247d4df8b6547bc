"""Which room may import which. An arrow that is not in the table is a wall in the wrong place, or a row to add."""

import ast
import subprocess
import sys
from collections import defaultdict

import pytest
from conftest import CHECKOUT

PACKAGE = CHECKOUT / "clipfeat"

NOUNS = ("types", "errors")
"""What every room may import."""

ROOMS = {
    "system": (),
    "config": (),
    "vis": ("config", "system"),
    "camera": ("config", "system"),
    "data": ("camera", "config", "system"),
    "model": ("config", "system"),
    "sampling": ("camera", "config", "data", "system"),
    "calibration": ("camera", "data", "sampling", "system"),
    "output": ("camera", "config", "data", "model", "sampling", "system", "vis"),
    "fusion": ("camera", "config", "data", "model", "output", "sampling", "system", "vis"),
    "evaluate": ("camera", "config", "data", "fusion", "model", "output", "sampling", "system", "vis"),
    "extraction": ("calibration", "camera", "config", "data", "model", "output", "sampling", "system", "vis"),
    "queries": ("config", "data", "extraction", "model", "output", "sampling", "system", "vis"),
    "mapping": (
        "camera", "config", "data", "extraction", "model", "output", "queries", "sampling", "system", "vis",
    ),
    "protocols": (
        "config", "data", "evaluate", "fusion", "model", "output", "queries", "sampling", "system", "vis",
    ),
    "results": (
        "camera", "config", "data", "extraction", "mapping", "model", "output", "queries", "sampling", "system", "vis",
    ),
    "cli": (
        "config", "data", "evaluate", "extraction", "fusion", "mapping", "model", "output", "protocols", "queries",
        "results", "sampling", "system",
    ),
}  # fmt: skip
"""From the ground up: the rooms, and what each may import. A room stands above all that it imports."""

LONGEST = 450
"""Lines of a file, of code and of tests alike: longer ones hold more than one idea."""


def files():
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]


def is_module(name):
    path = CHECKOUT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path):
    """The modules of clipfeat that a file imports, wherever in it: ``clipfeat.data.base``, line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import, which no table can be held against"
            names = [
                f"{node.module}.{a.name}" if is_module(f"{node.module}.{a.name}") else node.module for a in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, node.lineno) for name in names if name.split(".")[0] == "clipfeat")


def arrows():
    """From (room, room) to the places that import it."""
    found = defaultdict(list)
    for path in files():
        room = path.relative_to(PACKAGE).parts[0]
        for name, line in imports(path):
            other = name.split(".")[1] if "." in name else "clipfeat"
            if other != room:
                found[room, other].append(f"{path.relative_to(CHECKOUT)}:{line} {name}")
    return found


def test_every_room_is_in_the_table():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(ROOMS)


def test_a_room_stands_above_all_that_it_may_import():
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in below), room


def test_no_room_imports_what_the_table_does_not_allow():
    wrong = {
        (room, other): places
        for (room, other), places in arrows().items()
        if other not in NOUNS and other not in ROOMS[room]
    }
    assert not wrong


def test_nothing_is_allowed_that_no_room_needs():
    needed = {(room, other) for room, other in arrows() if other not in NOUNS}
    assert {(room, other) for room, below in ROOMS.items() for other in below} == needed


def test_nouns_import_no_room():
    for noun in NOUNS:
        assert all(name.split(".")[1] in NOUNS for name, _ in imports(PACKAGE / f"{noun}.py"))


def test_nothing_lies_loose_at_the_root():
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == {
        "__init__.py", "errors.py", "py.typed", "types.py",
    }  # fmt: skip


def test_rooms_import_files_and_no_faces():
    """A face hands on whatever its files have: mypy sees nothing of it, and no table could."""
    faces = [f"clipfeat.{room}" for room in ROOMS]
    assert not [f"{path}:{line}" for path in files() for name, line in imports(path) if name in ("clipfeat", *faces)]


@pytest.mark.parametrize("folder", ["clipfeat", "scripts", "tests"])
def test_no_file_is_too_long(folder):
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted((CHECKOUT / folder).rglob("*.py"))
    }
    assert {str(path.relative_to(CHECKOUT)): count for path, count in lines.items() if count > LONGEST} == {}


HEAVY = ("torch", "numpy", "h5py", "matplotlib", "sklearn", "scipy", "numba", "PIL", "open_clip")


def test_faces_and_configurations_import_nothing_heavy():
    """Or ``--help`` would wait for it."""
    faces = ["clipfeat", *(f"clipfeat.{room}" for room in ROOMS)]
    configs = [f"clipfeat.{path.parent.name}.config" for path in PACKAGE.glob("*/config.py")]
    program = f"""
import importlib, sys
for name in {[*faces, *configs, *(f"clipfeat.cli.{name}" for name in ("schemas", "commands", "api", "main"))]!r}:
    importlib.import_module(name)
    heavy = [other for other in {HEAVY!r} if other in sys.modules]
    assert not heavy, (name, heavy)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CHECKOUT)


def test_a_face_hands_on_what_it_names():
    import importlib

    for room in ROOMS:
        face = importlib.import_module(f"clipfeat.{room}")
        for name in getattr(face, "__all__", []):
            assert getattr(face, name) is not None
        with pytest.raises(AttributeError):
            face.no_such_name
