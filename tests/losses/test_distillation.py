"""Distillation losses against values computed by hand, and the schedule of their weight."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xmkd.losses.distillation import (
    Norm,
    auto_alpha,
    distillation_loss,
    distillation_weight,
    feature_loss,
    mixed_loss,
)

LOG3 = math.log(3)  # the logit of 3/4


def test_weight_by_hand() -> None:
    assert distillation_weight(0.9, 10) == pytest.approx(0.34868, abs=5e-6)
    assert distillation_weight(0.9, 9, offset=1) == distillation_weight(0.9, 10)
    assert [distillation_weight(1.0, e) for e in (0, 7)] == [1.0, 1.0]


@given(alpha=st.floats(0, 1))
def test_the_first_epoch_is_pure_distillation_without_an_offset(alpha: float) -> None:
    assert distillation_weight(alpha, 0) == 1.0


@given(epoch=st.integers(0, 1000))
def test_supervision_alone_needs_the_offset(epoch: int) -> None:
    assert distillation_weight(0.0, epoch, offset=1) == 0.0


@given(alpha=st.floats(0.01, 0.999), epoch=st.integers(0, 60), offset=st.integers(0, 1))
def test_the_weight_falls_strictly(alpha: float, epoch: int, offset: int) -> None:
    assert distillation_weight(alpha, epoch + 1, offset) < distillation_weight(alpha, epoch, offset)


@pytest.mark.parametrize("epochs", [2, 10, 20, 50, 100, 400])
def test_automatic_alpha_is_half_way_in_the_middle(epochs: int) -> None:
    assert distillation_weight(auto_alpha(epochs), epochs // 2) == pytest.approx(0.5, rel=1e-12)
    assert auto_alpha(20) == pytest.approx(0.9330, abs=5e-5)
    assert auto_alpha(100) == pytest.approx(0.9862, abs=5e-5)


def test_schedule_out_of_range() -> None:
    for alpha, epoch, offset in ((1.1, 0, 0), (-0.1, 0, 0), (float("nan"), 0, 0), (0.5, -1, 0), (0.5, 0, -1)):
        with pytest.raises(ValueError, match="alpha"):
            distillation_weight(alpha, epoch, offset)
    with pytest.raises(ValueError, match="0 epochs"):
        auto_alpha(0)


def test_losses_by_hand() -> None:
    logits, teacher = torch.tensor([LOG3, -LOG3]), torch.tensor([0.5, 0.75])  # p_S = 3/4 and 1/4
    assert distillation_loss(logits, teacher).item() == pytest.approx((0.25 + 0.5) / 2)
    assert distillation_loss(logits, teacher, norm="l2").item() == pytest.approx((0.0625 + 0.25) / 2)
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25), 0.75 * LOG3 + 0.25 * math.log(1 / 3)
    assert distillation_loss(logits, teacher, norm="kl").item() == pytest.approx(sum(kl) / 2, rel=1e-5)
    l1 = distillation_loss(logits, teacher, space="logit")  # |log 3 - 0| and |-log 3 - log 3|
    assert l1.item() == pytest.approx(3 * LOG3 / 2, rel=1e-5)
    l2 = distillation_loss(logits, teacher, norm="l2", space="logit")
    assert l2.item() == pytest.approx(5 * LOG3**2 / 2, rel=1e-5)


@pytest.mark.parametrize("norm", ["l1", "l2", "kl"])
def test_no_loss_at_the_target_and_certain_teachers_stay_finite(norm: Norm) -> None:
    teacher = torch.tensor([0.3, 0.9])
    assert distillation_loss(teacher.logit(), teacher, norm=norm).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([2.0, -50.0], requires_grad=True)
    loss = distillation_loss(logits, torch.tensor([0.0, 1.0]), norm=norm)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert slope.isfinite().all()


def test_certain_teachers_have_finite_logits() -> None:
    assert distillation_loss(torch.zeros(2), torch.tensor([0.0, 1.0]), space="logit").isfinite()


@pytest.mark.parametrize(("norm", "best"), [("l1", 0.9), ("l2", 0.7), ("kl", 0.7)])
def test_alone_it_teaches_a_constant_per_class(norm: Norm, best: float) -> None:
    scores = torch.tensor([0.2, 0.9, 1.0])
    grid = torch.linspace(0.005, 0.995, 199)  # steps of 0.005
    losses = torch.stack([distillation_loss(p.logit().expand(3), scores, norm=norm) for p in grid])
    assert grid[losses.argmin()].item() == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(("norm", "best"), [("l1", 0.9), ("l2", 0.7)])
def test_descent_on_two_free_scalars_reaches_those_constants(norm: Norm, best: float) -> None:
    scores = torch.tensor([0.2, 0.9, 1.0])
    teacher = torch.cat([scores, 1 - scores])  # of class 1 and of class 0
    logit = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([logit], lr=0.05)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    for _ in range(500):
        optimizer.zero_grad()
        distillation_loss(logit.repeat_interleave(3), teacher, norm=norm).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    assert logit.sigmoid().tolist() == pytest.approx([best, 1 - best], abs=5e-3)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = torch.rand(4, 3, requires_grad=True), torch.ones(4, 3, requires_grad=True)
    loss = distillation_loss(student[:, 0], teacher[:, 0]) + feature_loss(student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


def test_features_by_hand() -> None:
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -5.0], [0.0, 7.0]])  # angles of 0, 180 and 45 degrees
    assert feature_loss(student, teacher).item() == pytest.approx((0 + 4 + 2 - math.sqrt(2)) / 3, rel=1e-6)


def test_mixture_by_hand() -> None:
    kd, ptm = torch.tensor(2.0), torch.tensor(10.0)
    assert mixed_loss(kd, ptm, 0.25).item() == pytest.approx(0.25 * 2 + 0.75 * 10)
    assert mixed_loss(kd, ptm, 1.0) is kd
    for weight in (-0.1, 1.1):
        with pytest.raises(ValueError, match="weight"):
            mixed_loss(kd, ptm, weight)


def gradient(weight: Tensor, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, weight)[0]


def test_supervision_alone_has_exactly_its_own_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x, label = torch.randn(8, 3, generator=generator), torch.tensor([0, 1] * 4).float()
    weight = torch.randn(3, generator=generator, requires_grad=True)
    for epoch in range(3):
        logits = x @ weight
        ptm = F.binary_cross_entropy_with_logits(logits, label)
        kd = distillation_loss(logits, torch.rand(8, generator=generator))
        mixed = mixed_loss(kd, ptm, distillation_weight(0.0, epoch, offset=1))
        expected = gradient(weight, F.binary_cross_entropy_with_logits(x @ weight, label))
        assert torch.equal(gradient(weight, mixed), expected)


def test_unequal_shapes_are_no_broadcast() -> None:
    with pytest.raises(ValueError, match="don't pair"):
        distillation_loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match="don't pair"):
        feature_loss(torch.zeros(4, 3), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="kl"):
        distillation_loss(torch.zeros(4), torch.zeros(4), norm="kl", space="logit")


def test_every_distance_is_one_that_mixed_precision_on_a_gpu_allows() -> None:
    """Checked on tensors without data: their device decides which operators autocast refuses."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    norms: tuple[Norm, ...] = ("l1", "l2", "kl")
    with FakeTensorMode(), torch.autocast("cuda", dtype=torch.bfloat16):
        logits, teacher = (torch.empty(4, device="cuda") for _ in range(2))
        assert [distillation_loss(logits, teacher, norm=norm).dtype for norm in norms] == [torch.float32] * 3


def test_the_divergence_of_certain_targets_is_finite() -> None:
    found = distillation_loss(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]), norm="kl")
    assert float(found) == pytest.approx(math.log(2))
