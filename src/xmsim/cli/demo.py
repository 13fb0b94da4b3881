"""xmsim demo: the whole walk on the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MACHINES = ("dynax_s", "dynax_l", "dense_causal", "dense")
METHOD = "xm"
DECODERS = ("dynax_l", "dense_causal")
DECODED_TOKENS = 2
EVALUATED_WINDOWS = 2  # for a standard error at all; all of the text are 18 of 1024 tokens, and take minutes


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trace, the results and the report.")] = Path("xmsim-demo"),
    tokens: Annotated[int, typer.Option(min=64, max=2048, help="Context, in tokens.")] = 1024,
) -> None:
    """Extract, simulate, measure, evaluate and compare on the built-in model, then say in a few lines what came out."""
    from xmsim.accel_models import load_accelerator
    from xmsim.accel_models.runs import result_file_name, simulate_trace
    from xmsim.cli.report_models import REPORT_MODELS
    from xmsim.reference.kernels.native import offered_isa
    from xmsim.reports.compare import compare
    from xmsim.sim.result import write_result
    from xmsim.workloads.evaluation import write_evaluation
    from xmsim.workloads.extraction.extract import extract_trace
    from xmsim.workloads.measurement import write_measurement
    from xmsim.workloads.measuring.attention import measure_trace
    from xmsim.workloads.measuring.decode_attention import measure_decode
    from xmsim.workloads.measuring.host import load_warning
    from xmsim.workloads.methods.library import load_method
    from xmsim.workloads.models.built_in import NAME, training_record
    from xmsim.workloads.models.loading import load_model
    from xmsim.workloads.quality.evaluate import evaluate_model
    from xmsim.workloads.texts.corpora import shipped_text

    trace_folder, results = out / "trace", out / "results"
    _step(f"extract   {NAME}, {tokens} tokens of the shipped text -> {trace_folder}")
    trace = extract_trace(NAME, tokens=tokens, out=trace_folder)
    files = []
    for name in MACHINES:
        _step(f"simulate  {name} -> {results}")
        record = simulate_trace(trace, load_accelerator(name))
        files.append(results / result_file_name(record))
        write_result(files[-1], record)
    _step(f"measure   dense and {METHOD} attention on this host -> {results}")
    if warning := load_warning():
        _step(f"          {warning}")
    files.append(results / "host.json")
    write_measurement(files[-1], measure_trace(trace, load_method(METHOD)))
    _step(f"decode    the last {DECODED_TOKENS} tokens on {' and '.join(DECODERS)}, and on this host -> {results}")
    machines = [load_accelerator(name) for name in DECODERS]
    for machine in machines:
        record = simulate_trace(trace, machine, decode_tokens=DECODED_TOKENS)
        files.append(results / result_file_name(record))
        write_result(files[-1], record)
    if offered_isa():  # with the method of the first machine, prediction and all
        files.append(results / "host.decode.json")
        write_measurement(files[-1], measure_decode(trace, machines[0].config.method.load(), DECODED_TOKENS))
    _step(f"evaluate  the machines' methods on {EVALUATED_WINDOWS} windows of {tokens} tokens -> {results}")
    files.append(results / "evaluation.json")
    methods = [load_accelerator(name).config.method.load() for name in MACHINES]
    write_evaluation(files[-1], evaluate_model(load_model(NAME), methods, shipped_text(), lengths=(tokens,), windows=EVALUATED_WINDOWS))
    _step(f"compare   -> {out / 'report'}")
    outcome = compare(files, out / "report", REPORT_MODELS)

    typer.echo()
    for line in (_model_line(NAME, training_record()), *outcome.headlines, f"The report: {outcome.report}"):
        typer.echo(line)


def _model_line(name: str, record: dict[str, Any]) -> str:
    test = record["test"]
    return (
        f"{name}: {record['parameters'] / 1e6:.1f} M parameters trained on {record['trained_tokens'] / 1e6:.1f} M tokens, "
        f"perplexity {test['perplexity']:.1f} a token and {test['bits_per_byte']:.2f} bits a byte on the WikiText-2 test split."
    )


def _step(text: str) -> None:
    typer.echo(text)
