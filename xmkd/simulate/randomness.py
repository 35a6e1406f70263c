"""Random numbers of a simulated patient: one generator per component, each with its own seed.

A label that changed the number of draws of a shared generator would shift everything drawn after it, so that the
same patient could not be rendered with another label. Components therefore never share a generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Component = Literal[
    "anatomy", "state", "surroundings", "tissue", "label", "evidence", "motion", "machine", "texture", "protocol"
]  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """The generators of one patient.

    Attributes:
        cohort: Seed of the cohort.
        patient: The patient's id.
        examination: Number of the examination; components that differ between two looks at one patient take it.
    """

    cohort: int
    patient: str
    examination: str = ""

    def numpy(self, component: Component, *, shared: bool = False) -> np.random.Generator:
        """A fresh numpy generator of a component.

        Args:
            component: Which part of the simulation draws.
            shared: The same for all examinations of the patient, such as the anatomy.
        """
        return np.random.default_rng(self._seed(component, shared))

    def torch(self, component: Component, *, shared: bool = False) -> torch.Generator:
        """A fresh torch generator of a component, on the CPU."""
        return torch.Generator().manual_seed(self._seed(component, shared))

    def _seed(self, component: Component, shared: bool) -> int:
        key = "\x1f".join((str(self.cohort), self.patient, "" if shared else self.examination, component))
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
