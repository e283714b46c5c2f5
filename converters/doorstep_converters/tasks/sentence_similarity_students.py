"""Students of a sentence encoder: what they are called, which texts they learn from, the stages that make them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from doorstep.errors import CheckpointError, DataError, UsageError
from doorstep_converters.checkpoint import Checkpoint, find_checkpoint, find_folder, read_json
from doorstep_converters.evaluation import thin
from doorstep_converters.stages import Stage, file_digest
from doorstep_converters.students import is_small
from doorstep_converters.students.spec import StudentSpec
from doorstep_converters.tasks.sentence_similarity_recipe import read_prompts, read_recipe

if TYPE_CHECKING:
    from doorstep_converters.job import Job
    from doorstep_converters.variants import Workbench

TEACHING = "teaching.json"
"""What a student's folder says of how well it learnt."""

NEIGHBOURS = 10
_SIZES = {"static": {"w": 256, "v": 16384}, "transformer": {"l": 3, "v": 16384}}
_FEWEST, _FEWEST_TOKENS = 100, 256
_JUDGED = 2000  # held-out texts: each is compared with every other
_LONGEST = 256  # tokens of a text that are read in training
_PRETRAINED = ("ForMaskedLM", "ForPreTraining")  # heads that come with an encoder and are no task of their own


class Texts(NamedTuple):
    """Texts to learn from, to choose the best epoch by, and for figures; no text is in two of them."""

    train: list[str]
    dev: list[str]
    test: list[str]

    @classmethod
    def of(cls, source: Path, train: Sequence[str], dev: Sequence[str], test: Sequence[str]) -> "Texts":
        """Take each text once, a held-out one before one to learn from; splits that are empty get a tenth of `train`.

        Raises:
            DataError: too few different texts.
        """
        parts: dict[str, list[str]] = {"test": [], "dev": [], "train": []}
        seen: set[str] = set()
        for name, rows in (("test", test), ("dev", dev), ("train", train)):
            for text in filter(str.strip, rows):
                if text not in seen:
                    seen.add(text)
                    parts[name].append(text)
        for place, name in enumerate(("dev", "test")):
            if not parts[name]:
                parts[name] = parts["train"][place::10]
                held_out = set(parts[name])
                parts["train"] = [text for text in parts["train"] if text not in held_out]
        found = cls(parts["train"], thin(parts["dev"], _JUDGED), thin(parts["test"], _JUDGED))
        if len(found.train) < _FEWEST or min(len(found.dev), len(found.test)) <= NEIGHBOURS:
            raise DataError(
                f"{source}: expected {_FEWEST} different texts or more to learn from and {NEIGHBOURS + 1} each for dev "
                f"and test, got {', '.join(str(len(part)) for part in found)}; add texts, labels are not needed"
            )
        return found


def student_spec(source: str) -> StudentSpec:
    """Read `new:static`, `new:static-128w`, `new:transformer-2l-8192v`; sizes that are not named are usual ones.

    Raises:
        UsageError: another kind, or a size that such a student does not have.
    """
    name = source.removeprefix("new:")
    kind, *sizes = name.split("-")
    usual = _SIZES.get(kind)
    named = {size[-1:] for size in sizes}
    if usual is None or not named <= usual.keys():
        raise UsageError(
            f"{source}: expected new:static or new:transformer, with sizes as in new:static-128w-8192v (numbers of a "
            "vector, tokens) or new:transformer-2l-8192v (layers, tokens)"
        )
    spec = StudentSpec.from_name("-".join([name, *(f"{n}{unit}" for unit, n in usual.items() if unit not in named)]))
    if spec.vocabulary < _FEWEST_TOKENS:
        raise UsageError(f"{source}: expected {_FEWEST_TOKENS} tokens or more, got {spec.vocabulary}")
    return spec


def find_student(job: "Job") -> Checkpoint:
    """Check what a student that does not exist yet is to be made of.

    Raises:
        UsageError: an unknown kind of student, or no teacher.
        CheckpointError: the teacher is no sentence encoder.
        DataError: no texts to learn from.
    """
    spec = student_spec(job.checkpoint)
    if not job.training.teacher:
        raise UsageError(
            f"{job.checkpoint}: a student learns from a teacher, got none; name a sentence encoder with --teacher"
        )
    if job.data is None:
        raise DataError(f"{job.checkpoint}: a student learns from texts, got none; give them with --data")
    teacher = find_teacher(job.training.teacher, job.is_pickle_allowed)
    if spec.kind == "transformer" and is_small(teacher.model_type):
        raise CheckpointError(
            f"--teacher {teacher.source}: expected a transformer, whose layers the student takes, got "
            f"{teacher.model_type}; convert new:static with it"
        )
    return Checkpoint(job.checkpoint, Path(), spec.name, None, 0, "", False, job.checkpoint, is_new=True)


