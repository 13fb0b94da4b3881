"""The xmsim command: one verb a module; heavy imports wait inside the verbs."""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from xmsim.configs.errors import XmsimError, printable


def _print_version(wanted: bool) -> None:
    if wanted:
        from xmsim import __version__

        typer.echo(f"xmsim {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line. Bad input, a full disk or Ctrl-C is one sentence and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± or − shows a question mark instead
    try:
        _app()()
    except KeyboardInterrupt:  # between the verbs' own code, while modules load
        _stop("interrupted; nothing was left half-written")


def _app() -> typer.Typer:
    from xmsim.cli.calibrate import calibrate
    from xmsim.cli.compare import compare
    from xmsim.cli.convert import convert
    from xmsim.cli.demo import demo
    from xmsim.cli.diff import diff
    from xmsim.cli.doctor import doctor
    from xmsim.cli.evaluate import evaluate
    from xmsim.cli.explain import explain
    from xmsim.cli.extract import extract
    from xmsim.cli.measure import measure
    from xmsim.cli.prune import prune
    from xmsim.cli.show import show
    from xmsim.cli.simulate import simulate
    from xmsim.cli.sweep import sweep
    from xmsim.cli.trace import info
    from xmsim.cli.tune import tune

    app = _typer(
        "On the sparsity your model really has: how fast is this accelerator, and against what you can measure today?",
        pretty_exceptions_enable=False,
        epilog="The whole walk on the built-in model:  xmsim demo",
        context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    _add(app, demo, "xmsim demo --out xmsim-demo")
    _add(app, doctor, "xmsim doctor")
    _add(app, show, "xmsim show dynax_s --out my_dynax.yaml")
    _add(app, extract, "xmsim extract xm-tiny --tokens 1024 --out xm-tiny-trace")
    trace = _typer("Look into a trace.")
    _add(trace, info, "xmsim trace info xm-tiny-trace")
    trace.callback()(lambda: None)  # keeps `info` a word of its own
    app.add_typer(trace, name="trace")
    _add(app, simulate, "xmsim simulate dynax_s dense_causal --trace xm-tiny-trace --out results")
    _add(app, sweep, "xmsim sweep dynax --trace xm-tiny-trace --out sweep")
    _add(app, measure, "xmsim measure xm-tiny-trace --method xm --out results/cpu.json")
    _add(app, evaluate, "xmsim evaluate xm-tiny --length 512 --windows 2 --method xm --method nm --out evaluation")
    _add(app, tune, "xmsim tune xm-tiny --method xm --length 512 --batch 1 --steps 4 --out xm-tiny-tuned")
    _add(app, prune, "xmsim prune xm-tiny --method wanda --sparsity 0.5 --samples 8 --out xm-tiny-pruned")
    _add(app, explain, "xmsim explain results/dynax_s.json area_mm2")
    _add(app, convert, "xmsim convert xm-tiny --format packed --out xm-tiny-packed")
    _add(app, calibrate, "xmsim calibrate --out host.json")
    _add(app, compare, "xmsim compare results/*.json --out report")
    _add(app, diff, "xmsim diff results/dynax_s.json results/dense_causal.json --out difference")
    return app


def _typer(text: str, **options: Any) -> typer.Typer:
    """Words without boxes and colours: rich, which draws them, takes half of the time of --help."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, **options)


def _add(app: typer.Typer, verb: Callable[..., None], example: str) -> None:
    """Make a function a verb; the list of verbs has its first paragraph, and its help ends with the example, unwrapped."""
    summary = " ".join(inspect.cleandoc(verb.__doc__ or "").partition("\n\n")[0].split())
    app.command(short_help=summary, epilog=f"\b\nExample:  {example}")(_answering(verb))


def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)] = False,
) -> None:
    """Options of xmsim itself; --version has answered already when this runs."""


def _answering(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, with its errors turned into one sentence and exit status 2."""

    @functools.wraps(verb)
    def answered(*args: Any, **options: Any) -> None:
        try:
            verb(*args, **options)
        except XmsimError as error:
            _stop(str(error))
        except KeyboardInterrupt:
            _stop("interrupted; files that were written are whole, and nothing is half-written")
        except (MemoryError, RuntimeError) as error:
            if not _is_lack_of_memory(error):
                raise
            _stop("not enough memory; use fewer tokens, windows or layers")

    return answered


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether Python, or torch, which has an error of its own for a GPU and words for the CPU, found too little memory."""
    torch = sys.modules.get("torch")
    of_gpu = torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    return isinstance(error, MemoryError) or of_gpu or "DefaultCPUAllocator" in str(error)


def _stop(sentence: str) -> NoReturn:
    print(f"xmsim: {printable(sentence)}", file=sys.stderr)
    sys.exit(2)
