"""The functions measured: real architectures built from their configuration with random weights, nothing downloaded.

Inference runs in bfloat16 from resident inputs to logits on the device; a training step is forward, loss, backward and
optimizer in bfloat16 autocast over float32 weights. Random weights take the time that trained ones take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from profiling_gpu import steps
from profiling_gpu.steps import LABELS, Prepared


@dataclass(frozen=True)
class Function:
    """One row name of the table.

    Parameters
    ----------
    weights
        Functions with the same key share one module in memory.
    build
        (device, tiny) -> module, under the key `weights`.
    prepare
        (module, device) -> what makes the step for a batch size: one forward pass, or one training step.
    batches
        Batch sizes; for a prefill the tokens of its one prompt.
    package
        That the architecture comes from, besides torch.
    """

    name: str
    weights: str
    build: Callable[[str, bool], Any]
    prepare: Callable[[Any, str], Prepared]
    batches: tuple[int, ...]
    trains: bool = False
    package: str = "transformers"


def _resnet(layers: int, *, trains: bool = False) -> Callable[[str, bool], Any]:
    def build(device: str, tiny: bool) -> Any:
        import torch
        import torchvision.models as models

        make = getattr(models, "resnet18" if tiny else f"resnet{layers}")
        with torch.device(device):
            module = make(weights=None)
        module = module.to(memory_format=torch.channels_last)
        return module.train() if trains else module.eval().to(torch.bfloat16)

    return build


def _transformer(model: str, configuration: str, sizes: Mapping[str, int], *, trains: bool = False) -> Any:
    """Builds `transformers.MODEL(CONFIGURATION(**sizes))`; a tiny one keeps the shape of the code path alone."""

    def build(device: str, tiny: bool) -> Any:
        import torch
        import transformers

        small = {name: min(value, _TINY[name]) if name in _TINY else value for name, value in sizes.items()}
        config = getattr(transformers, configuration)(**(small if tiny else sizes))
        config._attn_implementation = "sdpa"
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32 if trains else torch.bfloat16)
        try:
            with torch.device(device):
                module = getattr(transformers, model)(config)
        finally:
            torch.set_default_dtype(before)
        _leave_masks_out(module)
        return module.train() if trains else module.eval()

    return build


def _leave_masks_out(module: Any) -> None:
    """Attention without a mask tensor: causal by flag where the model is, over everything where it is not.

    All sequences are of full length, so the answer is the same; but while a CUDA graph is captured, transformers would
    make a mask even so, and attention with a mask tensor has no flash kernel.
    """
    code = sys.modules[type(module).__module__]
    for name in ("create_causal_mask", "create_bidirectional_mask"):
        if hasattr(code, name):
            setattr(code, name, lambda *_, **__: None)


_TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 128, "vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4,
}  # fmt: skip

_ROBERTA_LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "vocab_size": 50265, "max_position_embeddings": 514, "num_labels": LABELS,
}  # fmt: skip
_GPT2_LARGE = {"n_embd": 1280, "n_layer": 36, "n_head": 20}
_LLAMA_7B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip
_BERT_BASE = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "vocab_size": 30522, "num_labels": LABELS,
}  # fmt: skip


_BATCHES = (1, 2, 4, 8, 16, 32)

_LLAMA = _transformer("LlamaForCausalLM", "LlamaConfig", _LLAMA_7B)
_BERT_MODEL = "BertForSequenceClassification"
FUNCTIONS: tuple[Function, ...] = (
    Function("resnet50", "resnet50", _resnet(50), steps.images, _BATCHES, package="torchvision"),
    Function("resnet152", "resnet152", _resnet(152), steps.images, _BATCHES, package="torchvision"),
    Function("bert-base", "bert-base", _transformer(_BERT_MODEL, "BertConfig", _BERT_BASE), steps.sequences, _BATCHES),
    Function(
        "roberta-large",
        "roberta-large",
        _transformer("RobertaForSequenceClassification", "RobertaConfig", _ROBERTA_LARGE),
        steps.sequences,
        _BATCHES,
    ),
    Function(
        "gpt2-large", "gpt2-large", _transformer("GPT2LMHeadModel", "GPT2Config", _GPT2_LARGE), steps.scoring, _BATCHES
    ),
    Function("llama2-7b-decode", "llama2-7b", _LLAMA, steps.decode, _BATCHES),
    Function("llama2-7b-prefill", "llama2-7b", _LLAMA, steps.prefill, (128, 256, 512, 1024, 2048)),
    Function(
        "resnet50-training",
        "resnet50-training",
        _resnet(50, trains=True),
        steps.training(steps.training_images, "SGD"),
        (32,),
        trains=True,
        package="torchvision",
    ),
    Function(
        "bert-base-training",
        "bert-base-training",
        _transformer(_BERT_MODEL, "BertConfig", _BERT_BASE, trains=True),
        steps.training(steps.training_sequences, "AdamW"),
        (32,),
        trains=True,
    ),
)
"""Batch sizes as of the packaged example, so that a measured table can take its place."""
