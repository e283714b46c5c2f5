"""What the counted process sees: the same packages, bundle and machine everywhere, built in a folder of their own."""

import compileall
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

import doorstep
from doorstep.bundle import seal
from doorstep.manifest import FORMAT, Board, Manifest, Measured, Variant
from doorstep.tensors import TensorSpec

LABELS = ("aisle", "hours", "refund", "stock", "other")
SENTENCES = (
    "hi there, is the oat milk back in stock",
    "which aisle would I find the paper towels in please",
    "the parcel never came and nobody answered",
    "are you open on sunday, and until when",
    "I would like my money back for the broken kettle",
)
_VARIANTS = {
    "onnx-fp32": ("onnx", "none", "onnxruntime"),
    "onnx-int8": ("onnx", "dynamic_wi8_afp32", "onnxruntime"),
    "openvino-int8-static": ("openvino", "static_wi8_ai8", "openvino"),
    "tflite-int8": ("tflite", "dynamic_wi8_afp32", "ai-edge-litert"),
}
_ENGINE = '''"""An engine that does nothing."""

import numpy as np


class Nothing:
    def __init__(self, graph):
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._fetches = {"logits": np.zeros((1, %d), np.float32)}

    def run(self, feeds):
        return self._fetches

    def close(self):
        pass


def open_graph(graph, options):
    return Nothing(graph)
'''
_CPUINFO = """processor\t: {core}
vendor_id\t: GenuineIntel
model name\t: A Processor of Four Cores @ 2.00GHz
cpu MHz\t\t: 2000.000
flags\t\t: fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat clflush mmx fxsr sse sse2 ht syscall nx \
lm constant_tsc rep_good nopl cpuid pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c \
rdrand lahf_lm abm bmi1 avx2 bmi2 rdseed adx clflushopt sha_ni avx_vnni
bugs\t\t: spectre_v1 spectre_v2
bogomips\t: 4000.00

"""
_MACHINE = {
    "proc/cpuinfo": "".join(_CPUINFO.format(core=core) for core in range(4)),
    "proc/meminfo": "MemTotal:        4000000 kB\nMemFree:         2000000 kB\nMemAvailable:    3000000 kB\n",
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.stat": "anon 1000\nfile 2000\ninactive_file 1000\n",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """The folders that `walk.py` is given."""

    site: Path
    bundle: Path
    machine: Path


def build(folder: Path) -> Stage:
    """Build the stage in `folder`."""
    stage = Stage(folder / "site", folder / "bundle", folder / "machine")
    _build_site(stage.site)
    _build_bundle(stage.bundle)
    _write(stage.machine, _MACHINE)
    return stage


def _build_site(site: Path) -> None:
    """Make the packages of a device that was given `doorstep[onnx]`, with an empty package for the engine."""
    files = {"cost_engine.py": _ENGINE % len(LABELS), "onnxruntime/__init__.py": ""}
    _write(site, {**files, "onnxruntime-1.99.0.dist-info/METADATA": ""})
    shutil.copytree(Path(doorstep.__file__).parent, site / "doorstep", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(site, quiet=2)
    for name in ("numpy", "tokenizers"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        package = Path(spec.origin).parent
        for place in (package, package.with_name(f"{name}.libs")):
            if place.is_dir():
                (site / place.name).symlink_to(place)


def _build_bundle(folder: Path) -> None:
    entries = {name: f"variants/{name}/model.bin" for name in _VARIANTS}
    text = _tokenizer().to_str()
    _write(folder, {"tokenizer.json": text, "golden.json": "{}", **{entry: entry for entry in entries.values()}})
    names = ("input_ids", "attention_mask")
    inputs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in names)
    outputs = (TensorSpec("logits", "float32", ("batch", len(LABELS))),)
    board = Board("x86_64", "A Processor of Four Cores", ("avx2", "avx_vnni", "fma"))
    variants = [
        Variant(name, runtime, recipe, entries[name], (entries[name],), inputs, outputs, {engine: "1.0"},
                measured=Measured(1000, 100, 0.99, 0.01, p50_ms=1.0 + place, cold_start_ms=100.0, board=board))
        for place, (name, (runtime, recipe, engine)) in enumerate(_VARIANTS.items())
    ]  # fmt: skip
    manifest = Manifest(
        format=FORMAT,
        name="cost",
        version="1",
        created="2025-01-01T00:00:00Z",
        task="text-classification",
        options={"labels": LABELS, "max_length": 64},
        files=(),
        variants=tuple(variants),
    )
    seal(folder, manifest)


def _tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 -- no password
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made


def _write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
