"""What a convert is asked to do, and what came of it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from doorstep.manifest import Manifest, Measured
from doorstep_converters.augment.plan import AugmentPlan
from doorstep_converters.data import Columns
from doorstep_converters.parity import Bound, Parity
from doorstep_converters.recipe import VariantPlan

PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Training:
    """How a checkpoint without a fitting head is fine-tuned.

    Attributes:
        is_forced: give the checkpoint a new head even though it has one.
        epochs: passes over the training data; None chooses by its size.
        learning_rate: None takes what the method is usually happy with.
        method: a key of `finetune.methods.METHODS`.
        teacher: checkpoint whose probabilities are learnt instead of the training labels.
        processes: more than one train together, each on a GPU of its own, or with its share of the cores.
        mixup: alpha of the distribution that shares for mixing embeddings are drawn from; 0 mixes nothing.
        precision: of matrix products while a large model learns: `auto` (bf16 where GPU or CPU has units for it),
            `bf16` or `fp32`.
    """

    is_forced: bool = False
    epochs: float | None = None
    learning_rate: float | None = None
    seed: int = 20261124
    method: str = "full"
    teacher: str | None = None
    processes: int = 1
    mixup: float = 0.0
    precision: str = "auto"


@dataclass(frozen=True, slots=True)
class Job:
    """One convert.

    Attributes:
        checkpoint: a folder, a hub id, or `package:NAME`.
        target: a key of `targets.TARGETS`.
        out: folder that gets `<name>.bundle`, its report and logs.
        data: labelled texts; None where the checkpoint has a head and parity on built-in texts is enough.
        task: a key of `tasks.TASKS`; None takes what the checkpoint's own files say.
        name: of the bundle; None takes the data's or the checkpoint's.
        variants: names of variants or runtimes to try; empty for all the target allows.
        max_length: tokens a text keeps, seconds of a recording; None chooses from the data.
        cache: kept stages; shared by all converts.
        key: private key to sign with.
        augment: more training texts to make; None for none.
        unlabelled: further texts for the students of a search, which the teacher alone labels; None for none.
        display_names: locale to label to the name people read.
        temperature: logits are divided by it, on the device as well (greater than 0).
        card: Markdown that is put behind the model card.
    """

    checkpoint: str
    target: str
    out: Path
    data: Path | None = None
    task: str | None = None
    name: str | None = None
    version: str | None = None
    columns: Columns = field(default_factory=Columns)
    variants: tuple[str, ...] = ()
    bound: Bound = field(default_factory=Bound)
    training: Training = field(default_factory=Training)
    max_length: int | None = None
    cache: Path = Path(".cache/doorstep")
    key: Path | None = None
    is_pickle_allowed: bool = False
    eval_limit: int = 1000
    display_names: dict[str, dict[str, str]] = field(default_factory=dict)
    augment: AugmentPlan | None = None
    unlabelled: Path | None = None
    temperature: float = 1.0
    card: str = ""

    def of_finished(self, checkpoint: str) -> "Job":
        """Return the same job for a checkpoint that has learnt already."""
        return replace(self, checkpoint=checkpoint, training=Training(), augment=None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant that was tried: packed, or left out for `failure`; `notes` says what is particular about it."""

    plan: VariantPlan
    failure: str = ""
    parity: Parity | None = None
    measured: Measured | None = None
    seconds: float = 0.0
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one stage cost, now or when it was made.

    Attributes:
        peak_rss_mib: most resident memory of its process; peak_gpu_mib: on a GPU, None where it used none.
        is_kept: it was made before and cost nothing now.
    """

    stage: str
    seconds: float
    peak_rss_mib: float | None
    is_kept: bool
    peak_gpu_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a convert.

    Attributes:
        bundle: where it is; None where no variant survived.
        candidates: every variant that was tried, in the target's order.
        excluded: variant or runtime that was not tried, and why.
        choices: target name to the variant a device of that kind would choose, and the rule.
        stages: name to seconds, and whether it was kept from an earlier convert.
        costs: of the same stages, kept ones as they were when they were made.
        reference: latency of the checkpoint in PyTorch (`p50_ms`) and its size (`bytes`), where measured.
    """

    name: str
    target: str
    bundle: Path | None
    manifest: Manifest | None
    candidates: tuple[Candidate, ...]
    excluded: dict[str, str]
    choices: dict[str, str]
    stages: dict[str, tuple[float, bool]]
    provenance: dict[str, str]
    costs: tuple[Cost, ...] = ()
