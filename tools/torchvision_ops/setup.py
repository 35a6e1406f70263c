"""Build of the operator shim: the module, and the ``.pth`` line that loads it when Python starts."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "torchvision_ops_shim.pth"


class BuildWithPth(build_py):
    """Puts the ``.pth`` file at the top of the wheel, where ``site`` looks for it."""

    def run(self) -> None:
        super().run()
        self.copy_file(str(Path(__file__).parent / PTH), str(Path(self.build_lib) / PTH))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(Path(self.build_lib) / PTH)]


setup(
    name="torchvision-ops-shim",
    version="1.0",
    description="Declares torchvision's two custom operators where its compiled extension cannot load",
    py_modules=["torchvision_ops_shim"],
    cmdclass={"build_py": BuildWithPth},
)
