"""Who the simulated patient is, and where and when she was examined: all of it invented, and the same at every run.

Nothing here can tell the label: every value follows from the names of the cohort, the patient and the hospital.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

NOTE = "simulated, not a patient"
DATE, TIME = "20000101", "120000"  # of every examination: the day of a run must not change its bytes

_NAMESPACE = uuid.UUID("b04b11c4-a7fb-4b03-9913-dbb1f85ef20a")  # drawn once, for this purpose alone


@dataclass(frozen=True)
class Identity:
    """What the header of a file says of the patient and the hospital.

    Attributes:
        cohort: Specification, kind and seed of the cohort; cohorts that differ in any of them share no UID.
        patient: The patient's id in the manifest: 1 to 64 letters, digits, dots, hyphens or underscores.
        age: Years.
        site: The hospital, such as "A": 1 to 8 of these.
        study: Name of the examination, such as "mri". Its series lie in one frame of reference.
    """

    cohort: str
    patient: str
    age: int
    site: str = "A"
    study: str = "1"

    def __post_init__(self) -> None:
        named = re.fullmatch(r"[\w.-]{1,64}", self.patient, re.ASCII) and re.fullmatch(
            r"[\w.-]{1,8}", self.site, re.ASCII
        )
        if not named or not 0 <= self.age <= 130:
            raise ValueError(f"a DICOM header can't hold {self}")

    def uid(self, *names: str | int) -> str:
        """A UID made from the study's names and further ones, such as the series and the number of the image.

        The root 2.25 is followed by a UUID as a decimal number (PS3.5, B.2); here the UUID is a hash (RFC 9562, 5.5).
        """
        key = "\x1f".join((self.cohort, self.patient, self.study, *map(str, names)))
        return f"2.25.{uuid.uuid5(_NAMESPACE, key).int}"
