"""The teacher's token space: a vector for every token of a student, from the teacher alone.

Each token is read by the teacher as a text of its own, principal components keep what differs most, and for an
average of tokens the rare ones weigh more. Sources: https://github.com/MinishLab/model2vec; Arora et al., A Simple but
Tough-to-Beat Baseline for Sentence Embeddings (smooth inverse frequency), ICLR 2017.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from doorstep_converters.export.classifier import load_model
from doorstep_converters.tokenizer import load_tokenizer

_BATCH = 256
_SMOOTHING = 1e-3  # frequency at which a token counts half
_LONGEST = 16  # tokens of the teacher's that one token of the student's may be


def token_space(teacher: Path, tokens: Sequence[str], size: int) -> torch.Tensor:
    """Return vectors [tokens, size] float32 with a mean square of 1; fewer components are filled up with zeros."""
    model, tokenizer = load_model(teacher), load_tokenizer(teacher)
    words = token_words(tokens)
    parts = []
    for start in range(0, len(words), _BATCH):
        batch = tokenizer(
            words[start : start + _BATCH], padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        )
        parts.append(text_vectors(model, batch["input_ids"], batch["attention_mask"]))
    return principal(torch.cat(parts), size)


def token_words(tokens: Sequence[str]) -> list[str]:
    """Return what each token is as a text of its own."""
    return [token.removeprefix("##").replace("▁", " ") for token in tokens]


@torch.no_grad()
def text_vectors(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the teacher's vector of each text [batch, width]: its last layer, averaged over the tokens."""
    return averaged(
        model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True), attention_mask
    )


def averaged(answer: Any, attention_mask: torch.Tensor) -> torch.Tensor:
    """Average the last hidden states [batch, sequence, width] of an answer; a student's are averaged already."""
    last = answer.hidden_states[-1]
    if last.dim() == 2:
        return last
    mask = attention_mask.unsqueeze(2).to(last.dtype)  # [batch, sequence, 1]
    return (last * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def principal(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Project vectors [rows, width] on their first `size` principal components, mean square 1."""
    centred = vectors - vectors.mean(dim=0)
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    kept = centred @ components[:size].T  # [rows, at most size]
    kept = kept / kept.square().mean().sqrt().clamp(min=1e-12)
    return torch.nn.functional.pad(kept, (0, size - kept.shape[1]))


def rareness(rows: Sequence[Sequence[int]], vocabulary: int) -> torch.Tensor:
    """Return each token's weight [vocabulary] after its frequency in the corpus: near 1 where rare, lower where not."""
    counts = Counter(token for row in rows for token in row)
    total = max(1, counts.total())
    frequency = torch.tensor([counts[token] / total for token in range(vocabulary)])
    return _SMOOTHING / (_SMOOTHING + frequency)
