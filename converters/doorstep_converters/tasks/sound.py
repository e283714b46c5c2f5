"""What crafts for sound share: recordings with a truth, a network of its own or a wav2vec 2.0, waveforms in."""

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep.errors import CheckpointError, DataError
from doorstep.tensors import TensorSpec
from doorstep_converters.checkpoint import Checkpoint, find_sound_checkpoint
from doorstep_converters.evaluation import Evaluation, items_digest, thin
from doorstep_converters.export.exportable import Exportable
from doorstep_converters.recipe import VariantPlan
from doorstep_converters.tasks.craft import Answered, Craft, Timed, calibration_items
from doorstep_converters.tasks.sound_data import SoundData, probe_sounds, read_sounds
from doorstep_converters.tasks.sound_spec import SoundSpec

if TYPE_CHECKING:
    from doorstep_converters.job import Job
    from doorstep_converters.variants import Workbench
    from doorstep_converters.worker import Channel

INPUTS = (TensorSpec("waveform", "float32", ("batch", "samples")), TensorSpec("lengths", "int64", ("batch",)))
_HIGHEST_RATE = 16_000  # of a network that is trained here; speech has little above half of it
_SECONDS = 10.0
_FRAME_SECONDS = 0.02  # from one frame of a new network to the next
_PROCESSOR = "preprocessor_config.json"


