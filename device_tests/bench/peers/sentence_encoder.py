"""sentence-transformers with its ONNX or OpenVINO backend: the checkpoint's encoder, and a linear head behind it."""

from typing import Any

from report import BATCH, Answers, Job, main  # type: ignore[import-not-found]  # isort: skip


def make(job: Job) -> None:
    import head  # type: ignore[import-not-found]
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

    encoder = SentenceTransformer(job.checkpoint, backend=job.options["backend"], device="cpu")
    encoder.save_pretrained(job.made)
    head.fit(job, encoder.encode)


def load(job: Job) -> Answers:
    import head
    from sentence_transformers import SentenceTransformer

    backend = job.options["backend"]
    encoder = SentenceTransformer(job.made, backend=backend, device="cpu", model_kwargs=_one_thread(backend))
    return head.answers(job, lambda texts: encoder.encode(texts, batch_size=BATCH, show_progress_bar=False))


def _one_thread(backend: str) -> dict[str, Any]:
    if backend == "openvino":
        return {"ov_config": {"INFERENCE_NUM_THREADS": "1"}}
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return {"session_options": options, "provider": "CPUExecutionProvider"}


if __name__ == "__main__":
    main(load, make)
