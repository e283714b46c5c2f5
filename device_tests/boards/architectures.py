"""The two kinds of userland: which packages and wheels make one, and which qemu runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_PYTHON = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgomp1", "libatomic1")


@dataclass(frozen=True, slots=True)
class Architecture:
    """One userland: a Debian architecture with the wheels a device of that kind would install."""

    name: str
    """Debian's name of it; also the name of the root's folder."""
    machine: str
    """What `platform.machine()` says."""
    qemu: str
    """The emulator's command."""
    packages: Sequence[str]
    """Debian packages; apt adds what they depend on."""
    wheels: Sequence[str]
    """Requirements for pip; versions come from the constraints file unless one stands here."""
    has_wheel_dependencies: bool
    """Whether pip may add what the wheels depend on."""
    platforms: Sequence[str]
    """Wheel platform tags, all of them at or below Debian 12's glibc 2.36."""
    imports: Sequence[str]
    """Modules that must import before a root counts as built."""


ARM64 = Architecture(
    name="arm64",
    machine="aarch64",
    qemu="qemu-aarch64-static",
    packages=_PYTHON,
    wheels=(
        "numpy",
        "onnxruntime",
        "ai-edge-litert",
        "openvino",
        "tokenizers",
        "securesystemslib",
        "pillow",
        "psutil",
    ),
    has_wheel_dependencies=True,
    platforms=(
        *(f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28, 31, 34, 35)),
        "manylinux2014_aarch64",
    ),
    imports=("numpy", "onnxruntime", "ai_edge_litert.interpreter", "openvino", "tokenizers"),
)

# PyPI has no armv7l wheel of NumPy, psutil, Pillow or PyYAML. Debian builds the first three; PyYAML is asked for
# only by tokenizers' hub client, hence no dependencies.
# tflite-runtime 2.14 was compiled against NumPy 1, which is what Debian 12 has.
ARMHF = Architecture(
    name="armhf",
    machine="armv7l",
    qemu="qemu-arm-static",
    packages=(*_PYTHON, "python3-numpy", "python3-psutil", "python3-pil"),
    wheels=("tflite-runtime==2.14.0", "tokenizers", "securesystemslib", "safetensors"),
    has_wheel_dependencies=False,
    platforms=(*(f"manylinux_2_{minor}_armv7l" for minor in (17, 28, 31, 34, 35)), "manylinux2014_armv7l"),
    imports=("numpy", "tflite_runtime.interpreter", "tokenizers"),
)

ARCHITECTURES = {architecture.name: architecture for architecture in (ARM64, ARMHF)}
