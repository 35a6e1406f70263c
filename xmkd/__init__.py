"""xmkd: cross-modal knowledge distillation for medical imaging, on PyTorch Lightning."""

__version__ = "0.1.0"
