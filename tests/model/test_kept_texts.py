"""Vectors of texts that are kept: the tower is loaded once, and what is kept is what it made, to the bit."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from clipfeat.errors import ConfigError
from clipfeat.model import kept_texts
from clipfeat.model.kept_texts import open_texts, text_folder
from clipfeat.model.text import TEMPLATES, load_text_encoder

NAMES = ["a chair", "couch|sofa", "wall"]


@pytest.fixture
def ask(text_arch, tmp_path, monkeypatch):
    """Asks for vectors as a new process would; returns them, how many towers were loaded, and what else is asked."""
    tower = load_text_encoder(text_arch, None)
    about = {"weights": "random", "weights_sha256": tower.weights_sha256, "precision": "fp32", "input_size": 224,
             "window": None}  # fmt: skip

    def ask(names=NAMES, templates="photo", cache=str(tmp_path / "texts"), seed=0, **changes):
        loaded = []
        monkeypatch.setattr(kept_texts, "load_text_encoder", lambda *_, **__: loaded.append(1) or tower)
        texts = open_texts(text_arch, None, about | changes, seed=seed, cache=cache)
        return texts.encode_text(names, TEMPLATES[templates]), len(loaded), texts

    ask.tower = tower
    return ask


def files(tmp_path):
    return sorted((tmp_path / "texts").glob("*.npz"))


def test_what_is_kept_is_what_the_tower_makes_and_needs_no_tower(ask, tmp_path):
    fresh = ask.tower.encode_text(NAMES, TEMPLATES["photo"])
    first, loaded, _ = ask()
    assert loaded == 1
    second, loaded, texts = ask()
    assert loaded == 0
    assert texts.logits == ask.tower.logits
    for found in (first, second):
        np.testing.assert_array_equal(found, fresh)
        assert found.dtype == np.float32
    # Some that are there and some that are not, in another order and twice: only those are made.
    names = ["wall", "a lamp", "a chair", "wall"]
    mixed, loaded, _ = ask(names)
    assert loaded == 1
    np.testing.assert_array_equal(mixed, ask.tower.encode_text(names, TEMPLATES["photo"]))
    assert ask(["a lamp", *NAMES])[1] == 0
    assert ask(templates="indoor")[1] == 1
    assert len(files(tmp_path)) == 1
    assert files(tmp_path)[0].stat().st_size < 2500


def test_other_weights_have_a_file_of_their_own(ask, tmp_path, monkeypatch):
    ask()
    for changes in ({"weights_sha256": "f" * 16}, {"precision": "fp16"}, {"seed": 1}):
        assert ask(**changes)[1] == 1
    assert len(files(tmp_path)) == 3  # the tower is not of the weights ffff…: nothing of it is kept
    monkeypatch.setattr(kept_texts, "TEXTS_VERSION", 0)
    assert ask()[1] == 1


def test_weights_in_files_are_known_by_size_and_time(text_arch, tmp_path):
    about = {"weights": "a.pt", "weights_sha256": "0" * 16, "precision": "fp32"}
    weights, copy = tmp_path / "a.pt", tmp_path / "b" / "a.pt"
    copy.parent.mkdir()
    for path in (weights, copy):
        path.write_bytes(b"weights")
    names = {kept_texts._file_name(text_arch, place, about, 0) for place in (str(weights), str(copy), "tag")}
    os.utime(weights, ns=(0, 0))
    names.add(kept_texts._file_name(text_arch, str(weights), about, 0))
    names.add(kept_texts._file_name(str(copy.parent), "tag", about, 0))
    assert len(names) == 5
    assert all(Path(name).name == name and ":" not in name for name in names)
    assert kept_texts._file_name(text_arch, str(weights), about, 0) == kept_texts._file_name(
        text_arch, str(weights), about, 5
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_file_is_told_once_and_made_again(ask, tmp_path, caplog, damage):
    fresh = ask()[0]
    path = files(tmp_path)[0]
    data = path.read_bytes()
    where = data.index(fresh[1].tobytes()) + 5
    path.write_bytes({
        "cut": data[:-30], "flipped": data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :], "empty": b"",
        "other": data.replace(b"logits", b"logitz"),
    }[damage])  # fmt: skip
    with caplog.at_level(logging.WARNING, "clipfeat.model.kept_texts"):
        found, loaded, _ = ask()
        assert loaded == 1
        assert ask()[1] == 0
    np.testing.assert_array_equal(found, fresh)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f"WARNING text_cache: {path} is damaged, and is made again (")


def test_where_nothing_can_be_kept_texts_are_encoded_all_the_same(ask, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING, "clipfeat.model.kept_texts"):
        found, loaded, texts = ask(cache=str(tmp_path / "file"))
        assert loaded == 1
    np.testing.assert_array_equal(found, ask()[0])
    assert "these texts will be encoded again next time" in caplog.text
    assert texts.logits == ask.tower.logits
    assert ask(cache="none")[1] == ask(cache="none")[1] == 1


def test_bad_texts_are_told_also_where_all_is_kept(ask):
    ask()
    with pytest.raises(ConfigError, match="a prompt is empty"):
        ask([*NAMES, ""])
    with pytest.raises(ConfigError, match="0 prompts and 1 templates"):
        ask([])


def test_the_folder_is_the_user_s_cache_unless_another_is_named(tmp_path, monkeypatch):
    from clipfeat.config import paths

    monkeypatch.setattr(paths, "user_cache", lambda: tmp_path)
    assert text_folder(None) == tmp_path / "clipfeat" / "texts"
    assert text_folder("none") is None
    assert text_folder("a/b") == Path("a/b")
    monkeypatch.setattr(paths, "user_cache", lambda: None)
    assert text_folder(None) is None
    with pytest.raises(ConfigError, match="^text_cache is empty: give a folder, none to keep nothing, or null for"):
        text_folder("")
