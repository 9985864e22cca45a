"""The functions measured: real architectures built from their configuration with random weights, nothing downloaded.

Inference runs in bfloat16 from resident inputs to logits on the device; a training step is forward, loss, backward and
optimizer in bfloat16 autocast over float32 weights. Random weights take the time that trained ones take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TOKENS = 128  # sequence length of encoders and GPT-2
CONTEXT = 512  # keys and values that a decode step reads
LABELS = 2
Step = Callable[[], object]
Prepared = Callable[[int], Step]


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
    """

    name: str
    weights: str
    build: Callable[[str, bool], Any]
    prepare: Callable[[Any, str], Prepared]
    batches: tuple[int, ...]
    trains: bool = False


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


def _without_gradients(step: Step) -> Step:
    import torch

    def run() -> object:
        with torch.no_grad():
            return step()

    return run


def _images(module: Any, device: str) -> Prepared:
    import torch

    side = 224 if device != "cpu" else 64

    def at(batch: int) -> Step:
        pixels = torch.randn(batch, 3, side, side, device=device, dtype=torch.bfloat16)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return _without_gradients(lambda: module(pixels))

    return at


def _sequences(module: Any, device: str) -> Prepared:
    """`batch` sequences of TOKENS tokens, all of full length."""
    import torch

    def at(batch: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)
        return _without_gradients(lambda: module(input_ids=ids).logits)

    return at


def _scoring(module: Any, device: str) -> Prepared:
    """As `_sequences`, with logits of the next token alone and no cache kept."""
    import torch

    def at(batch: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)
        return _without_gradients(lambda: module(input_ids=ids, use_cache=False, logits_to_keep=1).logits)

    return at


def _prefill(module: Any, device: str) -> Prepared:
    """One prompt of `tokens` tokens to the logits of its first answer."""
    import torch

    def at(tokens: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (1, tokens), device=device)
        return _without_gradients(lambda: module(input_ids=ids, use_cache=False, logits_to_keep=1).logits)

    return at


def _decode(module: Any, device: str) -> Prepared:
    """One token for each of `batch` sequences, the last of CONTEXT tokens."""
    import torch
    from transformers.cache_utils import Cache

    def at(batch: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (batch, 1), device=device)
        position = torch.tensor([CONTEXT - 1], device=device)
        layers = [_full_layer(module.config, batch, position) for _ in range(module.config.num_hidden_layers)]
        cache = Cache(layers=layers)
        row = position.unsqueeze(0)
        return _without_gradients(
            lambda: module(input_ids=ids, position_ids=row, past_key_values=cache, use_cache=True).logits
        )

    return at


def _full_layer(config: Any, batch: int, position: Any) -> Any:
    """Keys and values of CONTEXT tokens whose last is written again by every step, so that all steps cost the same."""
    import torch
    from transformers.cache_utils import StaticLayer

    heads = config.num_key_value_heads
    shape = (batch, heads, CONTEXT, config.hidden_size // config.num_attention_heads)
    keys = torch.randn(shape, device=position.device, dtype=torch.bfloat16)
    values = torch.randn(shape, device=position.device, dtype=torch.bfloat16)

    class FullLayer(StaticLayer):
        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            keys.index_copy_(2, position, key_states)
            values.index_copy_(2, position, value_states)
            return keys, values

        def get_seq_length(self, *_: Any) -> int:
            return CONTEXT - 1

    layer = FullLayer(max_cache_len=CONTEXT)
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    layer.dtype, layer.device = torch.bfloat16, position.device
    return layer


def _training(inputs: Callable[[Any, int, str], Mapping[str, Any]], optimizer: str) -> Any:
    """Steps of `optimizer` (a name in torch.optim) on one fixed batch."""

    def prepare(module: Any, device: str) -> Prepared:
        import torch
        from torch.nn.functional import cross_entropy

        kind = torch.device(device).type
        rate = {"lr": 1e-4, "momentum": 0.9} if optimizer == "SGD" else {"lr": 1e-5, "capturable": kind == "cuda"}
        stepper = getattr(torch.optim, optimizer)(module.parameters(), fused=kind == "cuda", **rate)

        def at(batch: int) -> Step:
            given = inputs(module, batch, device)
            classes = torch.randint(0, LABELS, (batch,), device=device)

            def step() -> object:
                stepper.zero_grad(set_to_none=True)
                with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=False):  # a captured step must cast anew
                    found = module(**given)
                    loss = cross_entropy(getattr(found, "logits", found).float(), classes)
                with torch.autograd.set_multithreading_enabled(False):  # another thread has not this one's share of SMs
                    loss.backward()
                stepper.step()
                return loss

            return step

        return at

    return prepare


def _training_images(module: Any, batch: int, device: str) -> Mapping[str, Any]:
    import torch

    side = 224 if device != "cpu" else 64
    return {"x": torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)}


def _training_sequences(module: Any, batch: int, device: str) -> Mapping[str, Any]:
    import torch

    return {"input_ids": torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)}


_BATCHES = (1, 2, 4, 8, 16, 32)

_LLAMA = _transformer("LlamaForCausalLM", "LlamaConfig", _LLAMA_7B)
_BERT_MODEL = "BertForSequenceClassification"
FUNCTIONS: tuple[Function, ...] = (
    Function("resnet50", "resnet50", _resnet(50), _images, _BATCHES),
    Function("resnet152", "resnet152", _resnet(152), _images, _BATCHES),
    Function("bert-base", "bert-base", _transformer(_BERT_MODEL, "BertConfig", _BERT_BASE), _sequences, _BATCHES),
    Function(
        "roberta-large",
        "roberta-large",
        _transformer("RobertaForSequenceClassification", "RobertaConfig", _ROBERTA_LARGE),
        _sequences,
        _BATCHES,
    ),
    Function(
        "gpt2-large", "gpt2-large", _transformer("GPT2LMHeadModel", "GPT2Config", _GPT2_LARGE), _scoring, _BATCHES
    ),
    Function("llama2-7b-decode", "llama2-7b", _LLAMA, _decode, _BATCHES),
    Function("llama2-7b-prefill", "llama2-7b", _LLAMA, _prefill, (128, 256, 512, 1024, 2048)),
    Function(
        "resnet50-training",
        "resnet50-training",
        _resnet(50, trains=True),
        _training(_training_images, "SGD"),
        (32,),
        trains=True,
    ),
    Function(
        "bert-base-training",
        "bert-base-training",
        _transformer(_BERT_MODEL, "BertConfig", _BERT_BASE, trains=True),
        _training(_training_sequences, "AdamW"),
        (32,),
        trains=True,
    ),
)
"""Batch sizes as of the packaged example, so that a measured table can take its place."""
