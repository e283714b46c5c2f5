"""Optimum Intel: exported to OpenVINO as it stands, or with 8-bit weights."""

from report import Answers, Job, batches, labels_of, main  # type: ignore[import-not-found]  # isort: skip


def make(job: Job) -> None:
    from optimum.intel import OVModelForSequenceClassification  # type: ignore[import-not-found]
    from transformers import AutoTokenizer

    model = OVModelForSequenceClassification.from_pretrained(
        job.checkpoint, export=True, load_in_8bit=job.options["is_int8"], compile=False
    )
    model.save_pretrained(job.made)
    AutoTokenizer.from_pretrained(job.checkpoint).save_pretrained(job.made)


def load(job: Job) -> Answers:
    from optimum.intel import OVModelForSequenceClassification
    from transformers import AutoTokenizer

    model = OVModelForSequenceClassification.from_pretrained(job.made, ov_config={"INFERENCE_NUM_THREADS": "1"})
    tokenizer = AutoTokenizer.from_pretrained(job.made)
    labels = labels_of(job.checkpoint)

    def answer(texts: list[str]) -> list[str]:
        logits = model(**tokenizer(texts, padding=True, return_tensors="np")).logits  # [batch, classes]
        return [labels[place] for place in logits.argmax(1)]

    return Answers(
        lambda text: answer([text])[0],
        lambda texts: [label for batch in batches(texts) for label in answer(batch)],
    )


if __name__ == "__main__":
    main(load, make)
