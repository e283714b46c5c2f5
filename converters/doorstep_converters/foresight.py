"""What devices of each kind would choose from a bundle, before any of them sees it."""

from doorstep.device import Device
from doorstep.errors import IncompatibleError
from doorstep.manifest import Manifest
from doorstep.selection import rank

_NUMPY = {"numpy": "1.24.2"}
_ENGINES = {"onnxruntime": "1.32.0", "openvino": "2026.4.1", "ai-edge-litert": "2.3.0", **_NUMPY}
_KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "x86-64 (AVX2 only)": ("x86_64", "avx avx2 fma f16c", _ENGINES),
    "x86-64-vnni": ("x86_64", "avx avx2 fma avx512f avx512_vnni", _ENGINES),
    "arm64 (Cortex-A53, A72)": ("aarch64", "asimd", _ENGINES),
    "arm64-dotprod (Cortex-A76)": ("aarch64", "asimd asimddp fphp asimdhp", _ENGINES),
    "armv7 (tflite-runtime)": ("armv7l", "neon vfpv4", {"tflite-runtime": "2.14.0", **_NUMPY}),
    "armv7 (NumPy alone)": ("armv7l", "neon vfpv4", _NUMPY),
}


def choices(manifest: Manifest) -> dict[str, str]:
    """Map each kind of device, all engines installed, to the variant it would choose and the rule behind it."""
    return {kind: _choice(manifest, *parts) for kind, parts in _KINDS.items()}


def _choice(manifest: Manifest, arch: str, features: str, engines: dict[str, str]) -> str:
    device = Device(arch, "", frozenset(features.split()), 1, None, engines)
    try:
        ranking = rank(manifest.variants, device, None, lambda variant: True)
    except IncompatibleError:
        return "none"
    return f"{ranking.usable[0].name}: {ranking.rule}"
