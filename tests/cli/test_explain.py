import pytest


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frames_per_scen=3"], "clipfeat: frames_per_scen: no such key; did you mean frames_per_scene"),
        (["model.precison=fp16"], "clipfeat: model.precison: no such key; did you mean model.precision"),
        (["output=hdf5"], "clipfeat: output=hdf5: no such choice, expected one of grid, h5, h5_scene, npz"),
        (["model/head=big"], "clipfeat: model/head=big: no such choice, expected one of none, pixelshuffle, proj128"),
        (
            ["frames_per_scene=few"],
            "clipfeat: frames_per_scene: Value 'few' of type 'str' could not be converted to Integer",
        ),
        (["data.num_scenes=3"], "clipfeat: data.num_scenes: not a key of the chosen data"),
        (["device"], "clipfeat: cannot read the override 'device': expected key=value"),
        (
            [],
            "clipfeat: data.root is not set: give the folder that holds one folder a scene, as data.root=…; "
            "clipfeat-inspect FOLDER tells which data= reads what lies in a folder",
        ),
        (["data.root=x", "frames_per_scene=0"], "clipfeat: frames_per_scene=0: expected a number of at least 1"),
        (["data.root=nowhere"], "clipfeat: data.root=nowhere: no such folder"),
        (["data.root=x", "device=tpu"], "clipfeat: device=tpu: expected auto, cpu, cuda or cuda:<n>"),
        (["data.root=x", "device=cuda:99"], "clipfeat: device=cuda:99: this machine shows"),
        (["--config-name=fuse"], "clipfeat: --config-name=fuse: is not for clipfeat-extract"),
        (
            ["--config-name=composer", "fuse.best_view=3"],
            "clipfeat: fuse.best_view: no such key; did you mean fuse.best_v",
        ),
        (
            ["-cn", "composer", "xyz=3"],
            "clipfeat: xyz: no such key; clipfeat-extract --config-name composer --help lists the keys",
        ),
        (["data.root=x", "model.head.name=big"], "clipfeat: model.head.name=big: expected one of none"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_exit_code_one(run_cli, overrides, message):
    code, err = run_cli(*overrides, tiny=False, small=False)
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith(message)], err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
