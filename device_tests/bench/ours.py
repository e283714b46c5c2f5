"""The same job through doorstep: `python ours.py BUNDLE VARIANT TEXT ITERATIONS MAX_LENGTH`."""

import sys

from doorstep import LoadOptions, Predictor

from bare import report  # type: ignore[import-not-found]  # isort: skip


def main() -> None:
    bundle, variant, text, iterations, max_length = sys.argv[1:6]
    options = LoadOptions(task_options={"max_length": int(max_length)})
    predictor = Predictor.load(bundle, variant=variant, threads=1, options=options)
    answer = predictor.predict(text)
    report(predictor.predict, text, int(iterations), (answer.label, answer.score))


if __name__ == "__main__":
    main()
