"""open_clip and timm without torch's compiler: quick to import, and the compiler as ever for who wants it."""

import subprocess
import sys
import textwrap

import pytest
import torch

from clipfeat.model.packages import without_dynamo


def run(program):
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_open_clip_and_timm_come_without_the_compiler():
    run("""
        import sys
        from clipfeat.model.packages import import_open_clip, import_timm
        import_open_clip(), import_timm()
        assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler came along"
    """)


@pytest.mark.slow
def test_the_compiler_works_as_ever_afterwards():
    run("""
        from clipfeat.model.packages import import_open_clip
        open_clip = import_open_clip()
        import torch, torchvision
        assert torch.compiler.disable.__module__ == "torch.compiler"
        boxes = torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 2)
        assert boxes.shape == (1, 1, 2, 2) and (boxes == 1).all()
        compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
        assert torch.equal(compiled(torch.ones(2)), torch.ones(2).sin() + 1)
        from timm.models.naflexvit import NaFlexEmbeds
        assert open_clip.create_model("ViT-S-32", force_image_size=32).visual is not None
    """)


def test_what_must_not_be_compiled_is_marked_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)  # another test may have wanted it
    disable = torch.compiler.disable
    with without_dynamo():

        @torch.compiler.disable
        def plain(x):
            return x

        @torch.compiler.disable(recursive=False, reason="it is slow")
        def told(x):
            return x

    assert plain._torchdynamo_disable
    assert (plain(3), told(4)) == (3, 4)
    assert (told._torchdynamo_disable_msg, told._torchdynamo_disable_recursive) == ("it is slow", False)
    assert torch.compiler.disable is disable
    assert "torch._dynamo.utils" not in sys.modules
