"""What a student regresses to: for each sample a draw from a pool of teacher scores, anew in each epoch.

With unpaired data a partner is a random examination of another patient. The pairings are the method and the controls
that it is judged by. They differ in their pools alone:

    same-class    teacher scores of the sample's class
    any           all teacher scores
    constant      their class median (l1) or mean (l2, kl): what same-class targets come to in expectation
    shuffled      teacher scores handed round over all samples once, then those of the class
    surrogate     a Beta distribution fitted to the scores of the class: no score of any examination is left
    hard          the label
    self          the sample's own out-of-fold score by a model of the student's modality
    oracle_pair   the teacher's score of the same patient's examination

Pools are sorted, so that under one key two pairings draw the same quantile: arms of one seed differ in their pools and
not in their luck.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xmkd.data.rng import id_hash, uniform
from xmkd.errors import ConfigError, RunError
from xmkd.losses.distillation import EPSILON, Norm, Space

Pairing = Literal["same-class", "any", "constant", "shuffled", "surrogate", "hard", "self", "oracle_pair"]

OWN: tuple[Pairing, ...] = ("self", "oracle_pair")  # a score per student sample rather than a pool per class
QUANTILES = 4096  # of a fitted distribution: its draws are off by 1/8192 of probability at most
FEATURES = 64  # directions kept of a teacher's features
_SHUFFLE = 0  # seed of the one permutation
_STREAM = id_hash("partner")  # a sample's key also augments it: its partner is drawn from other numbers


class Targets(nn.Module):
    """Pools of target probabilities. Not part of any checkpoint; `.to(device)` moves them.

    Attributes:
        pools: The pool of class 0, then that of class 1, each ascending, `(n_0 + n_1,)`; for `self` and `oracle_pair`
            the score of each student sample.
        starts: Where each class's pool begins, int64 `(2,)`.
        sizes: Scores in each, int64 `(2,)`.
    """

    pools: Tensor
    starts: Tensor
    sizes: Tensor

    def __init__(self, pairing: Pairing, pools: tuple[Tensor, Tensor] | Tensor) -> None:
        super().__init__()
        self.pairing = pairing
        both = (pools,) if isinstance(pools, Tensor) else tuple(pool.sort().values for pool in pools)
        sizes = torch.tensor([len(pool) for pool in both])
        self.register_buffer("pools", torch.cat(both).float(), persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)

    @classmethod
    def build(
        cls,
        pairing: Pairing,
        scores: Tensor,
        labels: Tensor,
        *,
        own: Tensor | None = None,
        norm: Norm = "l1",
        space: Space = "prob",
    ) -> Targets:
        """Pools of a pairing.

        Args:
            pairing: The rule.
            scores: Out-of-fold probabilities of the teacher, `(N,)`.
            labels: Classes of their examinations, `(N,)`.
            own: For `self` and `oracle_pair` a probability per student sample, by its row, `(M,)`.
            norm: Of the distillation loss; it decides what constant that loss comes to.
            space: Of the distillation loss, likewise.

        Raises:
            ConfigError: The pairing is unknown, or `own` is missing or left over.
            RunError: Scores are no probabilities, or of one class.
        """
        if pairing not in get_args(Pairing):
            raise ConfigError(
                f"{pairing!r} is no pairing",
                where="pairing",
                fixes=(f"choose one of {', '.join(get_args(Pairing))}", "leave it out: same-class"),
            )
        if (own is not None) != (pairing in OWN):
            raise ConfigError(
                f"pairing {pairing} {'needs' if own is None else 'has no use for'} a score of each student sample",
                where="pairing",
                fixes=(f"{'give' if own is None else 'leave out'} these scores", f"choose {' or '.join(OWN)} for them"),
            )
        if own is not None:
            return cls(pairing, _probabilities(own, "scores of the student's samples"))
        scores, labels = _probabilities(scores, "teacher's scores"), labels.cpu()
        if labels.shape != scores.shape or not all(bool((labels == k).any()) for k in (0, 1)):
            raise RunError(
                f"the teacher's {len(scores)} scores and {len(labels)} labels must pair, with both classes among them",
                fixes=("name a teacher that was cross-validated on both classes", "check which label it was given"),
            )
        return cls(pairing, _pools(pairing, scores, labels, norm, space))

    def draw(self, keys: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """A target for each sample of a batch.

        Args:
            keys: Of (seed, epoch, sample), int64 `(B,)`: all that the draw depends on.
            labels: Classes of the samples, int64 `(B,)`.
            index: Rows of the samples in `own`, int64 `(B,)`; other pairings don't look at them.

        Returns:
            Probabilities, float32 `(B,)`.
        """
        if self.pairing in OWN:
            return self.pools[index]
        sizes = self.sizes[labels]
        place = (uniform(keys ^ _STREAM, 1)[:, 0] * sizes).long()
        return self.pools[self.starts[labels] + torch.minimum(place, sizes - 1)]  # the product may round up to the size


class FeaturePool(nn.Module):
    """Teacher features of each class, in their leading principal directions. Not part of any checkpoint.

    Attributes:
        pool: Class 0 first, `(N, FEATURES)`; directions that the features don't have are 0.
        sizes: How many of each class, int64 `(2,)`.
    """

    pool: Tensor
    sizes: Tensor

    def __init__(self, pool: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("pool", pool, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)

    @classmethod
    def build(cls, features: Tensor, labels: Tensor) -> FeaturePool:
        """A pool of features `(N, F)` of examinations of classes `(N,)`.

        Raises:
            RunError: They don't pair, or a class is missing.
        """
        sizes = torch.stack([(labels == k).sum() for k in (0, 1)])
        if len(features) != len(labels) or not features.isfinite().all() or int(sizes.min()) == 0:
            raise RunError(
                f"the teacher's {len(features)} features and {len(labels)} labels must pair, with both classes",
                fixes=("cross-validate the teacher anew: resume=never", "distil scores alone"),
            )
        centred = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
        directions = torch.linalg.svd(centred.double(), full_matrices=False).Vh[:FEATURES]
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        pool = (centred.double() @ (directions * largest.sign()).T).float()
        pool = nn.functional.pad(pool, (0, FEATURES - pool.shape[1]))
        return cls(torch.cat([pool[labels == 0], pool[labels == 1]]), sizes)

    def draw(self, keys: Tensor, labels: Tensor) -> Tensor:
        """Features of a random partner of each sample's class, `(B, FEATURES)`; see `Targets.draw`."""
        sizes = self.sizes[labels]
        place = torch.minimum((uniform(keys ^ _STREAM, 1)[:, 0] * sizes).long(), sizes - 1)
        return self.pool[labels * self.sizes[0] + place]


