"""Back-translation: into another language and back again, with a pair of sequence-to-sequence checkpoints.

Source: Sennrich et al. 2016 (arXiv:1511.06709); sampling on the way back, as Edunov et al. 2018 (arXiv:1808.09381).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from doorstep.errors import CheckpointError
from doorstep_converters.memory import Batches

_BATCH = 16
_LONGEST = 128
_REMEDY = "take a smaller translator, or a machine with more memory"


class Translators:
    """There and back.

    Args:
        say: called with what the user should know; texts of halved batches are drawn anew, so others come back.
    """

    def __init__(self, there: Path, back: Path, say: Callable[[str], None]) -> None:
        self._there = _Translator(there, say)
        self._back = _Translator(back, say)

    def translate(self, texts: Sequence[str], rng: Random) -> Iterator[str]:
        """Yield each text as it comes back.

        Raises:
            ConversionError: one text does not fit into memory.
        """
        for start in range(0, len(texts), _BATCH):
            abroad = self._there.translate(texts[start : start + _BATCH], None)
            yield from self._back.translate(abroad, rng.randrange(1 << 31))


class _Translator:
    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForSeq2SeqLM.from_pretrained(
                folder, use_safetensors=True, local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder}: expected a sequence-to-sequence checkpoint that transformers can load ({error!s:.200})"
            ) from error
        if torch.cuda.is_available():
            self._model.to("cuda")
        self._batches = Batches(_BATCH, f"translator {folder.name}", _REMEDY, say)

    def translate(self, texts: Sequence[str], seed: int | None) -> list[str]:
        """Return translations: the likeliest, or sampled where there is a seed."""
        return list(self._batches.ask(list(enumerate(texts)), lambda part: self._translated(part, seed)))

    def _translated(self, numbered: Sequence[tuple[int, str]], seed: int | None) -> list[str]:
        encoded = self._tokenizer(
            [text for _, text in numbered], return_tensors="pt", padding=True, truncation=True, max_length=_LONGEST
        ).to(self._model.device)
        ways: dict[str, Any] = {"num_beams": 2} if seed is None else {"do_sample": True, "top_k": 10, "num_beams": 1}
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed((seed or 0) + numbered[0][0])
            ids = self._model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=_LONGEST,
                **ways,
            )
        translated: list[str] = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        return translated
