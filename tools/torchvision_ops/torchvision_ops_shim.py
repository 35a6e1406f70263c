"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

There torchvision's extension library cannot be loaded, its operators stay undeclared, and ``import torchvision``
fails with ``operator torchvision::nms does not exist``; timm, torchmetrics and lightning then fail with it. Declaring
the two operators is enough for everything written in Python (models, transforms); calling them still fails.

The ``.pth`` file beside this module imports it when Python starts, so that spawned processes that import lightning
before xmkd are served too. It must therefore cost nothing: torch is imported only when torchvision is.
"""

import sys
from importlib.abc import MetaPathFinder

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library = None  # kept alive: the declarations end with the object


class _DeclareOperators(MetaPathFinder):
    """Acts on the first import of torchvision, then leaves the import to the ordinary finders."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    global _library
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _library.define(operator + SCHEMA)


sys.meta_path.insert(0, _DeclareOperators())
