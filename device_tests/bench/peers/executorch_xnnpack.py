"""ExecuTorch on XNNPACK, linear layers in dynamic int8."""

from typing import Any

from report import Answers, Job, labels_of, main  # type: ignore[import-not-found]  # isort: skip

_LONGEST = 128


def make(job: Job) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
        XnnpackDynamicallyQuantizedPartitioner,
        XnnpackPartitioner,
    )
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (  # type: ignore[import-not-found]
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e  # type: ignore[import-not-found]
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(job.checkpoint).eval()
    AutoTokenizer.from_pretrained(job.checkpoint).save_pretrained(job.made)
    feeds = (torch.ones(1, 16, dtype=torch.long),)  # one text needs no padding and no mask
    shapes = ({1: torch.export.Dim("sequence", min=2, max=_LONGEST)},)
    quantizer = XNNPACKQuantizer()
    quantizer.set_module_type(torch.nn.Linear, get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True))
    prepared = prepare_pt2e(torch.export.export(_Logits(model), feeds, dynamic_shapes=shapes).module(), quantizer)
    prepared(*feeds)
    exported = torch.export.export(convert_pt2e(prepared), feeds, dynamic_shapes=shapes)
    lowered = to_edge_transform_and_lower(
        exported, partitioner=[XnnpackDynamicallyQuantizedPartitioner(), XnnpackPartitioner()]
    )
    with open(f"{job.made}/model.pte", "wb") as file:
        file.write(lowered.to_executorch().buffer)


def load(job: Job) -> Answers:
    import torch
    from executorch.runtime import Runtime  # type: ignore[import-not-found]
    from tokenizers import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(f"{job.made}/tokenizer.json")
    tokenizer.no_padding()
    method = Runtime.get().load_program(f"{job.made}/model.pte").load_method("forward")
    labels = labels_of(job.checkpoint)

    def answer(text: str) -> str:
        return labels[int(method.execute([torch.tensor([tokenizer.encode(text).ids])])[0].argmax())]

    return Answers(answer, lambda texts: [answer(text) for text in texts])


def _Logits(model: Any) -> Any:  # noqa: N802 -- a class, made where torch is there
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any) -> Any:
            return self.model(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits

    return Logits()


if __name__ == "__main__":
    main(load, make)
