"""What a careful developer writes by hand: tokenizers and one engine, on the file that doorstep packed."""

from collections.abc import Callable
from typing import Any

from report import Answers, Job, batches, labels_of, main  # type: ignore[import-not-found]  # isort: skip


def load(job: Job) -> Answers:
    import numpy as np
    from tokenizers import Tokenizer

    engine, model = job.options["engine"], job.options["model"]
    tokenizer = Tokenizer.from_file(job.options["tokenizer"])
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    run = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}[engine](model)
    labels = labels_of(job.checkpoint)

    def answer(texts: list[str]) -> list[str]:
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)  # [batch, sequence]
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        return [labels[place] for place in run(ids, mask).argmax(1)]

    return Answers(
        lambda text: answer([text])[0],
        lambda texts: [label for batch in batches(texts) for label in answer(batch)],
    )


def _onnx(model: str) -> Callable[..., Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _openvino(model: str) -> Callable[..., Any]:
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(ids: Any, mask: Any) -> Any:
        request.infer({"input_ids": ids, "attention_mask": mask})
        return request.get_output_tensor(0).data

    return run


def _tflite(model: str) -> Callable[..., Any]:
    """Return a call that runs row by row, each padded to the next fixed shape of the file."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    runners = {
        int(key.split("_s")[1]): interpreter.get_signature_runner(key) for key in interpreter.get_signature_list()
    }

    def row(ids: Any, mask: Any) -> Any:
        length = int(mask.sum())
        fixed = min(bucket for bucket in runners if bucket >= length)
        rows = np.zeros((2, 1, fixed), np.int32)
        rows[0, 0, :length], rows[1, 0, :length] = ids[:length], mask[:length]
        return runners[fixed](input_ids=rows[0], attention_mask=rows[1])["output_0"][0]

    return lambda ids, mask: np.stack([row(*pair) for pair in zip(ids, mask, strict=True)])


if __name__ == "__main__":
    main(load)
