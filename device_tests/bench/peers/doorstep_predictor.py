"""doorstep, installed from its wheel."""

from report import BATCH, Answers, Job, main  # type: ignore[import-not-found]  # isort: skip


def load(job: Job) -> Answers:
    from doorstep import Predictor

    predictor = Predictor.load(job.options["bundle"], variant=job.options["variant"], threads=1)
    return Answers(
        lambda text: predictor.predict(text).label,
        lambda texts: [result.label for result in predictor.predict_many(texts, batch_size=BATCH)],
    )


if __name__ == "__main__":
    main(load)
