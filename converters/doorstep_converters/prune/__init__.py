"""Pruning: checkpoint in, smaller checkpoint out. Each job's tensors are really smaller, so every engine gains.

    layers       whole layers, those that change their input least
    heads        attention heads, across all layers
    width        feed-forward neurons, across all layers
    vocabulary   tokens that the data never uses, from the embedding table and the tokenizer alike
    magnitude    single weights to zero: nothing runs faster, but the download shrinks

What was lost is learnt again by distillation from the checkpoint that was pruned.
"""


def register() -> None:
    """Tell transformers' Auto classes about pruned architectures; more than once does no harm."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from doorstep_converters.prune.pruned import PRUNED

    for config, model in PRUNED.values():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
