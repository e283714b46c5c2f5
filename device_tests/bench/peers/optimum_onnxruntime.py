"""Optimum ONNX Runtime: exported as it stands, or quantized by ORTQuantizer for AVX-512 VNNI."""

from pathlib import Path

from report import Answers, Job, batches, labels_of, main  # type: ignore[import-not-found]  # isort: skip


def make(job: Job) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer  # type: ignore[import-not-found]
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # type: ignore[import-not-found]
    from transformers import AutoTokenizer

    ORTModelForSequenceClassification.from_pretrained(job.checkpoint, export=True).save_pretrained(job.made)
    AutoTokenizer.from_pretrained(job.checkpoint).save_pretrained(job.made)
    if job.options["is_int8"]:
        recipe = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
        ORTQuantizer.from_pretrained(job.made).quantize(save_dir=job.made, quantization_config=recipe)
        Path(job.made, "model.onnx").unlink()


def load(job: Job) -> Answers:
    import onnxruntime as ort
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    name = "model_quantized.onnx" if job.options["is_int8"] else "model.onnx"
    model = ORTModelForSequenceClassification.from_pretrained(job.made, file_name=name, session_options=options)
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
