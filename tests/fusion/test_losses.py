import math
from itertools import combinations

import pytest
import torch

from clipfeat.fusion.losses import ClipConsCriterion, nt_xent, view_consistency, view_pairs


def some(seed=0, batch=2, total=9):
    rng = torch.Generator().manual_seed(seed)
    mask = torch.arange(total)[None] < torch.tensor([total, 4])[:batch, None]
    return {
        "feat_fusion": torch.randn(batch, total, 5, generator=rng),
        "clip_feat": torch.randn(batch, total, 7, generator=rng),
        "conf_2d": torch.rand(batch, total, generator=rng),
        "mask": mask,
        "point_id": torch.arange(total)[None].repeat(batch, 1) % 6,
    }


def cosine(a, b):
    return float((a @ b / a.norm() / b.norm()).detach())


def slow_views(features, ids):
    """Mean over points of 1 - mean cosine of their pairs."""
    groups = [[f for f, own in zip(features, ids, strict=True) if own == i] for i in sorted(set(ids)) if i >= 0]
    losses = [
        1 - sum(cosine(a, b) for a, b in combinations(group, 2)) / math.comb(len(group), 2)
        for group in groups
        if len(group) > 1
    ]
    return sum(losses) / len(losses)


def test_the_loss_equals_a_slow_twin():
    torch.manual_seed(0)
    criterion, data = ClipConsCriterion(5, 7).requires_grad_(False), some()
    data["point_id"][0, 0] = -1
    loss = criterion(**data)
    rows = [(b, n) for b in range(2) for n in range(9) if data["mask"][b, n]]
    weights = [float(data["conf_2d"][row]) for row in rows]
    parts = [1 - cosine(criterion.to_clip(data["feat_fusion"][row]), data["clip_feat"][row]) for row in rows]
    assert float(loss.clip) == pytest.approx(
        sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights), abs=1e-5
    )
    features, ids = [data["feat_fusion"][row] for row in rows], [int(data["point_id"][row]) for row in rows]
    assert float(loss.views) == pytest.approx(slow_views(features, ids), abs=1e-5)
    assert float(loss.total) == pytest.approx(float(loss.clip + loss.views))


def test_nt_xent_equals_a_slow_twin():
    first, second = (torch.nn.functional.normalize(torch.randn(4, 3), dim=1) for _ in range(2))
    both, losses = [*first, *second], []
    for i, one in enumerate(both):
        others = [math.exp(cosine(one, other) / 0.07) for j, other in enumerate(both) if j != i]
        losses.append(-math.log(math.exp(cosine(one, both[(i + 4) % 8]) / 0.07) / sum(others)))
    assert float(nt_xent(first, second)) == pytest.approx(sum(losses) / 8, rel=1e-4)
    assert nt_xent(first, first) < nt_xent(first, second)


def test_pairs_are_views_of_one_point():
    ids = torch.tensor([5, 3, 5, 9, 3, 5, 1])
    first, second = view_pairs(ids, 10)
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (1, 4)]
    many = torch.arange(100).repeat(2)
    first, second = view_pairs(many, 8)
    assert len(first) == 8
    assert torch.equal(many[first], many[second])
    assert (first != second).all()
    for none in (torch.zeros(0, dtype=torch.int64), torch.tensor([4]), torch.tensor([4, 5])):
        assert len(view_pairs(none, 8)[0]) == 0


@pytest.mark.parametrize("consistency", ["cosine", "ntxent"])
@pytest.mark.parametrize("empty", ["padding", "no confidence", "no id", "no twin", "no ids", "nothing"])
def test_where_nothing_speaks_the_loss_is_0_and_has_a_gradient(consistency, empty):
    criterion, data = ClipConsCriterion(5, 7, consistency), some()
    if empty == "padding":
        data["mask"][:] = False
    elif empty == "no confidence":
        data["conf_2d"][:] = 0
    elif empty == "no id":
        data["point_id"][:] = -1
    elif empty == "no twin":
        data["point_id"] = torch.arange(18).view(2, 9)
    elif empty == "no ids":
        del data["point_id"]
    else:
        data = {name: values[:, :0] for name, values in data.items()}
    data["feat_fusion"].requires_grad_()
    loss = criterion(**data)
    loss.total.backward()
    assert bool(torch.isfinite(data["feat_fusion"].grad).all())
    assert (float(loss.clip) == 0) == (empty in ("padding", "no confidence", "nothing"))
    assert (float(loss.views) == 0) == (empty != "no confidence")


def test_padding_and_its_neighbours_have_no_say():
    torch.manual_seed(0)
    criterion, data = ClipConsCriterion(5, 7, "ntxent"), some()
    expected = criterion(**data).total
    for name in ("feat_fusion", "clip_feat", "conf_2d"):
        data[name][~data["mask"]] = 100.0
    data["point_id"][~data["mask"]] = 0
    torch.testing.assert_close(criterion(**data).total, expected)


def test_confidence_and_clip_get_no_gradient():
    data = some()
    for name in ("conf_2d", "clip_feat", "feat_fusion"):
        data[name].requires_grad_()
    ClipConsCriterion(5, 7)(**data).total.backward()
    assert data["conf_2d"].grad is None
    assert data["clip_feat"].grad is None
    assert data["feat_fusion"].grad[data["mask"]].any()
    assert not data["feat_fusion"].grad[~data["mask"]].any()


def test_gradients():
    ids = torch.tensor([0, 1, 0, 2, 1, 0])
    raw = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    unit = torch.nn.functional.normalize
    assert torch.autograd.gradcheck(lambda x: view_consistency(unit(x, dim=1), ids), raw)
    assert torch.autograd.gradcheck(lambda x: nt_xent(unit(x[:3], dim=1), unit(x[3:], dim=1), 0.5), raw)


def test_what_does_not_fit_is_told():
    data = some()
    with pytest.raises(ValueError, match=r"expected \(B, N, …\) of the same B and N, got \[2, 9, 5\]"):
        ClipConsCriterion(5, 7)(**data | {"conf_2d": data["conf_2d"][:, :3]})
    with pytest.raises(ValueError, match="consistency=l2: expected one of cosine, ntxent"):
        ClipConsCriterion(5, 7, "l2")
