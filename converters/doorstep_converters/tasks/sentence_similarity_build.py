"""Students of a sentence encoder before they learn, and as a sentence-transformers folder afterwards."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from doorstep_converters.students import register
from doorstep_converters.students.keep import keep_student
from doorstep_converters.students.space import rareness, token_words
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.students.transformer import shrink
from doorstep_converters.students.vocabulary import cut_tokenizer, student_tokenizer
from doorstep_converters.tasks.sentence_similarity_encoder import SentenceEncoder
from doorstep_converters.tasks.sentence_similarity_pooling import Pooled
from doorstep_converters.tasks.sentence_similarity_recipe import POOLING, PROMPTS, read_recipe

_LIMITS = "sentence_bert_config.json"


def build(
    spec: StudentSpec, folder: Path, teacher: SentenceEncoder, texts: Sequence[str], space: torch.Tensor,
    max_length: int,
) -> SentenceEncoder:  # fmt: skip
    """Return an untaught student: the teacher's token vectors in `space`, or its layers, evenly spread.

    Args:
        space: [student's width, teacher's width].
    """
    if spec.kind == "transformer":
        tokenizer, tokens = cut_tokenizer(teacher.tokenizer, texts, spec.vocabulary)
        model = shrink(teacher.pooled.model, tokens, spec.layers, 0, None)
        model.config.pad_token_id = tokenizer.pad_token_id
        pooled = Pooled(model, None, teacher.pooled.pooling, list(teacher.pooled.layers))
        return SentenceEncoder(pooled.to("cpu").eval(), tokenizer, max_length)
    register()
    tokenizer = student_tokenizer(teacher.tokenizer, texts, spec.vocabulary)
    words = token_words(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    rows = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    table = torch.from_numpy(teacher.vectors(words)) @ space.T  # [tokens, student's width]
    config = AutoConfig.for_model("doorstep-static", vocab_size=len(tokenizer), hidden_size=len(space))
    model = AutoModel.from_config(config)
    with torch.no_grad():
        model.table.weight.copy_(table * rareness(rows, len(words))[:, None])
    return SentenceEncoder(Pooled(model, None, ("mean",), []).eval(), tokenizer, max_length)


def write(out: Path, student: SentenceEncoder, teacher: Path, spec: StudentSpec, options: dict[str, Any]) -> None:
    """Write a student as a sentence-transformers folder, with its teacher's prompts.

    Args:
        options: `reads` (tokens a text may have) and `licence`.
    """
    from safetensors.torch import save_file

    pooled = student.pooled.to("cpu")
    keep_student(pooled.model, student.tokenizer, options["licence"], out)
    recipe = read_recipe(teacher)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for path, layer in zip(recipe.dense, pooled.layers, strict=True) if spec.kind == "transformer" else ():
        (out / path).mkdir()
        shutil.copyfile(teacher / path / "config.json", out / path / "config.json")
        save_file(
            {f"linear.{name}": part.contiguous() for name, part in layer[0].state_dict().items()},
            out / path / "model.safetensors",
        )
        modules.append(("Dense", path))
    if recipe.is_normalized:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    plain = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(modules)
    ]
    (out / "modules.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    (out / "1_Pooling").mkdir()
    flags = {name: kind in pooled.pooling for name, kind in POOLING.items()}
    pooling = {"word_embedding_dimension": pooled.model.config.hidden_size, **flags}
    if list(pooled.pooling) != [kind for kind in POOLING.values() if kind in pooled.pooling]:
        pooling["pooling_mode"] = list(pooled.pooling)  # flags have an order of their own
    (out / "1_Pooling/config.json").write_text(json.dumps(pooling, indent=1), encoding="utf-8")
    (out / _LIMITS).write_text(json.dumps({"max_seq_length": options["reads"], "do_lower_case": False}), "utf-8")
    if (teacher / PROMPTS).is_file():
        shutil.copyfile(teacher / PROMPTS, out / PROMPTS)
