"""`transformers.pipeline` in PyTorch, eager or compiled."""

from report import BATCH, Answers, Job, main  # type: ignore[import-not-found]  # isort: skip


def load(job: Job) -> Answers:
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    classify = pipeline("text-classification", model=job.checkpoint, device="cpu")
    if job.options.get("is_compiled"):
        classify.model = torch.compile(classify.model)
    return Answers(
        lambda text: classify(text)[0]["label"],
        lambda texts: [result["label"] for result in classify(texts, batch_size=BATCH)],
    )


if __name__ == "__main__":
    main(load)
