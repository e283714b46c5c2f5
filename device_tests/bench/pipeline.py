"""The same job through `transformers.pipeline` in PyTorch: `python pipeline.py CHECKPOINT TEXT ITERATIONS`."""

import sys

from bare import report  # type: ignore[import-not-found]  # isort: skip


def main() -> None:
    checkpoint, text, iterations = sys.argv[1:4]
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    classify = pipeline("text-classification", model=checkpoint, device="cpu")
    report(classify, text, int(iterations), classify(text))


if __name__ == "__main__":
    main()
