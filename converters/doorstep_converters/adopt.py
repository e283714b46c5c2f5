"""A model somebody already exported becomes a bundle. Nothing is assumed about how it was trained.

Input and output names, types and layouts are read from the file. What cannot be known is asked for by name. The
golden examples are recorded from the bare engine, called without doorstep's adapters.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doorstep.bundle import MANIFEST, SIGNATURE, seal
from doorstep.device import Device
from doorstep.errors import ConversionError, DataError, ParityError, UsageError
from doorstep.files import folder_aside
from doorstep.golden import Golden, compare, load_golden
from doorstep.manifest import FORMAT, Board, Manifest, Measured, Variant
from doorstep.measure import Plan, measure
from doorstep.predictor import Predictor
from doorstep.signing import sign_manifest
from doorstep.tensors import TensorSpec
from doorstep_converters.bare import BARE, Described
from doorstep_converters.card import model_card
from doorstep_converters.golden_items import record_golden
from doorstep_converters.pack import ENTRIES, REQUIRES, check_order

_RUNTIMES = {".onnx": "onnx", ".tflite": "tflite", ".xml": "openvino"}
TASKS = ("text-classification", "image-classification", "image-feature-extraction", "tensors")


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is adopted, and what its file does not say.

    Attributes:
        task: one of `TASKS`.
        labels: file with one label a line, in the order of the outputs; classifiers need it.
        tokenizer: `tokenizer.json`, or the folder that holds it; texts need it.
        options: task options, for pictures `layout`, `scale`, `mean`, `std`, `resample`.
        samples: raw items for the golden examples; without them texts and pictures made here are used.
    """

    model: Path
    out: Path
    task: str = "tensors"
    name: str | None = None
    labels: Path | None = None
    tokenizer: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    samples: tuple[Path, ...] = ()
    licence: str = ""
    key: Path | None = None


def adopt(adoption: Adoption) -> Manifest:
    """Pack an exported model as a bundle of one variant.

    Raises:
        ConversionError: the file cannot be read or does not fit the task; UsageError, DataError: something is missing.
        ParityError: doorstep answers otherwise than the bare engine.
    """
    runtime = _runtime(adoption.model)
    if adoption.task not in TASKS:
        raise UsageError(f"task: expected one of {', '.join(TASKS)}, got {adoption.task!r}")
    described = BARE[runtime].describe(adoption.model)
    inputs, outputs = _specs(described, adoption.task)
    options = _options(adoption, described, inputs, outputs)
    name = adoption.name or adoption.model.stem
    out = check_order(adoption.out, name, adoption.key)
    variant = _variant(runtime, inputs, outputs)
    with folder_aside(out) as aside:
        (aside / variant.entry).parent.mkdir(parents=True)
        shutil.copyfile(adoption.model, aside / variant.entry)
        if runtime == "openvino":
            shutil.copyfile(adoption.model.with_suffix(".bin"), (aside / variant.entry).with_suffix(".bin"))
        if adoption.tokenizer is not None:
            shutil.copyfile(_tokenizer_file(adoption.tokenizer), aside / "tokenizer.json")
        head = _head(adoption, name, options, variant)
        golden = record_golden(aside, head, BARE[runtime].run, adoption.samples)
        _write_golden(aside, golden)
        (aside / "README.md").write_text(model_card(head), encoding="utf-8")
        measured = _measure(aside, seal(aside, head), golden)
        manifest = seal(_unsealed(aside), _with_measured(head, measured), is_packed=True)
        if adoption.key is not None:
            (aside / SIGNATURE).write_bytes(sign_manifest((aside / MANIFEST).read_bytes(), adoption.key))
    return manifest


def _runtime(model: Path) -> str:
    if not model.is_file():
        raise ConversionError(f"{model}: no such file")
    if model.suffix not in _RUNTIMES:
        raise ConversionError(
            f"{model}: expected {', '.join(_RUNTIMES)}; for a Hugging Face folder use: doorstep convert"
        )
    if model.suffix == ".xml" and not model.with_suffix(".bin").is_file():
        raise ConversionError(f"{model}: its weights {model.with_suffix('.bin').name} are not beside it")
    return _RUNTIMES[model.suffix]


