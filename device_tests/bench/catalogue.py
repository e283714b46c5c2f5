"""Who is measured: each peer's script, its environment and what its script is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doorstep.bundle import Bundle
from doorstep.device import Device
from doorstep.errors import IncompatibleError, UsageError
from doorstep.manifest import Variant
from doorstep.selection import rank

CHOSEN = "doorstep"
_ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "tflite": "LiteRT"}


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    Attributes:
        script: a module of `peers/`.
        environment: its requirement list; `maker` is that of its `make` where it differs.
        options: what the script is told.
        after: the peer whose made folder this one starts from.
        is_made: the script has a `make`.
        files: what a device would hold; empty for all that was made.
    """

    name: str
    script: str
    environment: str
    options: Mapping[str, Any] = field(default_factory=dict)
    maker: str | None = None
    after: str | None = None
    is_made: bool = True
    has_doorstep: bool = False
    files: tuple[Path, ...] = ()


def catalogue(folder: Path, checkpoint: Path) -> list[Peer]:
    """Return doorstep, then the bare scripts, then everyone else."""
    return [*_ours(folder), *_bare(folder), *_eager(checkpoint), *_others()]


def _ours(folder: Path) -> list[Peer]:
    found = [("every", None, CHOSEN)] + [(engine, engine, f"{CHOSEN}, only {engine}") for engine in _ENGINES]
    peers = []
    for environment, wanted, name in found:
        variant = _best(folder, wanted)
        if variant:
            options = {"bundle": str(folder), "variant": wanted}
            shared = tuple(path for path in folder.iterdir() if path.is_file())
            files = (*shared, *(folder / file for file in variant.files))
            name = f"{name}: {variant.name}"
            script = "doorstep_predictor"
            peers.append(Peer(name, script, environment, options, is_made=False, has_doorstep=True, files=files))
    return peers


def _bare(folder: Path) -> list[Peer]:
    peers = []
    for engine, name in _ENGINES.items():
        variant = _best(folder, engine)
        if variant:
            model, tokenizer = folder / variant.entry, folder / "tokenizer.json"
            options = {"engine": engine, "model": str(model), "tokenizer": str(tokenizer)}
            files = (tokenizer, *(folder / file for file in variant.files))
            name = f"bare {name}: {variant.name}"
            peers.append(Peer(name, "bare_engine", engine, options, is_made=False, files=files))
    return peers


def _eager(checkpoint: Path) -> list[Peer]:
    files = tuple(checkpoint.iterdir())
    plain = Peer("transformers pipeline", "transformers_pipeline", "transformers", is_made=False, files=files)
    compiled = {"is_compiled": True}
    name = "transformers pipeline, torch.compile"
    return [plain, Peer(name, plain.script, plain.environment, compiled, is_made=False, files=files)]


def _others() -> list[Peer]:
    onnx, openvino, exact, small = "optimum_onnxruntime", "optimum_openvino", {"is_int8": False}, {"is_int8": True}
    encoder, exported = "sentence_encoder", "sentence-transformers onnx ¹"
    return [
        Peer("Optimum ONNX Runtime", onnx, "optimum-onnx", exact),
        Peer("Optimum ONNX Runtime, int8", onnx, "optimum-onnx", small),
        Peer("Optimum Intel", openvino, "optimum-intel", exact),
        Peer("Optimum Intel, 8-bit", openvino, "optimum-intel", small),
        Peer("ExecuTorch XNNPACK, int8", "executorch_xnnpack", "executorch"),
        Peer(exported, encoder, "sentence-onnx", {"backend": "onnx"}),
        Peer("sentence-transformers openvino ¹", encoder, "sentence-openvino", {"backend": "openvino"}),
        Peer("FastEmbed ¹", "fastembed_encoder", "fastembed", after=exported),
        Peer("model2vec ²", "model2vec_static", "model2vec", maker="model2vec-distil"),
    ]


def _best(folder: Path, wanted: str | None) -> Variant | None:
    """Return the variant that doorstep chooses here, among those of one runtime or of all; None where none fits."""
    bundle = Bundle.open(folder, is_lazy=True)
    try:
        return rank(bundle.manifest.variants, Device.detect(), wanted, bundle.has).usable[0]
    except (IncompatibleError, UsageError):
        return None
