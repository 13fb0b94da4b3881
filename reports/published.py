"""What papers claim, with the conditions they claim it under; a series of its own, never mixed with what we simulate or measure.

Speedups only. Where a paper's text was not at hand, `source` says who quotes it.
"""

from __future__ import annotations

from dataclasses import dataclass

DYNAX = "ASPLOS 2025, doi 10.1145/3676641.3715991, as a public reading note quotes it"
SALO_V2 = "TCAD 2024, abstract"
SPARAMX = "arXiv 2502.12444, abstract"
SPINFER = "EuroSys 2025, doi 10.1145/3689031.3717481"
SPDP = "arXiv 2607.21985"
TEAL = "arXiv 2408.14690"


@dataclass(frozen=True, slots=True)
class Claim:
    """One published speedup."""

    subject: str  # what, over what
    quantity: str  # of what
    value: float
    up_to: bool  # the best case, and not a mean
    conditions: str
    source: str
    ours: str  # the name of our value of the same quantity (reports/own_values.py); empty: we have none
    difference: str  # how the conditions of ours differ

    @property
    def of_gpu(self) -> bool:
        """Whether a value of ours needs a GPU that was measured."""
        return " gpu" in self.ours


CLAIMS = (
    Claim(
        subject="DynaX over Sanger",
        quantity="attention, speed",
        value=1.99,
        up_to=False,
        conditions="BERT-base; what is made equal (multipliers, clock, area) is not known; 28 nm synthesis and a cycle-level model",
        source=DYNAX,
        ours="dynax_s over sanger, speed",
        difference="ours: this trace, DynaX-S, each machine with its own method; Sanger's pass as its released RTL has it, which is slow",
    ),
    Claim(
        subject="DynaX over Sanger",
        quantity="attention, energy",
        value=5.16,
        up_to=False,
        conditions="BERT-base; whether DRAM counts, and at which node Sanger is taken, is not known",
        source=DYNAX,
        ours="dynax_s over sanger, energy",
        difference="ours: this trace, both at the node of their YAML, from component tables; with and without DRAM",
    ),
    Claim(
        subject="DynaX over SALOv2",
        quantity="attention, speed",
        value=1.50,
        up_to=False,
        conditions="BERT-base; what is made equal is not known",
        source=DYNAX,
        ours="dynax_s over salo_v2, speed",
        difference="ours: this trace; SALOv2 keeps its pattern of each block, at 1 GHz, and hides its matching",
    ),
    Claim(
        subject="DynaX over SALOv2",
        quantity="attention, energy",
        value=4.20,
        up_to=False,
        conditions="BERT-base; whether DRAM counts is not known",
        source=DYNAX,
        ours="dynax_s over salo_v2, energy",
        difference="ours: this trace, both at the node of their YAML, from component tables; with and without DRAM",
    ),
    Claim(
        subject="DynaX over a GPU",
        quantity="attention, speed",
        value=35.14,
        up_to=False,
        conditions="mean over models; which GPU, which attention kernel and which batch is not known",
        source=DYNAX,
        ours="dynax over a measured gpu, speed",
        difference="ours: raw milliseconds against the fastest dense attention of the GPU that was measured, one window",
    ),
    Claim(
        subject="SALOv2 over Sanger",
        quantity="attention, speed",
        value=1.71,
        up_to=False,
        conditions="short sequences; reduced to 128 multipliers at 1 GHz; the two sides do not count the same projections",
        source=SALO_V2,
        ours="salo_v2 over sanger, speed",
        difference="ours: this trace, attention alone on both sides; Sanger's pass as its released RTL has it",
    ),
    Claim(
        subject="SparAMX over stock PyTorch",
        quantity="whole model, time per output token",
        value=1.42,
        up_to=False,
        conditions="Sapphire Rapids with AMX; Llama-3-8B, half of the weights zero, bfloat16, 32 cores, as far as is known",
        source=SPARAMX,
        ours="sparse weights, time per output token",
        difference="ours: another CPU with fewer cores and no AMX, so less bandwidth to share; a smaller model; torch is slower there",
    ),
    Claim(
        subject="SparAMX, KV cache",
        quantity="attention of a token, speed",
        value=1.14,
        up_to=False,
        conditions="Sapphire Rapids; K and V unstructured (0.3 and 0.5 zero at 16K, as far as is known), read once for each query head",
        source=SPARAMX,
        ours="pruned kv cache, speed",
        difference="ours: attention alone, and K and V are read once for the heads that share them, so there is less to save",
    ),
    Claim(
        subject="SpInfer over cuBLAS",
        quantity="linear layer, speed",
        value=1.66,
        up_to=False,
        conditions="RTX 4090 (GDDR), half of the weights zero, mean over shapes, few tokens; about 1.06 in a rerun by others on A100 (HBM)",
        source=f"{SPINFER}, as summaries quote it",
        ours="tca-bme over torch on a gpu",
        difference="ours: the same storage format, our kernel, over torch's linear layer on the GPU that was measured",
    ),
    Claim(
        subject="SpInfer over Flash-LLM and others",
        quantity="whole model, tokens a second",
        value=1.58,
        up_to=True,
        conditions="OPT-13B pruned to 0.6 by Wanda, RTX 4090, batch 32",
        source=f"{SPINFER}, abstract",
        ours="",
        difference="",
    ),
    Claim(
        subject="SPDP over SpInfer",
        quantity="linear layer, speed",
        value=1.24,
        up_to=False,
        conditions="A10G, one token, sparse weights and sparse activations together, mean over shapes; 1.37 on L4",
        source=f"{SPDP}, abstract",
        ours="spdp over tca-bme on a gpu",
        difference="ours: our kernels for both, half of the weights and half of the inputs",
    ),
    Claim(
        subject="TEAL over a dense model",
        quantity="whole model, time per output token",
        value=1.53,
        up_to=True,
        conditions="Llama-2-7B, A6000, batch 1, 0.4 of the activations dropped; 1.31 on A100",
        source=f"{TEAL}, abstract",
        ours="",
        difference="",
    ),
    Claim(
        subject="TEAL over a dense model",
        quantity="whole model, time per output token",
        value=1.8,
        up_to=True,
        conditions="Llama-2-7B, A6000, batch 1, half of the activations dropped; 1.40 on A100",
        source=f"{TEAL}, abstract",
        ours="teal over torch on a gpu",
        difference="ours: linear layers alone, over torch's linear layer on the GPU that was measured",
    ),
)
