"""What a sentence-transformers folder says of the way from tokens to a vector."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doorstep.errors import CheckpointError
from doorstep_converters.checkpoint import read_json

_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")
PROMPTS = "config_sentence_transformers.json"
_VECTOR = "sentence_embedding"
_FOLDER = re.compile(r"\d+_\w+")  # of a module, beside the checkpoint and not elsewhere
_STEPS = re.compile("(Transformer)?(Pooling)?(Dense)*(Normalize)?")
# In the order in which sentence-transformers sets the vectors side by side, whatever the order in the file.
POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a sentence-transformers folder says of the way from tokens to a vector.

    Attributes:
        pooling: names of poolings whose vectors stand side by side.
        dense: folders of linear layers behind them, in order.
    """

    pooling: tuple[str, ...] = ("mean",)
    dense: tuple[str, ...] = ()
    is_normalized: bool = True


def read_recipe(folder: Path) -> Recipe:
    """Read `modules.json` and what it names; a folder without it is pooled by the mean and normalized.

    Raises:
        CheckpointError: a module, an order of modules or a pooling that doorstep does not know.
    """
    if not (folder / "modules.json").is_file():
        return Recipe()
    plain = _json(folder / "modules.json")
    if not isinstance(plain, list) or not all(isinstance(module, dict) for module in plain):
        raise CheckpointError(f"{folder}/modules.json: expected a list of modules")
    modules = [(str(one.get("type", "")).rpartition(".")[2], str(one.get("path", ""))) for one in plain]
    if strange := [path for _, path in modules if path and not _FOLDER.fullmatch(path)]:
        raise CheckpointError(f"{folder}/modules.json: expected folders such as 1_Pooling, got {strange[0]!r:.60}")
    if unknown := [kind for kind, _ in modules if kind not in _KNOWN]:
        raise CheckpointError(f"{folder}: expected modules {', '.join(_KNOWN)}, got {', '.join(unknown)}")
    if not _STEPS.fullmatch("".join(kind for kind, _ in modules)):
        got = ", ".join(kind for kind, _ in modules)
        raise CheckpointError(f"{folder}: expected one Pooling, then Dense layers, then Normalize, got {got}")
    poolings = [_pooling(folder / path) for kind, path in modules if kind == "Pooling"]
    dense = tuple(path for kind, path in modules if kind == "Dense")
    return Recipe(poolings[0] if poolings else ("mean",), dense, any(kind == "Normalize" for kind, _ in modules))


def _pooling(folder: Path) -> tuple[str, ...]:
    """Read which poolings a folder names: by a flag each, or by a name or a list of names under `pooling_mode`."""
    plain = read_json(folder / "config.json")
    names = plain.get("pooling_mode")
    if names is None:
        names = [name for key, name in POOLING.items() if plain.get(key)]
    listed = names if isinstance(names, list) else [names]
    wanted = tuple(str(name).removesuffix("_tokens") for name in listed)
    if not wanted or not set(wanted) <= set(POOLING.values()) or plain.get("include_prompt") is False:
        raise CheckpointError(f"{folder}: its pooling is none of {', '.join(POOLING.values())}, with prompts")
    return wanted


def read_prompts(folder: Path) -> dict[str, Any]:
    """Read the options `prompts` and `default_prompt`, as far as the folder says them."""
    path = folder / PROMPTS
    if not path.is_file():
        return {}
    plain = read_json(path)
    prompts = {str(name): str(text) for name, text in (plain.get("prompts") or {}).items() if text}
    default = plain.get("default_prompt_name")
    return {"prompts": prompts, **({"default_prompt": default} if default in prompts else {})}


def load_dense(folder: Path) -> Any:
    """Load one linear layer and its activation."""
    from safetensors.torch import load_file
    from torch import nn

    plain = read_json(folder / "config.json")
    if plain.get("use_residual") or plain.get("module_input_name", _VECTOR) != _VECTOR:
        raise CheckpointError(f"{folder}: expected a layer on the {_VECTOR}, without a residual; got {plain!s:.200}")
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder}: no model.safetensors; load and save the folder with sentence-transformers")
    activation = str(plain.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in ("Identity", "Tanh", "ReLU", "GELU"):
        raise CheckpointError(f"{folder}: expected Identity, Tanh, ReLU or GELU behind the layer, got {activation}")
    layer = nn.Linear(plain["in_features"], plain["out_features"], bias=plain.get("bias", True))
    weights = load_file(folder / "model.safetensors")
    layer.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in weights.items()})
    return nn.Sequential(layer, getattr(nn, activation)())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON ({error!s:.100})") from error
