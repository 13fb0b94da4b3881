"""A table of generation runs, one after the other, that can be interrupted and taken up again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xmsim.configs.errors import XmsimError, nearest
from xmsim.configs.files import open_table, write_text
from xmsim.workloads.measuring.generation import DTYPES, GenerationPlan
from xmsim.workloads.measuring.generation_record import GenerationRecord, read_generation, write_generation
from xmsim.workloads.measuring.linear_variants import KERNELS, TORCH
from xmsim.workloads.models.shape import shipped_shapes

_LONGEST_NAME = 150
COLUMNS = ("model", "kernel", "sparsity", "batch", "context", "threads", "dtype")
EXAMPLE = (
    ("llama-3.2-1b", "packed", "0.5", "1", "128", "2", "bfloat16"),
    ("llama-3.2-1b", "bitmap", "0.5", "1", "128", "2", "bfloat16"),
    ("llama-3.2-1b", "bitmap_int8", "0.5", "1", "128", "2", "bfloat16"),
)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One row of the table."""

    model: str  # a shape, or a model as load_model takes it
    kernel: str  # timed beside torch's
    sparsity: float
    batch: int
    context: int  # tokens of the prompt
    threads: int
    dtype: str

    @property
    def file_name(self) -> str:
        """Where its result goes; rows that ask for the same share it."""
        model = self.model.rstrip("/").rpartition("/")[2]
        return f"{model}_{self.kernel}_s{self.sparsity:g}_b{self.batch}_c{self.context}_t{self.threads}_{self.dtype}.json"

    def plan(self, base: GenerationPlan) -> GenerationPlan:
        """What to measure for this row; all that the table does not say is as in `base`."""
        known = self.model in shipped_shapes() or self.model.endswith((".yaml", ".yml"))
        return replace(
            base,
            model=None if known else self.model,
            shape=self.model if known else None,
            kernels=tuple(dict.fromkeys((TORCH, self.kernel))),
            sparsity=self.sparsity,
            batch=self.batch,
            input_tokens=self.context,
            threads=self.threads,
            dtype=self.dtype,
        )


def write_example(path: Path) -> None:
    """Write a table to start from, whole or not at all.

    Raises:
        XmsimError: there is such a file already.
    """
    if path.exists():
        raise XmsimError(f"{path}: there is such a file already; choose another name or remove it")
    write_text(path, "".join(",".join(row) + "\n" for row in (COLUMNS, *EXAMPLE)))


def read_experiments(path: Path) -> tuple[Experiment, ...]:
    """Read a table with the columns COLUMNS.

    Raises:
        XmsimError: not readable, another header, or a value of the wrong kind; the text names the line.
    """
    try:
        rows = list(csv.reader(open_table(path)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise XmsimError(f"{path}: cannot be read as a table ({error}); --write-experiments makes one to start from") from error
    if not rows or tuple(cell.strip() for cell in rows[0]) != COLUMNS:
        raise XmsimError(f"{path}:1: the first line must be {','.join(COLUMNS)}")
    experiments = tuple(_experiment(path, number, row) for number, row in enumerate(rows[1:], start=2) if row)
    if not experiments:
        raise XmsimError(f"{path}: no experiment below the header; add a line")
    return experiments


def run_experiments(
    experiments: tuple[Experiment, ...], folder: Path, base: GenerationPlan, measure: Callable[[GenerationPlan], GenerationRecord]
) -> Iterator[tuple[Experiment, Path, GenerationRecord]]:
    """Measure each row whose result is not in the folder yet, and yield all of them in order with their results.

    Raises:
        XmsimError: a row cannot be measured; results of the rows before it are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for experiment in experiments:
        path = folder / experiment.file_name
        if path.exists():
            yield experiment, path, read_generation(path)
            continue
        record = measure(experiment.plan(base))
        write_generation(path, record)
        yield experiment, path, record


def _experiment(path: Path, line: int, row: list[str]) -> Experiment:
    if len(row) != len(COLUMNS):
        raise XmsimError(f"{path}:{line}: {len(row)} values, but there are {len(COLUMNS)} columns: {','.join(COLUMNS)}")
    cell = dict(zip(COLUMNS, (value.strip() for value in row), strict=True))

    def number(column: str, kind: type[int] | type[float]) -> float:
        try:
            return kind(cell[column])
        except ValueError as error:
            raise XmsimError(f"{path}:{line}: {column}: {cell[column]!r} is not a number") from error

    for column, known in (("kernel", KERNELS), ("dtype", DTYPES)):
        if cell[column] not in known:
            raise XmsimError(f"{path}:{line}: {column}: no {cell[column]}; {nearest(cell[column], known)}")
    if not cell["model"].isprintable() or not 0 < len(cell["model"].encode()) <= _LONGEST_NAME:
        raise XmsimError(f"{path}:{line}: model: a name or folder of at most {_LONGEST_NAME} bytes is needed, results are named after it")
    return Experiment(
        model=cell["model"],
        kernel=cell["kernel"],
        sparsity=number("sparsity", float),
        batch=int(number("batch", int)),
        context=int(number("context", int)),
        threads=int(number("threads", int)),
        dtype=cell["dtype"],
    )
