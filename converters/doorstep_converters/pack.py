"""Artifacts and proof into a bundle."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from doorstep.bundle import MANIFEST, SIGNATURE, seal
from doorstep.errors import UsageError
from doorstep.files import folder_aside
from doorstep.golden import FORMAT as GOLDEN_FORMAT
from doorstep.golden import Example, Golden
from doorstep.manifest import FORMAT, Manifest, Measured, Variant
from doorstep.signing import sign_manifest
from doorstep.tensors import TensorSpec
from doorstep_converters.recipe import VariantPlan

ENTRIES = {"onnx": "model.onnx", "openvino": "model.xml", "tflite": "model.tflite", "numpy": "model.json"}
_BESIDE = {"onnx": "model.onnx.data", "openvino": "model.bin", "numpy": "model.safetensors"}
REQUIRES = {
    "onnx": {"onnxruntime": "1.20"},
    "openvino": {"openvino": "2024.6"},
    "tflite": {"ai-edge-litert": "2.0", "tflite-runtime": "2.14"},
    "numpy": {"numpy": "1.24"},
}
_LITERT_ONLY = frozenset({"dynamic_wi4_afp32"})
_ONNX_INT4 = {"onnxruntime": "1.22"}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle is made of.

    Attributes:
        shared: path in the bundle to a file on disk.
        variants: name to the folder with its files.
        documents: path in the bundle to text.
    """

    head: Manifest
    shared: Mapping[str, Path]
    variants: Mapping[str, Path]
    documents: Mapping[str, str]
    golden: Golden


def text_variant(plan: VariantPlan, measured: Measured | None = None, notes: str = "") -> Variant:
    """Describe a text model of `plan`: ids and mask in, logits out."""
    dtype = "int32" if plan.runtime == "tflite" else "int64"
    inputs = tuple(TensorSpec(name, dtype, ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
    source = "output_0" if plan.runtime == "tflite" else ""
    folder = f"variants/{plan.name}"
    entry = f"{folder}/{ENTRIES[plan.runtime]}"
    return Variant(
        name=plan.name,
        runtime=plan.runtime,
        recipe=plan.recipe,
        entry=entry,
        files=(entry, f"{folder}/{_BESIDE[plan.runtime]}") if plan.runtime in _BESIDE else (entry,),
        inputs=inputs,
        outputs=(TensorSpec("logits", "float32", ("batch", "classes"), source=source),),
        requires=requirements(plan),
        measured=measured,
        notes=notes,
    )


def requirements(plan: VariantPlan) -> dict[str, str]:
    """Return the engines that run `plan`, and from which version."""
    requires = REQUIRES[plan.runtime]
    if plan.recipe in _LITERT_ONLY:
        requires = {"ai-edge-litert": requires["ai-edge-litert"]}
    if plan.runtime == "onnx" and plan.recipe == "weight_only_wi4_afp32":
        requires = _ONNX_INT4
    return dict(requires)


def empty_head(name: str, task: str, options: dict[str, Any], variants: Sequence[Variant]) -> Manifest:
    """Return a manifest for a provisional bundle, made to be measured and thrown away."""
    return Manifest(FORMAT, name, "0", "", task, options, (), tuple(variants))


def write_bundle(out: Path, contents: Contents, key: Path | None = None) -> Manifest:
    """Write and sign a bundle aside, then put it in `out`'s place in one step.

    Raises:
        UsageError: something that is no bundle stands there.
    """
    check_place(out)
    with folder_aside(out) as aside:
        manifest = fill_bundle(aside, contents, is_linked=False)
        if key is not None:
            (aside / SIGNATURE).write_bytes(sign_manifest((aside / MANIFEST).read_bytes(), key))
    return manifest


def check_place(out: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        UsageError: a file, or a folder without a manifest, stands at `out`.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise UsageError(f"{out}: something that is no bundle stands there; move it, or choose another --out or --name")


def fill_bundle(folder: Path, contents: Contents, is_linked: bool) -> Manifest:
    """Fill an empty folder; `is_linked` shares bytes with the cache, for bundles made to be thrown away."""
    put = _link if is_linked else shutil.copyfile
    for path, source in contents.shared.items():
        put(source, folder / path)
    for variant in contents.head.variants:
        for path in variant.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            put(contents.variants[variant.name] / Path(path).name, folder / path)
    for path, text in contents.documents.items():
        (folder / path).write_text(text, encoding="utf-8")
    golden = json.dumps(asdict(contents.golden), ensure_ascii=False, indent=1)
    (folder / contents.head.golden).write_text(golden, encoding="utf-8")
    return seal(folder, contents.head)


def no_golden() -> Golden:
    """Return golden examples for a provisional bundle: none."""
    return Golden(GOLDEN_FORMAT, (), {})


def golden(examples: Sequence[Example], tolerances: Mapping[str, float]) -> Golden:
    """Return golden examples with each variant's tolerance."""
    return Golden(GOLDEN_FORMAT, tuple(examples), dict(tolerances))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
