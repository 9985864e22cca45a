"""Writes dilu_core/example/profiles.csv: latencies from a roofline formula, where no GPU was at hand to measure them.

    python bench/make_example_profiles.py            # print the table
    python bench/make_example_profiles.py --write    # replace the packaged one

Nothing here is measured. Operation counts are published ones, peaks come from the data sheet, and the four ASSUMPTIONS
are ours. For each model, with F operations, A bytes of activations and H bytes of input per sample, W bytes of weights
and k kernels, the roofline of `dilu_core.performance.RooflineModel` gets

    launch    L = max(k * LAUNCH_MS, W / bandwidth)     kernels are issued one by one, weights are read once per batch
    fixed     m = SATURATING_SHARE * W / bandwidth      below that share, the SMs cannot draw the full bandwidth
    compute   w = F / (EFFICIENCY * peak)
    bandwidth d = A / bandwidth
    host      h = H / PCIe
"""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import dataclass
from pathlib import Path

from dilu_core.performance import RooflineModel

GPU = "A100-40GB"
# NVIDIA A100 Tensor Core GPU data sheet, SXM4 40 GB: dense FP16, HBM2 bandwidth, PCIe Gen4 x16 per direction.
PEAK_FLOP_PER_MS = 312e12 / 1e3
BANDWIDTH_BYTE_PER_MS = 1555e9 / 1e3
PCIE_BYTE_PER_MS = 31.5e9 / 1e3

# ASSUMPTIONS, ours, not published and not measured.
EFFICIENCY = 0.45  # of peak, reached by large matrix products
LAUNCH_MS = 0.004  # per kernel
SATURATING_SHARE = 0.4  # of the SMs, that draw the whole memory bandwidth
SHARPNESS = 3.0
CONTEXT_MIB = 600  # CUDA context and libraries

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (128, 256, 512, 1024, 2048)  # tokens
SHARES = tuple(range(100, 1001, 100))
FP16 = 2
MIB = 2**20


@dataclass(frozen=True)
class Model:
    """Operations and bytes of one forward pass per sample, weights in parameters, and kernels launched."""

    name: str
    flop: float
    parameters: float
    activation_bytes: float
    input_bytes: float
    kernels: int
    resident_bytes: float

    def inference(self) -> RooflineModel:
        weights_ms = FP16 * self.parameters / BANDWIDTH_BYTE_PER_MS
        return RooflineModel(
            launch_ms=max(self.kernels * LAUNCH_MS, weights_ms),
            host_ms=self.input_bytes / PCIE_BYTE_PER_MS,
            fixed_ms=SATURATING_SHARE * weights_ms,
            compute_ms=self.flop / (EFFICIENCY * PEAK_FLOP_PER_MS),
            bandwidth_ms=self.activation_bytes / BANDWIDTH_BYTE_PER_MS,
            sharpness=SHARPNESS,
        )

    def training(self) -> RooflineModel:
        """A step: the backward pass costs twice the forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1), and
        Adam in mixed precision keeps 16 bytes per parameter (Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1),
        read and written once a step."""
        forward = self.inference()
        state_ms = 2 * 16 * self.parameters / BANDWIDTH_BYTE_PER_MS
        return RooflineModel(
            launch_ms=max(3 * self.kernels * LAUNCH_MS, state_ms),
            host_ms=forward.host_ms,
            fixed_ms=SATURATING_SHARE * state_ms,
            compute_ms=3 * forward.compute_ms,
            bandwidth_ms=3 * forward.bandwidth_ms,
            sharpness=SHARPNESS,
        )

    def inference_mib(self, batch: int) -> int:
        return round(CONTEXT_MIB + (FP16 * self.parameters + batch * self.resident_bytes) / MIB)

    def training_mib(self, batch: int) -> int:
        return round(CONTEXT_MIB + (16 * self.parameters + batch * self.activation_bytes) / MIB)


def convolutional(name: str, gmac: float, parameters: float, activations: float, kernels: int) -> Model:
    """GMAC, parameters: torchvision's model pages. Activations (elements): the model zoo of facebookresearch/pycls,
    each written and read once in FP16. Input: one 224 x 224 x 3 FP32 image."""
    moved = 2 * FP16 * activations
    return Model(name, 2e9 * gmac, parameters, moved, 4 * 3 * 224 * 224, kernels, moved / 4)


def transformer(name: str, layers: int, width: int, heads: int, parameters: float, tokens: int = 128) -> Model:
    """Layer sizes and parameters: the models' papers. Forward operations per token, 2 N + 2 layers tokens width with
    N = 12 layers width^2: Kaplan et al. 2020, table 1. Activation bytes per layer, 34 tokens width + 5 heads tokens^2:
    Korthikanti et al. 2022, arXiv:2205.05198, equation 1. About 15 kernels a layer."""
    weights = 12 * layers * width**2
    flop = tokens * (2 * weights + 2 * layers * tokens * width)
    per_layer = 34 * tokens * width + 5 * heads * tokens**2
    return Model(name, flop, parameters, layers * per_layer, 4 * tokens, 15 * layers, 2 * per_layer)


def decode_step(name: str, layers: int, width: int, parameters: float, context: int = 512) -> Model:
    """One token for each sequence of the batch: 2 operations per parameter, and its keys and values read once."""
    cache = 2 * layers * width * FP16 * context
    return Model(name, 2 * parameters, parameters, cache, 8, 15 * layers, cache)


SERVED = (
    convolutional("resnet50", 4.09, 25.6e6, 11.1e6, kernels=160),
    convolutional("resnet152", 11.51, 60.2e6, 22.6e6, kernels=470),
    transformer("bert-base", layers=12, width=768, heads=12, parameters=110e6),
    transformer("roberta-large", layers=24, width=1024, heads=16, parameters=355e6),
    decode_step("llama2-7b-decode", layers=32, width=4096, parameters=6.74e9),
)
PREFILLED = {
    tokens: transformer("llama2-7b-prefill", layers=32, width=4096, heads=32, parameters=6.74e9, tokens=tokens)
    for tokens in PROMPTS
}
TRAINED = {"resnet152-training": SERVED[1], "bert-base-training": SERVED[2]}
TRAINING_BATCH = 32


def table() -> str:
    """The whole CSV text, comments included."""
    out = io.StringIO()
    out.write("# Generated by bench/make_example_profiles.py from published operation counts and data-sheet peaks.\n")
    out.write("# Nothing here was measured. See README.md in this folder.\n")
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("function", "gpu_type", "batch", "sm_milli", "latency_ms", "memory_mib", "note"))

    def write(name: str, latency: RooflineModel, batch: int, memory_mib: int, column: int | None = None) -> None:
        for share in SHARES:
            time_ms = float(latency.latency_ms(batch, share))
            rows.writerow((name, GPU, column or batch, share, f"{time_ms:.3f}", memory_mib, "generated"))

    for model in SERVED:
        for batch in BATCHES:
            write(model.name, model.inference(), batch, model.inference_mib(batch))
    for tokens, model in PREFILLED.items():  # one prompt: the batch column holds its tokens
        write(model.name, model.inference(), 1, model.inference_mib(1), column=tokens)
    for name, model in TRAINED.items():
        write(name, model.training(), TRAINING_BATCH, model.training_mib(TRAINING_BATCH))
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="replace dilu_core/example/profiles.csv")
    if parser.parse_args().write:
        path = Path(__file__).resolve().parents[1] / "dilu_core" / "example" / "profiles.csv"
        path.write_text(table(), encoding="utf-8")
        print(f"wrote {path}")
    else:
        print(table(), end="")


if __name__ == "__main__":
    main()
