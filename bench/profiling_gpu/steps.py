"""What one run of a function is: a forward pass, a prefill, a decode step or a training step, on inputs made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

TOKENS = 128  # sequence length of encoders and GPT-2
CONTEXT = 512  # keys and values that a decode step reads
LABELS = 2
Step = Callable[[], object]
Prepared = Callable[[int], Step]


def _without_gradients(step: Step) -> Step:
    import torch

    def run() -> object:
        with torch.no_grad():
            return step()

    return run


def images(module: Any, device: str) -> Prepared:
    import torch

    side = 224 if device != "cpu" else 64

    def at(batch: int) -> Step:
        pixels = torch.randn(batch, 3, side, side, device=device, dtype=torch.bfloat16)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return _without_gradients(lambda: module(pixels))

    return at


def sequences(module: Any, device: str) -> Prepared:
    """`batch` sequences of TOKENS tokens, all of full length."""
    import torch

    def at(batch: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)
        return _without_gradients(lambda: module(input_ids=ids).logits)

    return at


def scoring(module: Any, device: str) -> Prepared:
    """As `sequences`, with logits of the next token alone and no cache kept."""
    import torch

    def at(batch: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)
        return _without_gradients(lambda: module(input_ids=ids, use_cache=False, logits_to_keep=1).logits)

    return at


def prefill(module: Any, device: str) -> Prepared:
    """One prompt of `tokens` tokens to the logits of its first answer."""
    import torch

    def at(tokens: int) -> Step:
        ids = torch.randint(0, module.config.vocab_size, (1, tokens), device=device)
        return _without_gradients(lambda: module(input_ids=ids, use_cache=False, logits_to_keep=1).logits)

    return at


def decode(module: Any, device: str) -> Prepared:
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


def training(inputs: Callable[[Any, int, str], Mapping[str, Any]], optimizer: str) -> Any:
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


def training_images(module: Any, batch: int, device: str) -> Mapping[str, Any]:
    import torch

    side = 224 if device != "cpu" else 64
    return {"x": torch.randn(batch, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)}


def training_sequences(module: Any, batch: int, device: str) -> Mapping[str, Any]:
    import torch

    return {"input_ids": torch.randint(0, module.config.vocab_size, (batch, TOKENS), device=device)}