def _probabilities(scores: Tensor, name: str) -> Tensor:
    scores = scores.detach().cpu().float()
    wrong = ~((scores >= 0) & (scores <= 1))
    if scores.ndim != 1 or wrong.any():
        raise RunError(
            f"{name} must be a list of probabilities; of shape {tuple(scores.shape)}, {int(wrong.sum())} are none",
            fixes=("store the sigmoid of the logits", "find out why the model gives NaN there"),
        )
    return scores


def _pools(pairing: Pairing, scores: Tensor, labels: Tensor, norm: Norm, space: Space) -> tuple[Tensor, Tensor]:
    if pairing == "hard":
        return torch.zeros(1), torch.ones(1)
    if pairing == "any":
        return scores, scores
    if pairing == "shuffled":
        scores = scores[torch.randperm(len(scores), generator=torch.Generator().manual_seed(_SHUFFLE))]
    negative, positive = scores[labels == 0], scores[labels == 1]
    if pairing == "constant":
        return _centre(negative, norm, space), _centre(positive, norm, space)
    if pairing == "surrogate":
        return _beta_quantiles(negative), _beta_quantiles(positive)
    return negative, positive


def _centre(scores: Tensor, norm: Norm, space: Space) -> Tensor:
    """The constant that the distillation loss of these targets is least at, `(1,)`."""
    if norm == "l1":
        return scores.quantile(0.5)[None]
    if space == "logit":
        return scores.logit(EPSILON).mean().sigmoid()[None]
    return scores.mean()[None]


def _beta_quantiles(scores: Tensor) -> Tensor:
    """Midpoints of equal parts of the Beta distribution fitted to the scores, `(QUANTILES,)`; one score if all agree.

    By maximum likelihood, or by the first two moments where that search fails.
    """
    from scipy import stats

    inside = scores.double().clamp(EPSILON, 1 - EPSILON).numpy()
    mean, variance = float(inside.mean()), float(inside.var())
    if variance < 1e-8:  # a spread of 0.0001: no histogram to speak of
        return scores[:1]
    try:
        a, b, _, _ = stats.beta.fit(inside, floc=0, fscale=1)
    except (stats.FitError, RuntimeError):
        strength = mean * (1 - mean) / variance - 1
        a, b = mean * strength, (1 - mean) * strength
    middle = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return torch.from_numpy(stats.beta.ppf(middle.numpy(), a, b)).float()
