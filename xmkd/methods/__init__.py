"""One file per method; a new one is a file here, a line in `METHODS`, a YAML in experiments/ and a row in the tests."""

from xmkd.methods.base import Method
from xmkd.methods.distill import Distill
from xmkd.methods.mae import Mae
from xmkd.methods.teacher import Teacher

METHODS: dict[str, type[Method]] = {
    "teacher": Teacher,
    "mae": Mae,
    "distill": Distill,
}
