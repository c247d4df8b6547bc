import torch

from clipfeat.fusion.gate import FusionGate


def test_without_a_pixel_only_the_geometry_counts():
    torch.manual_seed(0)
    gate, feat_2d, feat_3d = FusionGate(6), torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    has_pixel = torch.arange(9)[None].expand(2, 9) % 3 > 0
    fused, conf = gate(feat_2d, feat_3d, has_pixel)
    assert torch.equal(fused[~has_pixel], feat_3d[~has_pixel])
    assert not conf[~has_pixel].any()
    g = gate.mlp(torch.cat((feat_2d, feat_3d), -1)).sigmoid()
    torch.testing.assert_close(fused[has_pixel], (g * feat_2d + (1 - g) * feat_3d)[has_pixel])
    torch.testing.assert_close(conf[has_pixel], g.mean(-1)[has_pixel])
    assert ((conf[has_pixel] > 0) & (conf[has_pixel] < 1)).all()


def test_gradients():
    torch.manual_seed(0)
    gate = FusionGate(3).double()
    pair = [torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    has_pixel = torch.tensor([[True, False, True, True]])
    assert torch.autograd.gradcheck(lambda a, b: gate(a, b, has_pixel)[0], pair)
    fused, conf = gate(*pair, has_pixel)
    grad, *_ = torch.autograd.grad(fused.sum() + conf.sum(), pair)
    assert not grad[0, 1].any()
    assert grad[0, 0].all()