class SoundCraft(Craft):
    """A task whose items are recordings.

    Attributes:
        head: how architectures with the task's head end.
        columns, flag: of the truth in a table, and the option that names another.
        output: the graph's output.
        is_ctc: a frame has an answer, not a recording.
    """

    head = ""
    columns: tuple[str, ...] = ()
    flag = ""
    output = TensorSpec("logits", "float32", ("batch", "classes"))
    is_ctc = False
    is_taught = True

    def find(self, job: "Job") -> Checkpoint:
        if job.checkpoint.startswith("new:"):
            SoundSpec.from_name(job.checkpoint)
            return Checkpoint(job.checkpoint, Path(), job.checkpoint, None, 0, "", False, job.checkpoint, is_new=True)
        return find_sound_checkpoint(job.checkpoint, self.head, job.is_pickle_allowed)

    def read(self, job: "Job") -> SoundData | None:
        named = job.columns.text if self.is_ctc else job.columns.label
        columns = (named,) if named else self.columns
        return read_sounds(job.data, job.cache, columns, self.flag) if job.data else None

    def learn(self, job: "Job", source: Checkpoint, data: SoundData | None, bench: "Workbench") -> Checkpoint:
        if source.labels is not None and not job.training.is_forced:
            return source
        if data is None or not data.train:
            raise DataError(f"{source.source}: it has no head yet; give recordings with their truth with --data")
        names, blank = self.names(data)
        options: dict[str, Any] = {**asdict(job.training), "is_ctc": self.is_ctc, "names": names, "blank": blank}
        options |= {"rate": min(data.rate, _HIGHEST_RATE), "spec": None, "shortest": 1, "teacher": ""}
        if source.is_new:
            options["spec"] = SoundSpec.from_name(source.source)
        else:
            from doorstep_converters.tasks.sound_graph import read_processor, shortest_of_folder

            options["rate"] = read_processor(source.folder)["sampling_rate"]
            options["shortest"] = shortest_of_folder(source.folder)
        if source.is_new:
            options["shortest"] = round(options["rate"] * 0.06)
        if job.training.teacher:
            plain = replace(job, checkpoint=job.training.teacher, training=replace(job.training, teacher=None))
            teacher = self.learn(plain, self.find(plain), data, bench)
            if list(teacher.labels or ()) != list(names):
                raise CheckpointError(f"{job.training.teacher}: this teacher does not know the data's labels alone")
            self._check_teacher(job.training.teacher, teacher.folder, source, options)
            options |= {"teacher": str(teacher.folder.resolve()), "teacher_digest": teacher.digest}
        output = self.run_training(bench, None if source.is_new else source, data, options)
        trained = self.find(replace(job, checkpoint=str(output.folder / "checkpoint")))
        return replace(trained, source=source.source, licence=source.licence)

    def _check_teacher(self, name: str, teacher: Path, student: Checkpoint, options: dict[str, Any]) -> None:
        """Refuse a teacher that hears other samples, or whose answers stand at other times, than the student's."""
        from doorstep_converters.tasks.sound_graph import blank_of_folder, frame_seconds, rate_of_folder

        if (rate := rate_of_folder(teacher)) != options["rate"]:
            raise CheckpointError(
                f"{name}: expected a teacher that reads {options['rate']} samples a second, as the student does, got "
                f"{rate}; give recordings of {rate} samples a second, or a teacher trained on these"
            )
        if not self.is_ctc:
            return
        seconds = _FRAME_SECONDS if student.is_new else frame_seconds(student.folder)
        if abs(frame_seconds(teacher) - seconds) > 1e-6:
            raise CheckpointError(
                f"{name}: expected a teacher with a frame every {seconds:g} s, as the student has, got "
                f"{frame_seconds(teacher):g} s; take another teacher, or train without one"
            )
        if (blank := blank_of_folder(teacher)) != options["blank"]:
            raise CheckpointError(
                f"{name}: expected class {options['blank']} as the blank of its CTC head, got {blank}"
            )

    def names(self, data: SoundData) -> tuple[list[str], int]:
        """Return the classes of a head for this data, and which of them is the blank."""
        raise NotImplementedError

    def plan(self, job: "Job", data: SoundData | None, checkpoint: Checkpoint) -> Evaluation:
        probes = probe_sounds(job.cache)
        if data is None:
            return Evaluation(tuple(probes), (), 0, tuple(probes[::2]), (), items_digest(probes), 0)
        self.check_truth(data, checkpoint)
        items, truth, final = list(probes), [], len(probes)
        for rows in (thin(data.dev, job.eval_limit), thin(data.test, job.eval_limit)):
            final = len(items) if rows else final
            items += [{"file": row["file"]} for row in rows]
            truth += [row["truth"] for row in rows]
        calibration = calibration_items([{"file": row["file"]} for row in data.train]) or tuple(probes)
        digest = items_digest([items, calibration, data.digest])
        return Evaluation(tuple(items), tuple(truth), final, calibration, (), digest, len(probes))

    def check_truth(self, data: SoundData, checkpoint: Checkpoint) -> None:
        """Refuse data that the checkpoint's head cannot answer."""

    def options(self, job: "Job", checkpoint: Checkpoint) -> dict[str, Any]:
        from doorstep_converters.tasks.sound_graph import rate_of_folder, shortest_of_folder

        return {
            "rate": rate_of_folder(checkpoint.folder),
            "max_seconds": float(job.max_length or self._seconds(job)),
            "min_samples": shortest_of_folder(checkpoint.folder),
        }

    def _seconds(self, job: "Job") -> float:
        data = self.read(job)
        return max(2.0, math.ceil(3 * data.longest) / 2) if data else _SECONDS

    def longest(self, options: dict[str, Any]) -> int:
        return int(options["rate"] * options["max_seconds"])

    def specs(self, folder: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return INPUTS, (self.output,)

    def refusal(self, plan: VariantPlan, checkpoint: Checkpoint) -> str:
        return ""

    def load(self, folder: Path, is_pickle_allowed: bool) -> Exportable:
        from doorstep_converters.tasks.sound_graph import graph_of, load_model, rate_of_folder

        graph = graph_of(load_model(folder, self.is_ctc, is_pickle_allowed), folder)
        return Exportable(graph, *self.specs(folder), shortest=rate_of_folder(folder) // 2)

    def answer(self, folder: Path, items: Sequence[Any], out: Path, plan: dict[str, Any]) -> Answered:
        from doorstep.sound.items import SoundOptions, SoundReader
        from doorstep_converters.tasks.sound_graph import Asked

        sound = {name: plan["options"][name] for name in ("rate", "max_seconds", "min_samples")}
        reader = SoundReader(SoundOptions(**sound), INPUTS)
        asked = Asked(folder, self.is_ctc, plan["is_pickle_allowed"])
        answers = []
        for place, item in enumerate(items):
            feeds = reader.collate(reader.read([item]))
            answers.append(self.flat(asked.logits(feeds["waveform"], feeds["lengths"]), folder, plan["options"]))
            plan["progress"]((place + 1) / len(items))
        calibration = [reader.collate(reader.read([item])) for item in plan["calibration"]]
        return Answered(answers, {}, tuple(calibration))

    def flat(self, logits: Any, folder: Path, options: dict[str, Any]) -> dict[str, float]:
        """Return one answer of the checkpoint as a flat dict; `logits` are those of one recording (worker)."""
        raise NotImplementedError

    def train(self, out: Path, channel: "Channel", checkpoint: Path | None, data: Any, options: dict[str, Any]) -> Any:
        from doorstep_converters.tasks.sound_train import train_sound

        figures = train_sound(out, channel, checkpoint, data, options)
        if checkpoint is not None and (checkpoint / _PROCESSOR).is_file():
            shutil.copyfile(checkpoint / _PROCESSOR, out / _PROCESSOR)  # the new head hears what the old one did
        self.write_processor(out, options)
        return figures

    def write_processor(self, out: Path, options: dict[str, Any]) -> None:
        """Write beside trained weights how they want their sound (worker)."""

    def timed(self, evaluation: Evaluation, options: dict[str, Any]) -> Timed:
        known = evaluation.items[evaluation.probes :] or evaluation.items
        ordered = sorted(known, key=lambda item: Path(item["file"]).stat().st_size)
        return Timed(ordered[len(ordered) // 2], {})

    def source_digest(self) -> str:
        from doorstep_converters.students import audio_cnn

        digest = hashlib.sha256(super().source_digest().encode())
        for path in (*sorted(Path(__file__).parent.glob("sound*.py")), Path(audio_cnn.__file__)):
            digest.update(path.read_bytes())
        return digest.hexdigest()
