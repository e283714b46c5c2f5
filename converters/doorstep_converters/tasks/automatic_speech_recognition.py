"""automatic-speech-recognition: recordings with what is said in them, heads trained with CTC."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import DataError
from doorstep.golden import max_error
from doorstep.sound.ctc import CtcDecoder, CtcOptions
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint
from doorstep_converters.parity import Parity
from doorstep_converters.tasks.craft import Answers
from doorstep_converters.tasks.explained import faithfulness_note
from doorstep_converters.tasks.sound import SoundCraft
from doorstep_converters.tasks.sound_data import SoundData

if TYPE_CHECKING:
    from doorstep_converters.job import Candidate, Job
    from doorstep_converters.variants import Trial, Workbench

_BLANK, _BETWEEN, _UNKNOWN = "<pad>", "|", "<unk>"
_SPECIAL = {_BLANK, _UNKNOWN, "<s>", "</s>", "[PAD]", "[UNK]"}
_MOST_LETTERS = 8_000


class SpeechCraft(SoundCraft):
    """Answers are the transcript and its score."""

    task = "automatic-speech-recognition"
    metric = "word-accuracy"
    head = "ForCTC"
    columns = ("text", "transcript", "sentence", "transcription")
    flag = "--text-column"
    output = TensorSpec("logits", "float32", ("batch", "frames", "tokens"))
    is_ctc = True

    def names(self, data: SoundData) -> tuple[list[str], int]:
        letters = {letter for row in data.train for letter in row["truth"] if not letter.isspace()} - {_BETWEEN}
        if not 1 <= len(letters) <= _MOST_LETTERS:
            raise DataError(f"{data.source}: expected 1 to {_MOST_LETTERS} different letters, got {len(letters)}")
        return [_BLANK, _BETWEEN, *sorted(letters), _UNKNOWN], 0

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        from doorstep_converters.tasks.sound_graph import blank_of_folder, frame_seconds

        tokens = ["" if token in _SPECIAL else token for token in checkpoint.labels or ()]
        ctc = {
            "tokens": tokens,
            "blank": blank_of_folder(checkpoint.folder),
            "frame_seconds": frame_seconds(checkpoint.folder),
        }
        return {**super().options(job, checkpoint), **ctc}

    def flat(self, logits: Any, folder: Path, options: dict[str, Any]) -> dict[str, float]:
        """Write the text with transformers' own decoder, so that the device's is compared with another one."""
        from transformers import Wav2Vec2CTCTokenizer

        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder)
        text = tokenizer.decode(logits.argmax(-1))  # its skip_special_tokens would drop the blank between two letters
        for special in _SPECIAL:
            text = text.replace(special, "")
        text = " ".join(text.split())
        ctc = CtcOptions(tuple(options["tokens"]), options["blank"], options["frame_seconds"])
        return {text or "silence": CtcDecoder(ctc).transcript(logits).score}

    def compare(self, expected: Answers, got: Answers, truth: Sequence[Any] | None) -> Parity:
        """Compare transcripts; the error is that of scores where the texts are the same."""
        alike = [(one, other) for one, other in zip(expected, got, strict=True) if one.keys() == other.keys()]
        error = max((max_error(one, other) for one, other in alike), default=0.0)
        return replace(super().compare(expected, got, truth), max_abs_error=error)

    def figure(self, answers: Sequence[dict[str, float]], truth: Sequence[Any]) -> float:
        return max(0.0, 1.0 - word_error_rate([_text(answer) for answer in answers], truth))

    def notes(self, bench: "Workbench", trial: "Trial", survivors: Sequence["Candidate"]) -> dict[str, str]:
        return faithfulness_note(bench, trial, survivors, "segments", "the transcript")

    def write_processor(self, out: Path, options: dict[str, Any]) -> None:
        from transformers import Wav2Vec2CTCTokenizer

        vocabulary = out / "vocab.json"
        places = {token: place for place, token in enumerate(options["names"])}
        vocabulary.write_text(json.dumps(places, ensure_ascii=False), encoding="utf-8")
        special = {"pad_token": _BLANK, "unk_token": _UNKNOWN, "word_delimiter_token": _BETWEEN}
        Wav2Vec2CTCTokenizer(str(vocabulary), bos_token=None, eos_token=None, **special).save_pretrained(out)


def word_error_rate(found: Sequence[str], truth: Sequence[str]) -> float:
    """Return insertions, deletions and substitutions of words, as a share of the words that are right."""
    edits = sum(_edits(one.split(), other.split()) for one, other in zip(found, truth, strict=True))
    return edits / max(1, sum(len(text.split()) for text in truth))


def _edits(found: Sequence[str], truth: Sequence[str]) -> int:
    """Return the least edits that make one from the other (Wagner and Fischer, 1974)."""
    row = list(range(len(truth) + 1))
    for number, word in enumerate(found, 1):
        before, row[0] = row[0], number
        for place, right in enumerate(truth, 1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != right))
    return row[-1]


def _text(answer: dict[str, float]) -> str:
    (text,) = answer
    return "" if text == "silence" else text


CRAFT = SpeechCraft()
