"""model2vec: static word vectors distilled from the checkpoint's encoder, and a linear head behind them."""

from report import Answers, Job, main  # type: ignore[import-not-found]  # isort: skip


def make(job: Job) -> None:
    import head  # type: ignore[import-not-found]
    from model2vec.distill import distill  # type: ignore[import-not-found]

    words = distill(job.checkpoint)
    words.save_pretrained(job.made)
    head.fit(job, words.encode)


def load(job: Job) -> Answers:
    import head
    from model2vec import StaticModel  # type: ignore[import-not-found]

    words = StaticModel.from_pretrained(job.made)
    return head.answers(job, words.encode)


if __name__ == "__main__":
    main(load, make)