def find_teacher(source: str, is_pickle_allowed: bool) -> Checkpoint:
    """Find a sentence encoder.

    Raises:
        CheckpointError: there is none, or it is of another task.
    """
    subject = f"--teacher {source}: expected a sentence encoder"
    if source.startswith("new:"):
        raise CheckpointError(f"{subject} that is trained; name its folder")
    folder = find_folder(source, is_pickle_allowed)
    config = read_json(folder / "config.json")
    heads = [str(name) for name in config.get("architectures") or ()]
    foreign = [name for name in heads if "For" in name and not name.endswith(_PRETRAINED)]
    if config.get("doorstep_task") or (foreign and not (folder / "modules.json").is_file()):
        raise CheckpointError(f"{subject}, got one of {config.get('doorstep_task') or foreign[0]}")
    found = find_checkpoint(source, is_pickle_allowed=is_pickle_allowed, head="Model")
    read_recipe(folder)
    return found


def learn_student(job: "Job", texts: Texts, reads_default_prompt: bool, bench: "Workbench") -> Path:
    """Have the teacher read the texts and a student learn its vectors; returns the student's folder."""
    teacher = find_teacher(job.training.teacher or "", job.is_pickle_allowed)
    rows = _prompted(texts, read_prompts(teacher.folder), reads_default_prompt)
    corpus = bench.work / "corpus-to-teach.jsonl"
    corpus.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="ascii")
    folder, length = str(teacher.folder.resolve()), min(job.max_length or _LONGEST, teacher.max_length)
    common = {"max_length": length, "is_pickle_allowed": job.is_pickle_allowed}
    inputs = (teacher.digest, str(read_recipe(teacher.folder)))
    asked = {"checkpoint": folder, "corpus": str(corpus), "is_encoder": True, **common}
    job_of_teacher = "doorstep_converters.teach:answer"
    taught = bench.run(
        Stage("teach", job_of_teacher, asked, (*inputs, file_digest(corpus)), is_resumable=True), bench.cores
    )
    options = {
        "seed": job.training.seed, "epochs": job.training.epochs, "learning_rate": job.training.learning_rate,
        "train": len(texts.train), "dev": len(texts.dev), "reads": teacher.max_length, "licence": teacher.licence,
        "name": teacher.source if job.training.teacher != folder else teacher.folder.name, **common,
    }  # fmt: skip
    arguments = {
        "teacher": folder, "taught": str(taught.folder), "spec": asdict(student_spec(job.checkpoint)),
        "options": options,
    }  # fmt: skip
    job_of_student = "doorstep_converters.tasks.sentence_similarity_learning:learn"
    stage = Stage("train", job_of_student, arguments, (*inputs, taught.digest))
    return bench.run(stage, bench.cores).folder / "checkpoint"


def told(folder: Path) -> dict[str, str]:
    """Return what the model card says of a student; nothing of another checkpoint."""
    path = folder / TEACHING
    return {"taught": sentence(read_json(path))} if path.is_file() else {}


def sentence(found: dict[str, Any]) -> str:
    """Say how near a student came to its teacher."""
    before, after = found["before"], found["after"]
    return (
        f"{found['student']} by {found['teacher']} on {found['texts']} texts; on {found['held_out']} others mean "
        f"cosine to the teacher {after['cosine']:.4f} (untaught {before['cosine']:.4f}), overlap@{NEIGHBOURS} of "
        f"neighbours {after['overlap']:.4f} (untaught {before['overlap']:.4f})"
    )


def _prompted(texts: Texts, options: dict[str, Any], reads_default_prompt: bool) -> list[str]:
    """Return all texts behind prompts: held-out ones as items that name none are read, the others by turns."""
    prompts: dict[str, str] = options.get("prompts", {})
    usual = prompts.get(options.get("default_prompt", ""), "") if reads_default_prompt else ""
    befores = list(dict.fromkeys([usual, *prompts.values()]))
    turned = [befores[place % len(befores)] + text for place, text in enumerate(texts.train)]
    return [*turned, *(usual + text for text in (*texts.dev, *texts.test))]
