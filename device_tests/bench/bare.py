"""What a careful developer writes by hand: tokenizers and one engine, nothing else. Prints one line of JSON.

python bare.py ENGINE MODEL TOKENIZER TEXT ITERATIONS MAX_LENGTH
"""

import json
import sys
import time
from typing import Any


def main() -> None:
    engine, model, tokenizer_path, text, iterations, max_length = sys.argv[1:7]
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.enable_truncation(int(max_length))
    tokenizer.no_padding()

    if engine == "onnx":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def run(ids: list[int], mask: list[int]) -> Any:
            feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.array([mask], np.int64)}
            return session.run(None, feeds)[0]

    elif engine == "openvino":
        import openvino as ov

        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

        def run(ids: list[int], mask: list[int]) -> Any:
            request.infer({"input_ids": np.array([ids], np.int64), "attention_mask": np.array([mask], np.int64)})
            return request.get_output_tensor(0).data

    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=model, num_threads=1)
        runners = {
            int(key.split("_s")[1]): interpreter.get_signature_runner(key) for key in interpreter.get_signature_list()
        }

        def run(ids: list[int], mask: list[int]) -> Any:
            length = min(bucket for bucket in runners if bucket >= len(ids))
            rows = np.zeros((2, 1, length), np.int32)
            rows[0, 0, : len(ids)], rows[1, 0, : len(ids)] = ids, mask
            return runners[length](input_ids=rows[0], attention_mask=rows[1])["output_0"]

    def predict(item: str) -> tuple[int, float]:
        encoding = tokenizer.encode(item)
        logits = run(encoding.ids, encoding.attention_mask)[0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        return best, float(scores[best])

    answer = predict(text)
    report(predict, text, int(iterations), answer)


def report(predict, text: str, iterations: int, answer: object) -> None:  # type: ignore[no-untyped-def]
    """Print the moment of the first answer, the peak RSS until then, and the warm latencies."""
    first = time.monotonic()
    with open("/proc/self/status", encoding="ascii") as status:
        rss = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    latencies = []
    for number in range(iterations + 10 if iterations else 0):
        start = time.perf_counter()
        predict(text)
        if number >= 10:
            latencies.append(1e3 * (time.perf_counter() - start))
    print(json.dumps({"first": first, "rss_mib": rss, "latencies_ms": latencies, "answer": str(answer)}))


if __name__ == "__main__":
    main()
