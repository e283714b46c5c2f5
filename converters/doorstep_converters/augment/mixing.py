"""Mixing: pieces of two texts, of two users' behaviour, or of two texts' embeddings.

Sources: sentence splicing in the manner of SSMix, Yoon et al. 2021 (arXiv:2106.08062), within a class; mixup, Zhang et
al. 2018 (arXiv:1710.09412), on embeddings as Guo et al. 2019 (arXiv:1905.08941).
"""

import re
from collections.abc import Iterator, Sequence
from random import Random

import torch

_BREAK = re.compile(r"(?<=[,.!?;，。！？；、])\s*|\s+")


def splice(one: str, other: str, rng: Random) -> str:
    """Return the beginning of `one` and the end of `other`, each cut at a break near its middle."""
    head, _ = _cut(one, rng)
    _, tail = _cut(other, rng)
    joint = "" if _is_chinese(head[-1:]) or head[-1:] in "，。！？；、" else " "
    return f"{head}{joint}{tail}".strip()


def splice_sequences(
    sequences: Sequence[Sequence[int]], count: int, seed: int, shortest: int = 3
) -> Iterator[list[int]]:
    """Yield `count` behaviour sequences that begin as one user's and end as another's.

    Where the two share an item the cut is there, so that every step but one was really made by somebody; else each is
    cut at its middle. No item comes twice in a row at the joint; what is shorter than `shortest` is not used.
    """
    usable = [sequence for sequence in sequences if len(sequence) >= shortest]
    if len(usable) < 2:
        return
    rng = Random(f"{seed}/sequences")
    for _ in range(count):
        one, other = rng.sample(usable, 2)
        shared = [place for place, item in enumerate(one[:-1]) if place and item in set(other[:-1])]
        if shared:
            cut = rng.choice(shared)
            yield [*one[: cut + 1], *other[list(other).index(one[cut]) + 1 :]]
            continue
        head, tail = one[: len(one) // 2], other[len(other) // 2 :]
        yield [*head, *(tail[1:] if head[-1] == tail[0] else tail)]


def mixup(
    embeddings: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, alpha: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix each text of a batch with another one, in the shares lambda and 1 - lambda, lambda ~ Beta(alpha, alpha).

    Args:
        embeddings: [batch, sequence, size]; mask: [batch, sequence]; labels: [batch, classes] probabilities.

    Returns:
        The three, mixed; a token that either text has is seen.
    """
    share = _beta(alpha, generator)
    order = torch.randperm(len(embeddings), generator=generator).to(embeddings.device)
    mixed = share * embeddings + (1 - share) * embeddings[order]  # [batch, sequence, size]
    return mixed, torch.maximum(mask, mask[order]), share * labels + (1 - share) * labels[order]


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), folded to at least one half so that a text keeps the larger share of itself."""
    pair = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = float(pair[0] / pair.sum().clamp_min(1e-12))
    return max(share, 1 - share)


def _cut(text: str, rng: Random) -> tuple[str, str]:
    """Cut at one of the breaks of the middle half; a text without any at its middle."""
    low, high = len(text) // 4, len(text) - len(text) // 4
    breaks = [match.end() for match in _BREAK.finditer(text) if low <= match.end() <= high]
    place = rng.choice(breaks) if breaks else len(text) // 2
    return text[:place].rstrip(), text[place:].lstrip()


def _is_chinese(character: str) -> bool:
    return "\u3400" <= character <= "\u9fff"
