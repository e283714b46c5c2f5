"""Artifacts and proof into a bundle."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from doorstep.bundle import MANIFEST, SIGNATURE, seal
from doorstep.errors import UsageError
from doorstep.files import folder_aside
from doorstep.golden import FORMAT as GOLDEN_FORMAT
from doorstep.golden import Example, Golden
from doorstep.manifest import FORMAT, Manifest, Measured, Variant, is_name
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
# tflite-runtime 2.14 has no int4, and computes nonsense from int8 weights with a scale for each channel.
_LITERT_ONLY = frozenset({"dynamic_wi4_afp32", "dynamic_wi8_afp32", "static_wi8_ai8"})
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
    inputs = tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask"))
    outputs = (TensorSpec("logits", "float32", ("batch", "classes")),)
    return variant_of(plan, inputs, outputs, measured, notes)


def variant_of(
    plan: VariantPlan,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    measured: Measured | None = None,
    notes: str = "",
) -> Variant:
    """Describe a variant of any graph; TFLite takes int32 for int64, and numbers its outputs."""
    if plan.runtime == "tflite":
        inputs = [replace(spec, dtype="int32" if spec.dtype == "int64" else spec.dtype) for spec in inputs]
        outputs = [replace(spec, source=f"output_{place}") for place, spec in enumerate(outputs)]
    folder = f"variants/{plan.name}"
    entry = f"{folder}/{ENTRIES[plan.runtime]}"
    return Variant(
        name=plan.name,
        runtime=plan.runtime,
        recipe=plan.recipe,
        entry=entry,
        files=(entry, f"{folder}/{_BESIDE[plan.runtime]}") if plan.runtime in _BESIDE else (entry,),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        requires=requirements(plan),
        measured=measured,
        notes=notes,
    )


def requirements(plan: VariantPlan) -> dict[str, str]:
    """Return the engines that run `plan`, and from which version."""
    requires = REQUIRES[plan.runtime]
    if plan.runtime == "tflite" and plan.base in _LITERT_ONLY:
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


def check_order(folder: Path, name: str, key: Path | None) -> Path:
    """Return the place of a bundle called `name`, before any work is done for it.

    Raises:
        UsageError: no manifest may hold the name, or something else stands at its place.
        SignatureError: the key cannot sign.
    """
    if not is_name(name):
        raise UsageError(
            f"name: expected letters, digits and . _ + - (at most 100, a letter or digit first), got {name[:80]!r}; "
            "give another with --name"
        )
    if key is not None:
        sign_manifest(b"", key)
    out = folder / f"{name}.bundle"
    check_place(out)
    return out


def check_place(out: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        UsageError: a file, or a folder without a manifest, stands at `out`.
    """
    if os.path.lexists(out) and not (out / MANIFEST).is_file():
        raise UsageError(f"{out}: something that is no bundle stands there; move it, or choose another --out or --name")


def fill_bundle(folder: Path, contents: Contents, is_linked: bool) -> Manifest:
    """Fill an empty folder; `is_linked` shares bytes with the cache, for bundles made to be thrown away."""
    put = _link if is_linked else shutil.copyfile
    for path, source in contents.shared.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        put(source, folder / path)
    for variant in contents.head.variants:
        for path in variant.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            put(contents.variants[variant.name] / Path(path).name, folder / path)
    for path, text in contents.documents.items():
        (folder / path).write_text(text, encoding="utf-8")
    golden = json.dumps(asdict(contents.golden), ensure_ascii=False, indent=1)
    (folder / contents.head.golden).write_text(golden, encoding="utf-8")
    return seal(folder, contents.head, is_packed=not is_linked)


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
