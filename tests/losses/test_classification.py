"""Classification losses against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from xmkd.losses.classification import balanced_weights, classification_loss

LOG3 = math.log(3)  # the logit of 3/4


def test_binary_by_hand() -> None:
    logits, label = torch.tensor([LOG3, LOG3]), torch.tensor([1, 0])
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert classification_loss(logits, label).item() == pytest.approx(expected, rel=1e-6)


def test_weights_by_hand() -> None:
    logits, label = torch.tensor([LOG3, LOG3]), torch.tensor([1, 0])
    expected = -(3 * math.log(0.75) + 1 * math.log(0.25)) / (3 + 1)  # sum(w l) / sum(w)
    found = classification_loss(logits, label, weight=torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_focal_by_hand() -> None:
    logits, label = torch.tensor([LOG3, LOG3]), torch.tensor([1, 0])
    expected = -(0.25**2 * math.log(0.75) + 0.75**2 * math.log(0.25)) / 2  # (1 - p_t)^2 times cross-entropy
    assert classification_loss(logits, label, focal_gamma=2.0).item() == pytest.approx(expected, rel=1e-5)


def test_several_classes_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [math.log(6), 0.0, 0.0]])  # of 8: 1, 2, 5 and 6, 1, 1
    label = torch.tensor([2, 1])
    expected = -(math.log(5 / 8) + math.log(1 / 8)) / 2
    assert classification_loss(logits, label).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 12), k=st.integers(2, 6), weighted=st.booleans())
def test_without_focusing_it_is_torch_s_cross_entropy(seed: int, n: int, k: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator)
    label = torch.randint(k, (n,), generator=generator)
    weight = torch.rand(k, generator=generator) + 0.1 if weighted else None
    found = classification_loss(logits, label, weight=weight, focal_gamma=0.0)
    torch.testing.assert_close(found, F.cross_entropy(logits, label, weight=weight))
    one = classification_loss(logits[:, 0], (label > 0).long())
    torch.testing.assert_close(one, F.binary_cross_entropy_with_logits(logits[:, 0], (label > 0).float()))


def test_one_logit_is_two_logits_with_a_zero() -> None:
    logits, label = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0, 1, 1])
    weight = torch.tensor([0.7, 1.9])
    two = torch.stack([torch.zeros(3), logits], dim=1)
    for gamma in (0.0, 2.0):
        found = classification_loss(logits, label, weight=weight, focal_gamma=gamma)
        torch.testing.assert_close(found, classification_loss(two, label, weight=weight, focal_gamma=gamma))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_samples_give_finite_gradients(gamma: float) -> None:
    logits = torch.tensor([100.0, -100.0, 100.0], requires_grad=True)
    loss = classification_loss(logits, torch.tensor([1, 0, 0]), focal_gamma=gamma)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert slope.isfinite().all()
    assert slope[2] > 0


def test_balanced_weights() -> None:
    assert balanced_weights((30, 10)).tolist() == pytest.approx([40 / 60, 40 / 20])
    assert balanced_weights((5, 5, 5)).tolist() == pytest.approx([1, 1, 1])
    found = balanced_weights((6, 0, 2))  # the absent class is none of the two that share
    assert found.tolist() == pytest.approx([8 / 12, 0, 8 / 4])
    assert (found * torch.tensor([6, 0, 2])).sum() / 8 == pytest.approx(1)  # mean 1 over the samples