def _specs(described: Described, task: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Give text inputs the names tokens go by; everything else keeps the name the file has."""
    if task != "text-classification":
        return described.inputs, described.outputs
    known = ("input_ids", "attention_mask", "token_type_ids")
    renamed = []
    for spec in described.inputs:
        match = next((name for name in known if name in spec.name or name.removesuffix("s") in spec.name), None)
        if match is None:
            names = ", ".join(spec.name for spec in described.inputs)
            raise ConversionError(
                f"inputs: texts give {', '.join(known)}; the file takes {names}, and {spec.name} is none of them"
            )
        renamed.append(TensorSpec(match, spec.dtype, spec.shape, spec.pad, spec.source or spec.name))
    return tuple(renamed), described.outputs


def _options(
    adoption: Adoption, described: Described, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> dict[str, Any]:
    if adoption.task == "tensors":
        return dict(adoption.options)
    if adoption.task == "image-feature-extraction":
        _require_vector(outputs)
        return {**_shown(adoption, inputs), **adoption.options}
    if adoption.labels is None:
        raise UsageError(
            f"{adoption.task}: the names of the classes are not in the file; give them with --labels labels.txt"
        )
    labels = _read_labels(adoption.labels)
    classes = outputs[0].shape[-1]
    if isinstance(classes, int) and classes != len(labels):
        raise DataError(f"{adoption.labels}: expected {classes} labels to match the model's outputs, got {len(labels)}")
    if adoption.task == "text-classification":
        if adoption.tokenizer is None:
            raise UsageError(
                "text-classification: the tokenizer is not in the file; give it with --tokenizer tokenizer.json"
            )
        length = inputs[0].shape[-1]
        limit = length if isinstance(length, int) else adoption.options.get("max_length", 128)
        return {"labels": labels, "max_length": limit, **adoption.options}
    return {"labels": labels, **_shown(adoption, inputs), **adoption.options}


def _require_vector(outputs: tuple[TensorSpec, ...]) -> None:
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shown = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs)
        raise ConversionError(
            f"outputs: expected one vector a picture [batch, dimensions], got {shown}; export the model with its "
            "pooling, and with that output alone"
        )


def _shown(adoption: Adoption, inputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Return how pictures are shown to the model."""
    picture = _picture_options(inputs, adoption)
    _require_scale(adoption, inputs)
    return picture


def _picture_options(inputs: tuple[TensorSpec, ...], adoption: Adoption) -> dict[str, Any]:
    """Read layout and size from the one input [batch, …]."""
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        shown = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in inputs)
        raise ConversionError(f"inputs: expected one picture [batch, height, width, 3] or [batch, 3, …], got {shown}")
    layout = "NHWC" if shape[3] == 3 else "NCHW"
    height, width = shape[1:3] if layout == "NHWC" else shape[2:4]
    if not isinstance(height, int) or not isinstance(width, int):
        if {"width", "height"} <= adoption.options.keys():
            return {"layout": layout}
        raise UsageError(f"{adoption.task}: the file leaves the size open; give it with --option width=224 height=224")
    return {"layout": layout, "height": height, "width": width}


def _require_scale(adoption: Adoption, inputs: tuple[TensorSpec, ...]) -> None:
    if inputs[0].dtype.startswith("float") and "scale" not in adoption.options:
        raise UsageError(
            f"{adoption.task}: {inputs[0].name} takes {inputs[0].dtype}, and how pixels 0 to 255 become that is "
            "not in the file; give it with --option scale=0.00392157 (0 to 1), and mean=… std=… if they were used"
        )


def _read_labels(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected one label a line in UTF-8 ({error!s:.80})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _tokenizer_file(path: Path) -> Path:
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such tokenizer")
    return file


def _variant(runtime: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Variant:
    entry = f"variants/{runtime}-adopted/{ENTRIES[runtime]}"
    files = (entry, str(Path(entry).with_suffix(".bin"))) if runtime == "openvino" else (entry,)
    return Variant(
        name=f"{runtime}-adopted",
        runtime=runtime,
        recipe="as_exported",
        entry=entry,
        files=files,
        inputs=inputs,
        outputs=outputs,
        requires=REQUIRES[runtime],
    )


def _head(adoption: Adoption, name: str, options: dict[str, Any], variant: Variant) -> Manifest:
    created = datetime.now(UTC)
    return Manifest(
        format=FORMAT,
        name=name,
        version=created.strftime("%Y.%m.%d.%H%M%S"),
        created=created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        task=adoption.task,
        options=options,
        files=(),
        variants=(variant,),
        licence=adoption.licence,
        provenance={"adopted": adoption.model.name},
    )


def _write_golden(folder: Path, golden: Golden) -> None:
    (folder / "golden.json").write_text(json.dumps(asdict(golden), ensure_ascii=False, indent=1), encoding="utf-8")


def _measure(folder: Path, manifest: Manifest, golden: Golden) -> Measured:
    """Prove that doorstep answers as the bare engine did, then measure."""
    variant = manifest.variants[0]
    with Predictor.load(folder, strict=True) as predictor:
        if differences := compare(predictor, load_golden(predictor.bundle)):
            worst = max(differences, key=lambda difference: difference.error)
            raise ParityError(f"{len(differences)} golden examples differ from the bare engine, by {worst.error:.4g}")
    size = sum((folder / path).stat().st_size for path in variant.files)
    item = golden.examples[0].item
    figures = measure(Plan(str(folder), variant.name, item))
    device = Device.detect()
    return Measured(
        bytes=size,
        examples=len(golden.examples),
        agreement=1.0,
        p50_ms=round(figures.p50_ms, 3),
        p95_ms=round(figures.p95_ms, 3),
        cold_start_ms=round(figures.cold_start_ms, 1),
        peak_rss_mib=round(figures.peak_rss_mib, 1),
        board=Board(device.arch, device.cpu, tuple(sorted(device.features))),
    )


def _unsealed(folder: Path) -> Path:
    (folder / MANIFEST).unlink()
    return folder


def _with_measured(head: Manifest, measured: Measured) -> Manifest:
    return replace(head, variants=(replace(head.variants[0], measured=measured),))
