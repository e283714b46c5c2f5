"""Prune the vocabulary: tokens that the data never uses, out of the embedding table and of `tokenizer.json` alike.

Special tokens, single bytes and all single characters of alphabets stay, so that no word of a new text becomes unknown;
of Chinese and the like, whose characters fill whole vocabularies, those stay that the data uses. Texts of the data keep
their tokens: greedy WordPiece and the best Unigram path only lose rivals that did not win, and BPE keeps every merge
that leads to a kept token.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep_converters.prune.folder import Opened, parameters
from doorstep_converters.worker import Channel

_MARKS = ("##", "▁", "Ġ")
_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "mask_token_id")
_FIRST_DENSE = 0x2E80  # from here on, scripts whose characters are words or syllables


def prune(out: Path, channel: Channel, checkpoint: str, texts: str, size: int = 0) -> dict[str, Any]:
    """Keep the tokens that `texts` use and write `out/checkpoint`; a job of `stages`.

    Args:
        texts: JSON list of texts.
        size: keep at most so many tokens, the most frequent ones beside what must stay; 0 keeps all that are used.

    Raises:
        CheckpointError: a tokenizer of another kind than WordPiece, BPE and Unigram.
        DataError: no texts.
        UsageError: `size` is less than what must stay.
    """
    opened = Opened.load(checkpoint)
    corpus: list[str] = json.loads(Path(texts).read_text(encoding="utf-8"))
    if not corpus:
        raise DataError(f"{texts}: expected texts that show which tokens are used, got none")
    before = parameters(opened.model)
    state = json.loads(opened.tokenizer.backend_tokenizer.to_str())
    rows = opened.tokenizer(corpus, truncation=False, verbose=False)["input_ids"]
    kept = tokens_to_keep(state, Counter(token for row in rows for token in row), size, _always(opened))
    channel.progress(0.5)
    keep_rows_of_table(opened.model, kept)
    opened.tokenizer = _tokenizer(opened.tokenizer, pruned_state(state, kept))
    again = opened.tokenizer(corpus, truncation=False, verbose=False)["input_ids"]
    changed = sum([kept[token] for token in row] != old for row, old in zip(again, rows, strict=True))
    opened.write(out / "checkpoint")
    return {
        "tokens": len(kept),
        "tokens_before": len(_ids(state)),
        "texts_changed": changed / len(corpus),
        "parameters": parameters(opened.model),
        "parameters_before": before,
    }


def tokens_to_keep(state: dict[str, Any], counts: Counter[int], size: int, always: set[int]) -> list[int]:
    """Return the ids of the tokens to keep, in their order.

    Args:
        state: a `tokenizer.json`.
        counts: how often the data uses each id.
        always: ids that must stay.
    """
    by_id = {place: token for token, place in _ids(state).items()}
    must = always | {entry["id"] for entry in state["added_tokens"]}
    must |= {place for place, token in by_id.items() if _is_letter(token)}
    if state["model"]["type"] == "Unigram" and state["model"].get("unk_id") is not None:
        must.add(state["model"]["unk_id"])
    unknown = state["model"].get("unk_token")
    must |= {place for place, token in by_id.items() if token == unknown}
    if size and size < len(must):
        raise UsageError(
            f"vocabulary: expected {len(must)} tokens or more (letters, bytes and special ones), got {size}"
        )
    kept, ids, parents = set(must), _ids(state), _parents(state)
    for place, _ in counts.most_common():
        more = {ids[token] for token in _family(by_id[place], parents)}
        if not size or len(kept | more) <= size:
            kept |= more
    return sorted(kept)


def pruned_state(state: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """Return a `tokenizer.json` with nothing but the kept tokens, renumbered in their order."""
    places = {old: new for new, old in enumerate(kept)}
    model = dict(state["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [model["vocab"][old] for old in kept if old < len(model["vocab"])]
        model["unk_id"] = places.get(model["unk_id"]) if model.get("unk_id") is not None else None
    else:
        model["vocab"] = {token: places[old] for token, old in model["vocab"].items() if old in places}
    if model["type"] == "BPE":
        model["merges"] = [merge for merge in model["merges"] if _is_kept(merge, model["vocab"])]
    added = [{**entry, "id": places[entry["id"]]} for entry in state["added_tokens"]]
    renumbered = {**state, "model": model, "added_tokens": added, "padding": None, "truncation": None}
    renumbered["post_processor"] = _renumbered(state.get("post_processor"), places)
    return renumbered


def keep_rows_of_table(model: Any, kept: list[int]) -> None:
    """Keep some rows of the embedding table, and renumber the ids that the configuration names."""
    old = model.get_input_embeddings()
    places = {token: place for place, token in enumerate(kept)}
    config = model.config
    padding = None if old.padding_idx is None else places[old.padding_idx]
    new = nn.Embedding(len(kept), old.embedding_dim, padding_idx=padding)
    with torch.no_grad():
        new.weight.copy_(old.weight[kept])
    model.set_input_embeddings(new)
    config.vocab_size = len(kept)
    for name in _IDS:
        if isinstance(value := getattr(config, name, None), int):
            setattr(config, name, places.get(value))


def _always(opened: Opened) -> set[int]:
    """Return ids that must keep their number or their row: special tokens, and all up to the padding."""
    special = set(opened.tokenizer.all_special_ids)
    padding = opened.model.get_input_embeddings().padding_idx
    return special | set(range((padding or 0) + 1))  # positions of RoBERTa are counted from the padding's id


def _ids(state: dict[str, Any]) -> dict[str, int]:
    """Map every token to its id, added ones included."""
    model = state["model"]
    if model["type"] == "Unigram":
        vocabulary = {token: place for place, (token, _) in enumerate(model["vocab"])}
    elif model["type"] in ("WordPiece", "BPE"):
        vocabulary = dict(model["vocab"])
    else:
        raise CheckpointError(f"vocabulary: expected a WordPiece, BPE or Unigram tokenizer, got {model['type']}")
    return vocabulary | {entry["content"]: entry["id"] for entry in state["added_tokens"]}


def _is_letter(token: str) -> bool:
    """Tell whether a token is one byte, or one character of a script that has few."""
    if token.startswith("<0x") and token.endswith(">"):
        return True
    for mark in _MARKS:
        if token.startswith(mark) and token != mark:
            token = token[len(mark) :]
            break
    return len(token) == 1 and ord(token) < _FIRST_DENSE


def _parents(state: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Map each token of BPE to the two that its first merge joins; other kinds join none."""
    parents: dict[str, tuple[str, str]] = {}
    if state["model"]["type"] == "BPE":
        for merge in state["model"]["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            parents.setdefault(left + right, (left, right))
    return parents


def _family(token: str, parents: dict[str, tuple[str, str]]) -> set[str]:
    """Return a token and all that its merges go through."""
    family, waiting = set(), [token]
    while waiting:
        member = waiting.pop()
        if member not in family:
            family.add(member)
            waiting += parents.get(member, ())
    return family


def _is_kept(merge: Any, vocabulary: dict[str, int]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in vocabulary and right in vocabulary and left + right in vocabulary


def _renumbered(processor: Any, places: dict[int, int]) -> Any:
    """Renumber ids inside a post-processor, of whatever kind and depth."""
    if not isinstance(processor, dict):
        return processor
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_renumbered(part, places) for part in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        special = {
            name: {**entry, "ids": [places[old] for old in entry["ids"]]}
            for name, entry in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": special}
    renumbered = dict(processor)
    for name in ("sep", "cls"):
        if name in renumbered:
            token, old = renumbered[name]
            renumbered[name] = [token, places[old]]
    return renumbered


def _tokenizer(old: Any, state: dict[str, Any]) -> Any:
    """Return the tokenizer of a new state with the old one's special tokens and limits."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_max_length=old.model_max_length,
        padding_side=old.padding_side,
        **{name: str(token) for name, token in old.special_tokens_map.items() if isinstance(token, str)},
    )
