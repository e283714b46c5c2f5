"""Writers of new texts: a small one that learns the user's own corpus, and a causal language model.

The small one is an n-gram model with back-off. It learns thousands of texts in under a second, and recombines what the
corpus says in ways that the corpus does not; a neural model of that size and data says the same, later.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from doorstep.errors import CheckpointError
from doorstep_converters.memory import Batches

_TOKEN = re.compile(r"\s*(?:[\u3400-\u9fff]|[^\W_]+(?:['’-][^\W_]+)*|\S)")
_ORDER = 3  # tokens looked back at
_BACK_OFF = 0.25  # chance of looking back one token less than could be
_LONGEST = 120
_END = "\n"  # stands before and behind a text; no token is one
_TRIES = 8
_SHOTS, _NEW_TOKENS, _BATCH = 8, 48, 8
_REMEDY = "take a smaller --generator, a machine with more memory, or leave --generator out"


class NgramWriter:
    """Writes texts like those it has read.

    Tokens are words and signs with the space before them, Chinese characters singly.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._known = set(texts)
        self._next: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for text in texts:
            tokens = [_END] * _ORDER + _TOKEN.findall(text) + [_END]
            for place in range(_ORDER, len(tokens)):
                for length in range(_ORDER + 1):
                    self._next[tuple(tokens[place - length : place])][tokens[place]] += 1

    def write(self, rng: Random) -> str | None:
        """Return a text that is not among those read; None where eight tries give none."""
        for _ in range(_TRIES):
            text = self._sample(rng)
            if text and text not in self._known:
                return text
        return None

    def _sample(self, rng: Random) -> str:
        tokens = [_END] * _ORDER
        while len(tokens) < _LONGEST:
            length = _ORDER
            while length > 1 and (
                tuple(tokens[-length:]) not in self._next
                or len(self._next[tuple(tokens[-length:])]) == 1
                or rng.random() < _BACK_OFF
            ):
                length -= 1
            counts = self._next[tuple(tokens[-length:])]
            drawn = rng.choices(list(counts), list(counts.values()))[0]
            if drawn == _END:
                break
            tokens.append(drawn)
        return "".join(tokens[_ORDER:]).strip()


class LanguageModel:
    """A causal language model, shown eight texts a line each, that writes the next line.

    Args:
        folder: a checkpoint of transformers for causal language modelling.
        say: called with what the user should know; texts of halved batches are drawn anew, so others come out.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype="auto", device_map=_device_map()
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder}: expected a causal language model that transformers can load ({error!s:.200}); "
                "without --generator a small writer learns your own texts"
            ) from error
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._batches = Batches(_BATCH, "the language model", _REMEDY, say)

    def write(self, texts: Sequence[str], count: int, rng: Random) -> Iterator[str]:
        """Yield about `count` texts like `texts`; fewer where lines come out empty.

        Raises:
            ConversionError: one prompt does not fit into memory.
        """
        for start in range(0, count, _BATCH):
            prompts = [
                "".join(f"{' '.join(text.split())}\n" for text in rng.sample(list(texts), min(_SHOTS, len(texts))))
                for _ in range(min(_BATCH, count - start))
            ]
            seed = rng.randrange(1 << 31)
            for written in self._batches.ask(list(enumerate(prompts, seed)), self._continue):
                line = written.strip().partition("\n")[0].strip()
                if line:
                    yield line

    def _continue(self, seeded: Sequence[tuple[int, str]]) -> list[str]:
        """Return what follows prompts; the first one's number is the seed of all."""
        import torch

        prompts = [prompt for _, prompt in seeded]
        room = getattr(self._model.config, "max_position_embeddings", 1024) or 1024
        encoded = self._tokenizer(
            prompts, return_tensors="pt", padding=True, truncation=True, max_length=max(8, room - _NEW_TOKENS)
        ).to(self._model.device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seeded[0][0])
            ids = self._model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                do_sample=True,
                top_p=0.95,
                temperature=0.9,
                max_new_tokens=_NEW_TOKENS,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        texts: list[str] = self._tokenizer.batch_decode(
            ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return texts


def _device_map() -> str | None:
    """Return `auto` where there is a GPU: layers that do not fit go to the next one, or to the CPU."""
    import torch

    return "auto" if torch.cuda.is_available() else None
