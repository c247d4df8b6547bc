from contextlib import suppress

import pytest

from clipfeat.errors import DataError, OutputError
from clipfeat.output.folders import claimed, read_config, refuse_another_command_s, still_claimed, write_config


def refused(folder, made):
    with suppress(DataError), claimed(folder, {"points": "mesh"}, lambda: made):
        assert read_config(folder) == {"points": "mesh"}
        raise DataError("no mesh")


def test_a_run_that_made_nothing_leaves_the_configuration_as_it_was(tmp_path):
    refused(tmp_path, made=False)
    assert list(tmp_path.iterdir()) == []
    write_config(tmp_path, {"points": "voxel"})
    refused(tmp_path, made=False)
    assert read_config(tmp_path) == {"points": "voxel"}


def test_a_run_that_made_something_says_of_what(tmp_path):
    refused(tmp_path, made=True)
    assert read_config(tmp_path) == {"points": "mesh"}


def test_the_folder_of_an_extraction_keeps_its_configuration(tmp_path):
    write_config(tmp_path, {"data": {"name": "demo"}})
    (tmp_path / "model.json").write_text("{}")
    with (
        pytest.raises(OutputError, match=r"is the folder of a run of clipfeat-extract; choose another output_dir$"),
        claimed(tmp_path, {"points": "mesh"}, lambda: False),
    ):
        raise AssertionError
    assert read_config(tmp_path) == {"data": {"name": "demo"}}


def test_of_two_runs_of_one_configuration_one_may_be_refused(tmp_path):
    config = {"points": "mesh"}
    with claimed(tmp_path, config, lambda: False):
        (tmp_path / "config.yaml").unlink()  # as another process does, that made nothing
        still_claimed(tmp_path, config)
        assert read_config(tmp_path) == config
        write_config(tmp_path, {"points": "voxel"})
        with pytest.raises(OutputError, match="results of another configuration, which differs in points: voxel there"):
            still_claimed(tmp_path, config)


def test_the_configuration_of_another_command_is_not_lost(tmp_path):
    config = tmp_path / "config.yaml"
    refuse_another_command_s(tmp_path)
    config.write_text("points: voxel\n")
    with pytest.raises(
        OutputError, match=r"config.yaml is of another command than clipfeat-extract; choose another out"
    ):
        refuse_another_command_s(tmp_path)
    config.write_text("sampling: {name: mesh}\n")  # of a run that was killed before it said what its model is
    refuse_another_command_s(tmp_path)
    config.write_text("points: voxel\n")  # of a fused scene, which an earlier version put there
    (tmp_path / "model.json").write_text("{}")
    refuse_another_command_s(tmp_path)
