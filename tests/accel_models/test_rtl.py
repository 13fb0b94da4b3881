"""Our own Verilog, simulated with Icarus, equals register-level models and golden traces edge by edge; its areas can be made again."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from xmsim.accel_models import dynax_execute_array as execute
from xmsim.accel_models import dynax_predictor_array as predictor
from xmsim.accel_models.dynax_psum_softmax import row_share
from xmsim.accel_models.dynax_top_k import REPAIRED, PruningConfig, trace_top_k
from xmsim.accel_models.fixed_point import wrap
from xmsim.accel_models.rtl.synthesise import AREAS_FORMAT, AREAS_VERSION, SCRIPT, UNITS, SynthesisError, main, synthesise, yosys_version
from xmsim.accel_models.shift_exp import exp_table, shift_exp_array
from xmsim.accel_models.systolic import PeArrayConfig
from xmsim.accel_models.systolic_array import output_stationary
from xmsim.accel_models.two_way_exp import two_way_exp
from xmsim.configs.record import read_record
from xmsim.sim.schedule import Int64Array

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
RTL = ROOT / "accel_models" / "rtl"
COMMITTED = ROOT / "reports" / "measured" / "rtl_areas_osu018.json"
LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")  # where Debian's qflow-tech-osu018 puts it
SEEDS = range(3)

needs_iverilog = pytest.mark.skipif(not (shutil.which("iverilog") and shutil.which("vvp")), reason="iverilog is not installed")
needs_yosys = pytest.mark.skipif(
    not (shutil.which("yosys") and LIBERTY.exists()), reason="yosys or the Liberty file of qflow-tech-osu018 is not installed"
)


class Field(NamedTuple):
    """Words of `bits` bits, side by side in a port or in signals of the unit under test, the first in the low bits."""

    bits: int
    signals: list[str]  # one signal with all words, or one for each word
    words: int
    signed: bool = True


Drive = dict[str, tuple[int, Int64Array]]  # port → bits of a word, int64 [edges, words] or [edges]
Simulate = Callable[..., dict[str, Int64Array]]


@pytest.fixture
def simulate(tmp_path: Path) -> Simulate:
    """Simulates a unit: simulate(module, parameters, drive, after, before) → by name of the field, int64 [edges, words].

    Fields of `after` are read after each edge, those of `before` at the end of the cycle that the edge ends.
    """

    def run(
        module: str, parameters: dict[str, int], drive: Drive, after: dict[str, Field], before: dict[str, Field] | None = None
    ) -> dict[str, Int64Array]:
        before = before or {}
        place = 0
        is_clocked = "input clock," in (RTL / f"{module}.v").read_text(encoding="utf-8")
        connections = [".clock(clock)"] if is_clocked else []
        words: list[tuple[int, Int64Array]] = []
        for port, (bits, values) in drive.items():
            values = values.reshape(len(values), -1)
            width = bits * values.shape[1]
            connections.append(f".{port}(vector[{place}+:{width}])")
            words += [(bits, values[:, number]) for number in range(values.shape[1])]
            place += width
        edges = len(words[0][1])
        vectors = [_hex([(bits, int(column[edge])) for bits, column in words]) for edge in range(edges)]
        (tmp_path / "vectors.hex").write_text("\n".join(vectors) + "\n")
        setting = ", ".join(f".{name}({value})" for name, value in parameters.items())
        shown = [f"{{{', '.join(s for field in reversed(f.values()) for s in reversed(field.signals))}}}" for f in (before, after) if f]
        samples = [f'$write("%b ", {signals});' for signals in shown]
        bench = f"""
module bench;
    reg clock = 0;
    reg [{place - 1}:0] vectors [0:{edges - 1}];
    reg [{place - 1}:0] vector;
    integer number;
    {module} #({setting}) dut ({", ".join(connections)});
    initial begin
        $readmemh("{tmp_path / "vectors.hex"}", vectors);
        for (number = 0; number < {edges}; number = number + 1) begin
            vector = vectors[number];
            #1 {samples[0] if before else ""}
            clock = 1;
            #1 {samples[-1]}
            clock = 0;
            #1 $display("");
        end
    end
endmodule
"""
        (tmp_path / "bench.v").write_text(bench)
        compiled = tmp_path / "bench.vvp"
        sources = [str(path) for path in (tmp_path / "bench.v", *sorted(RTL.glob("*.v")))]
        subprocess.run(["iverilog", "-g2005", "-Wall", "-s", "bench", "-o", str(compiled), *sources], check=True)
        output = subprocess.run(["vvp", "-n", str(compiled)], check=True, capture_output=True, text=True).stdout
        samples_of_edges = [line.split() for line in output.splitlines()]
        assert len(samples_of_edges) == edges
        results = {}
        for number, fields in enumerate([f for f in (before, after) if f]):
            bits_of_edges = [sample[number] for sample in samples_of_edges]
            results |= _unpack(bits_of_edges, fields)
        return results

    return run


def _hex(words: list[tuple[int, int]]) -> str:
    vector, place = 0, 0
    for bits, word in words:
        vector |= (word & ((1 << bits) - 1)) << place
        place += bits
    return f"{vector:x}"


def _unpack(bits_of_edges: list[str], fields: dict[str, Field]) -> dict[str, Int64Array]:
    results, end = {}, len(bits_of_edges[0])
    for name, field in fields.items():
        columns = []
        for _ in range(field.words):
            column = np.array([int(bits[end - field.bits : end], 2) for bits in bits_of_edges])  # an undefined bit, x, is an error here
            columns.append(column - (column >> (field.bits - 1) << field.bits) if field.signed else column)
            end -= field.bits
        results[name] = np.column_stack(columns)
    assert end == 0
    return results


def field(bits: int, signal: str, words: int = 1, *, signed: bool = True) -> Field:
    return Field(bits, [signal], words, signed)


def after_reset(values: Int64Array) -> Int64Array:
    """The same drive behind a cycle of reset, in which it is 0."""
    return np.concatenate([np.zeros_like(values[:1]), values])


def reset_cycle(edges: int) -> Int64Array:
    return np.arange(edges + 1) == 0


@needs_iverilog
@pytest.mark.parametrize(("bits", "sum_bits"), [(8, 32), (16, 40), (16, 34)])
def test_a_multiply_accumulate_unit_holds_the_running_sum_of_products(simulate: Simulate, bits: int, sum_bits: int) -> None:
    random = np.random.default_rng(bits)
    left, top = random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, 200))
    left[60:120] = top[60:120] = -(2 ** (bits - 1))  # the largest product there is, until 34 bits wrap
    clear = random.random(200) < 0.02
    clear[0] = True
    trace = simulate(
        "multiply_accumulate",
        {"OPERAND_BITS": bits, "SUM_BITS": sum_bits},
        {"clear": (1, clear), "left": (bits, left), "top": (bits, top)},
        {"sum": field(sum_bits, "dut.sum")},
    )
    total, expected = 0, []
    for start, product in zip(clear.tolist(), (left * top).tolist(), strict=True):
        total = wrap((0 if start else total) + product, sum_bits)
        expected.append(total)
    assert trace["sum"][:, 0].tolist() == expected


@needs_iverilog
def test_a_multiply_accumulate_unit_is_the_unit_of_the_output_stationary_array(simulate: Simulate) -> None:
    left, top = np.random.default_rng(1).integers(-128, 128, (2, 24))
    run = output_stationary(left[None], top[:, None], PeArrayConfig(rows=1, columns=1))
    trace = simulate(
        "multiply_accumulate",
        {"OPERAND_BITS": 8, "SUM_BITS": 32},
        {"clear": (1, np.arange(24) == 0), "left": (8, left), "top": (8, top)},
        {"sum": field(32, "dut.sum")},
    )
    assert run.edges == 24 and trace["sum"][-1, 0] == run.product[0, 0]


@needs_iverilog
@pytest.mark.parametrize(("bits", "point"), [(16, 8), (20, 8), (32, 16)])
def test_the_exponential_unit_equals_its_model_bit_for_bit(simulate: Simulate, bits: int, point: int) -> None:
    words = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 3000)
    words[1000:2000] = np.arange(1000) * max(1, 2 ** (point + 3) // 1000)  # where nothing wraps
    with (GOLDEN / "sanger_exp_unit.csv").open() as file:
        golden = [row for row in csv.DictReader(file) if (int(row["width"]), int(row["point"])) == (bits, point)]
    words = np.append(words, np.array([int(row["in_bits"]) for row in golden], np.int64))
    trace = combinational(simulate, "shift_exp", {"BITS": bits, "POINT": point}, (bits, words), bits)
    assert np.array_equal(trace, shift_exp_array(words, bits, point, exp_table(point)))
    assert trace[3000:].tolist() == [int(row["out_bits"]) for row in golden]


@needs_iverilog
@pytest.mark.parametrize(("input_bits", "bits", "point"), [(15, 16, 8), (20, 24, 12), (12, 24, 8), (30, 16, 8)])
def test_the_two_way_exponential_unit_equals_its_model_bit_for_bit(simulate: Simulate, input_bits: int, bits: int, point: int) -> None:
    random = np.random.default_rng(input_bits)
    words = random.integers(-(2 ** (input_bits - 1)), 2 ** (input_bits - 1), 3000)
    words[1000:2000] = random.integers(-(2**10), 2**10, 1000)
    parameters = {"INPUT_BITS": input_bits, "BITS": bits, "POINT": point}
    trace = combinational(simulate, "two_way_exp", parameters, (input_bits, words), bits)
    table = exp_table(point)
    assert trace.tolist() == [two_way_exp(int(word), bits, point, table) for word in words]


def combinational(simulate: Simulate, module: str, parameters: dict[str, int], x: tuple[int, Int64Array], bits: int) -> Int64Array:
    return simulate(module, parameters, {"x": x}, {"y": field(bits, "dut.y")})["y"][:, 0]


@needs_iverilog
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_an_adder_and_a_comparator_do_what_their_names_say(simulate: Simulate, bits: int) -> None:
    left, right = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (2, 200))
    left[:2], right[:2] = 2 ** (bits - 1) - 1, (2 ** (bits - 1) - 1, 1)  # equal words; a sum that wraps
    drive = {"left": (bits, left), "right": (bits, right)}
    sums = simulate("adder", {"BITS": bits}, drive, {"sum": field(bits, "dut.sum")})["sum"][:, 0]
    assert sums.tolist() == [wrap(int(word), bits) for word in left + right]
    larger = simulate("comparator", {"BITS": bits}, drive, {"larger": field(1, "dut.larger", signed=False)})["larger"][:, 0]
    assert larger.tolist() == (left > right).astype(int).tolist()


@needs_iverilog
def test_the_psum_softmax_unit_equals_the_golden_vectors_and_random_shares(simulate: Simulate) -> None:
    with (GOLDEN / "dynax_rtl_psum_softmax.csv").open() as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for bits, point in sorted({(row["bits"], row["point"]) for row in rows}):
        cases = [row for row in rows if (row["bits"], row["point"]) == (bits, point)]
        golden = np.array([[row[name] for name in ("add1", "add2", "exp", "s", "out", "en")] for row in cases])
        random = np.random.default_rng(bits).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (200, 3)) >> np.arange(200)[:, None] % bits
        first, second, row_sum = np.concatenate([golden[:, :3], random]).T
        divide = np.append(golden[:, 3], np.ones(200, np.int64))
        trace = simulate(
            "psum_softmax",
            {"BITS": bits, "POINT": point},
            {"first": (bits, first), "second": (bits, second), "row_sum": (bits, row_sum), "divide": (1, divide)},
            {"result": field(bits, "dut.result"), "valid": field(1, "dut.valid", signed=False)},
        )
        expected = [row_share(*words, bits, point) for words in random.tolist()]
        assert np.array_equal(np.column_stack([trace["result"], trace["valid"]]), np.concatenate([golden[:, 4:], np.array(expected)]))


@needs_iverilog
@pytest.mark.parametrize("kind", ["distinct", "ties", "gap2", "zeros", "stall"])
@pytest.mark.parametrize(("block", "kept"), [(8, 3), (32, 8), (64, 16)])
def test_the_top_k_cascade_equals_the_golden_trace_of_the_repaired_one(simulate: Simulate, block: int, kept: int, kind: str) -> None:
    golden = np.load(GOLDEN / "dynax_rtl_topk.npz")
    case = f"m{block}n{kept}_{kind}"
    enable, data = golden[f"{case}_in"].astype(np.int64).T
    trace = run_top_k(simulate, enable, data, PruningConfig(block=block, kept=kept))
    for name, register in (("passed_on", "outData"), ("kept_index", "idx"), ("valid", "idxValid")):
        assert np.array_equal(trace[name], golden[f"{case}_repaired_gap_tie_{register}"]), name


@needs_iverilog
@pytest.mark.parametrize("seed", SEEDS)
def test_the_top_k_cascade_equals_its_model_on_random_streams_with_gaps(simulate: Simulate, seed: int) -> None:
    random = np.random.default_rng(seed)
    config = PruningConfig(block=int(random.integers(2, 20)), kept=2)
    enable, data = (random.random(300) < 0.8).astype(np.int64), random.integers(0, (3, 50, 2**15)[seed], 300)
    trace, model = run_top_k(simulate, enable, data, config), trace_top_k(enable, data, config, REPAIRED)
    for name in model._fields:
        assert np.array_equal(trace[name], getattr(model, name)), name


def run_top_k(simulate: Simulate, enable: Int64Array, data: Int64Array, config: PruningConfig) -> dict[str, Int64Array]:
    bits, kept, index_bits = int(data.max()).bit_length(), config.kept, (config.block - 1).bit_length()
    trace = simulate(
        "top_k",
        {"DATA_BITS": bits, "BLOCK": config.block, "KEPT": kept},
        {"reset": (1, reset_cycle(len(data))), "enable": (1, after_reset(enable)), "data": (bits, after_reset(data))},
        {
            "passed_on": field(bits, "dut.passed_on", kept, signed=False),
            "kept_index": field(index_bits, "dut.kept_index", kept, signed=False),
            "valid": field(1, "dut.valid", kept, signed=False),
        },
    )
    return {name: values[1:] for name, values in trace.items()}


@needs_iverilog
@pytest.mark.parametrize("tag", ["pe12_u", "pe12_s", "pe14_u", "pe14_s"])
def test_the_prediction_pe_equals_its_golden_trace(simulate: Simulate, tag: str) -> None:
    """The traces of the unsigned PE, too: their operands are non-negative words of a bit more."""
    golden = np.load(GOLDEN / "dynax_rtl_prepe.npz")
    group, sum_bits, signed = golden[f"{tag}_par"].tolist()
    command, operand, select, psum, *top = golden[f"{tag}_in"].astype(np.int64).T
    bits = int(np.abs(golden[f"{tag}_in"][:, [1, *range(4, 4 + group)]]).max()).bit_length() + 1
    select_bits = group.bit_length() - 1
    trace = simulate(
        "predictor_pe",
        {"GROUP": group, "OPERAND_BITS": bits, "SUM_BITS": sum_bits},
        {
            "command": (2, command),
            "operand_left": (bits, operand),
            "select_left": (select_bits, select),
            "sum_left": (sum_bits, psum),
            "key_valid_left": (1, np.zeros_like(command)),
            "top": (bits, np.column_stack(top)),
        },
        {
            "sum": field(sum_bits, "dut.sum", signed=bool(signed)),
            "operand": field(bits, "dut.operand"),
            "select": field(select_bits, "dut.select", signed=False),
            "inputs": field(select_bits, "dut.inputs", signed=False),
            "bottom": field(bits, "dut.bottom", group),
        },
    )
    assert np.array_equal(np.column_stack(list(trace.values())), golden[f"{tag}_after"])


@needs_iverilog
@pytest.mark.parametrize("kind", ["s", "s_b2b"])
@pytest.mark.parametrize("group", [2, 4])
def test_the_prediction_array_equals_its_golden_trace(simulate: Simulate, group: int, kind: str) -> None:
    tag = f"a1{group}_{kind}"
    golden = np.load(GOLDEN / "dynax_rtl_prepearray.npz")
    _, bits, point, append, psum_bits, *_ = golden[f"{tag}_par"].tolist()
    program = predictor.PredictorProgram(*(golden[f"{tag}{name}"].astype(np.int64) for name in ("_left", "_top", "_kv", "_pes", "_arr")))
    fmt = predictor.PredictorFormat(group, psum_bits, bits, point, append, signed=True)
    trace = run_predictor(simulate, program, fmt)
    names = ("_opleft", "_opsel", "_psum", "_s_out", "_exp_sum", "_exp_sum_m", "_valid", "_count")
    for register, name in zip(predictor.PredictorTrace._fields, names, strict=True):
        assert np.array_equal(trace[register], golden[tag + name].reshape(trace[register].shape)), register


@needs_iverilog
@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_prediction_array_equals_its_model_on_tiles_at_the_period(simulate: Simulate, seed: int, group: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns, keys = random.integers([1, 1, 1], [5, 5, 70])
    width = group * int(columns)
    config = predictor.PredictionArrayConfig(rows=int(rows), columns=int(columns), group=group, bits=4, key_buffer_bytes=1)
    q, k = random.integers(-8, 8, (2, config.rows, width)), random.integers(-8, 8, (2, int(keys), width))
    program = predictor.predictor_program(q, k, group, predictor.tile_period_cycles(int(keys), width, config))
    assert_predictor_equals_model(simulate, program, predictor.PredictorFormat(group, 14, 24, 8, 2, signed=True))


@needs_iverilog
@pytest.mark.parametrize("group", [2, 4])
def test_the_prediction_array_equals_its_model_under_random_commands(simulate: Simulate, group: int) -> None:
    random = np.random.default_rng(group)
    edges, rows, columns = 300, 3, 2
    program = predictor.PredictorProgram(
        left=random.integers(-8, 8, (edges, rows)),
        top=random.integers(-8, 8, (edges, columns * group)),
        key_valid=random.integers(0, 2, edges),
        pe_command=random.choice(4, edges, p=[0.1, 0.05, 0.6, 0.25]),
        end_command=random.choice(3, edges, p=[0.1, 0.01, 0.89]),
    )
    assert_predictor_equals_model(simulate, program, predictor.PredictorFormat(group, 10, 20, 6, 3, signed=True))


def assert_predictor_equals_model(simulate: Simulate, program: predictor.PredictorProgram, fmt: predictor.PredictorFormat) -> None:
    trace, model = run_predictor(simulate, program, fmt), predictor.trace_predictor(program, fmt)
    for name in model._fields:
        assert np.array_equal(trace[name], getattr(model, name).reshape(trace[name].shape)), name


def run_predictor(simulate: Simulate, program: predictor.PredictorProgram, fmt: predictor.PredictorFormat) -> dict[str, Int64Array]:
    rows, columns = program.left.shape[1], program.top.shape[1] // fmt.group
    operand_bits, select_bits, edges = 4 if fmt.group == 2 else 6, fmt.group.bit_length() - 1, len(program.left)
    trace = simulate(
        "predictor_array",
        {
            "ROWS": rows,
            "COLUMNS": columns,
            "GROUP": fmt.group,
            "OPERAND_BITS": operand_bits,
            "PSUM_BITS": fmt.psum_bits,
            "APPEND": fmt.append,
            "BITS": fmt.bits,
            "POINT": fmt.point,
        },
        {
            "reset": (1, reset_cycle(edges)),
            "arrivals": (operand_bits, after_reset(program.left)),
            "top": (operand_bits, after_reset(program.top)),
            "key_valid": (1, after_reset(program.key_valid)),
            "pe_command": (2, after_reset(program.pe_command)),
            "end_command": (2, after_reset(program.end_command)),
        },
        {
            "operand": field(operand_bits, "dut.operand", rows * columns),
            "select": field(select_bits, "dut.select", rows * columns, signed=False),
            "psum": field(fmt.psum_bits, "dut.psum", rows * columns),
            "exponential": field(fmt.bits, "dut.exponential", rows),
            "row_sum": field(fmt.bits, "dut.row_sum", rows),
            "group_sum": field(fmt.bits, "dut.group_sum", rows),
            "group_full": field(1, "dut.group_full", rows, signed=False),
            "group_count": field(5, "dut.group_count", rows, signed=False),
        },
    )
    return {name: values[1:] for name, values in trace.items()}


@needs_iverilog
def test_the_execution_row_equals_its_golden_trace(simulate: Simulate) -> None:
    parts = np.load(GOLDEN / "dynax_rtl_repe.npz")
    inputs = parts["row_in"].astype(np.int64)
    q, clear, accumulate, exponential = (inputs[:, place : place + 1] for place in range(4))
    program = execute.ExecuteProgram(q, inputs[:, 7:], inputs[:, None, 4:7], accumulate, exponential, clear[:, 0])
    trace = run_execute(simulate, program, bits=24, point=12)
    names = ("adder", "q", "outputs", "accumulators", "exponentials", "columns")
    assert np.array_equal(np.column_stack([trace[name] for name in names]), parts["row_after"])


@needs_iverilog
def test_the_reconfigurable_pe_equals_its_golden_trace(simulate: Simulate) -> None:
    parts = np.load(GOLDEN / "dynax_rtl_repe.npz")
    bits, point, keys = parts["pe_par"].tolist()
    q, accumulate, exponential, select, *columns = parts["pe_in"].astype(np.int64).T
    trace = simulate(
        "reconfigurable_pe",
        {"KEYS": keys, "BITS": bits, "POINT": point},
        {
            "accumulate": (2, accumulate),
            "exponentiate": (1, exponential),
            "select": (keys.bit_length(), select),
            "query": (bits, q),
            "columns": (bits, np.column_stack(columns)),
        },
        {"accumulator": field(bits, "dut.accumulator"), "exponential": field(bits, "dut.exponential")},
        {"offered": field(bits, "dut.offered")},
    )
    assert np.array_equal(np.column_stack([trace[name] for name in ("offered", "accumulator", "exponential")]), parts["pe_after"])


@needs_iverilog
@pytest.mark.parametrize("control", ["bc", "bcd", "sk", "skd"])
def test_the_execution_array_equals_its_golden_trace(simulate: Simulate, control: str) -> None:
    golden = np.load(GOLDEN / "dynax_rtl_repearray.npz")
    drive = [golden[f"{control}_{name}"].astype(np.int64) for name in ("q", "top", "selc", "acc_ctrl", "exp_ctrl")]
    program = execute.ExecuteProgram(*drive, np.zeros(len(drive[0]), np.int64))
    trace = run_execute(simulate, program, bits=24, point=12)
    for register, name in (("accumulators", "acc"), ("exponentials", "score_exp"), ("adder", "adder_out"), ("outputs", "out")):
        assert np.array_equal(trace[register], golden[f"{control}_{name}"].reshape(len(program.q), -1)), register


@needs_iverilog
@pytest.mark.parametrize("control", ["broadcast", "skewed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_execution_array_equals_its_model_on_blocks_at_the_period(simulate: Simulate, seed: int, control: str) -> None:
    random = np.random.default_rng(seed)
    rows, columns, keys, head_dim = random.integers([1, 1, 1, 1], [5, 4, 9, 8]).tolist()
    config = execute.ExecuteArrayConfig(count=1, rows=rows, columns=columns, control=control)
    blocks = [
        execute.BlockOperands(
            q=random.integers(-(2**10), 2**11, (rows, head_dim)),
            k=random.integers(-(2**10), 2**11, (keys, head_dim)),
            v=random.integers(-(2**12), 2**12, (keys, head_dim)),
            select=random.integers(0, keys + 1, (rows, columns)),
        )
        for _ in range(2)
    ]
    assert_execute_equals_model(simulate, execute.execute_program(blocks, config), bits=24, point=12)


@needs_iverilog
def test_the_execution_array_equals_its_model_under_random_commands(simulate: Simulate) -> None:
    random = np.random.default_rng(0)
    edges, rows, pes, keys = 300, 3, 2, 5
    program = execute.ExecuteProgram(
        q=random.integers(-(2**15), 2**15, (edges, rows)),
        top=random.integers(-(2**15), 2**15, (edges, keys)),
        select=random.integers(0, 8, (edges, rows, pes)),  # 5, 6 and 7 select zero
        accumulate=random.integers(0, 4, (edges, rows)),
        exponential=random.integers(0, 2, (edges, rows)),
        clear=(random.random(edges) < 0.05).astype(np.int64),
    )
    assert_execute_equals_model(simulate, program, bits=16, point=8)


def assert_execute_equals_model(simulate: Simulate, program: execute.ExecuteProgram, *, bits: int, point: int) -> None:
    trace, model = run_execute(simulate, program, bits=bits, point=point), execute.trace_execute(program, bits=bits, point=point)
    for name in model._fields:
        assert np.array_equal(trace[name], getattr(model, name).reshape(trace[name].shape)), name


def run_execute(simulate: Simulate, program: execute.ExecuteProgram, *, bits: int, point: int) -> dict[str, Int64Array]:
    _, rows, pes = program.select.shape
    keys = program.top.shape[1]
    row_paths = [f"dut.rows[{row}].row" for row in range(rows)]
    pe_paths = [f"{row}.pes[{pe}].pe" for row in row_paths for pe in range(pes)]
    of_rows = lambda name, words=1: Field(bits, [f"{path}.{name}" for path in row_paths], rows * words)  # noqa: E731
    of_pes = lambda name: Field(bits, [f"{path}.{name}" for path in pe_paths], rows * pes)  # noqa: E731
    return simulate(
        "execute_array",
        {"ROWS": rows, "PES": pes, "KEYS": keys, "BITS": bits, "POINT": point},
        {
            "clear": (1, program.clear),
            "accumulate": (2, program.accumulate),
            "exponentiate": (1, program.exponential),
            "select": (keys.bit_length(), program.select.reshape(len(program.select), -1)),
            "query": (bits, program.q),
            "top": (bits, program.top),
        },
        {
            "q": of_rows("query"),
            "columns": of_rows("columns", keys),
            "accumulators": of_pes("accumulator"),
            "exponentials": of_pes("exponential"),
            "adder": of_rows("adder"),
        },
        {"outputs": of_pes("offered")},
    )


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return read_record(COMMITTED, AREAS_FORMAT, AREAS_VERSION)


def test_the_committed_areas_are_those_of_all_units_as_they_are_now(committed: dict[str, Any]) -> None:
    described = [{name: area[name] for name in ("name", "module", "parameters")} for area in committed["units"]]
    assert described == [asdict(unit) for unit in UNITS.values()] and committed["yosys_script"] == SCRIPT
    yardstick = next(area["area_um2"] for area in committed["units"] if area["name"] == committed["yardstick"])
    for area in committed["units"]:
        assert area["area_of_yardstick"] == pytest.approx(area["area_um2"] / yardstick, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "flip_flops"),
    [
        ("mac_8_bit", 32),
        ("mac_16_bit", 40),
        ("predictor_pe_1_2_4_bit", 4 + 1 + 13 + 1 + 2 * 4 + 1),  # operand, select, sum, whether of a key, keys' channels, input counter
        ("predictor_pe_1_4_6_bit", 6 + 2 + 17 + 1 + 4 * 6 + 2),
        ("predictor_comparator_1_4_6_bit", 3 * 6 + 2),  # three wait for the fourth; phase
        ("predictor_row_end_16_bit", 3 * 16 + 1 + 5 + 1),  # exponential, two sums; whether of a key; counter, flag
        ("reconfigurable_pe_64_keys_16_bit", 2 * 16),  # accumulator and exponential
        ("top_k_stage_16_bit_of_32", 2 * (16 + 5) + 1),  # kept and passed on, with their indices; pulse
        ("shift_exp_16_bit", 0),
    ],
)
def test_a_unit_has_the_flip_flops_of_its_registers(committed: dict[str, Any], name: str, flip_flops: int) -> None:
    assert next(area["flip_flops"] for area in committed["units"] if area["name"] == name) == flip_flops


def test_the_page_shows_the_committed_areas(committed: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "rtl.md").read_text(encoding="utf-8")
    for area in committed["units"]:
        assert f"| `{area['name']}` | {area['area_of_yardstick']:.3f} | {area['cells']} | {area['flip_flops']} |" in page


@needs_yosys
@pytest.mark.parametrize("name", ["predictor_comparator_1_2_4_bit", "top_k_stage_16_bit_of_32"])
def test_synthesis_gives_the_committed_area(committed: dict[str, Any], name: str) -> None:
    """To the cell with the yosys of the record; others map differently."""
    is_same_yosys = yosys_version() == committed["yosys"]
    expected = next(area for area in committed["units"] if area["name"] == name)
    area = asdict(synthesise(UNITS[name], LIBERTY))
    assert area["flip_flops"] == expected["flip_flops"]
    assert area["area_um2"] == pytest.approx(expected["area_um2"], rel=0 if is_same_yosys else 0.25)


@needs_yosys
def test_a_liberty_file_without_flip_flops_is_refused(tmp_path: Path) -> None:
    inverter = 'cell (INV) { area : 1; pin (A) { direction : input; } pin (Y) { direction : output; function : "!A"; } }'
    (tmp_path / "gates.lib").write_text(f"library (gates) {{ {inverter} {inverter.replace('INV', 'NAND').replace('!A', '!(A B)')} }}")
    with pytest.raises(SynthesisError):
        synthesise(UNITS["predictor_comparator_1_2_4_bit"], tmp_path / "gates.lib")


def test_without_yosys_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SynthesisError, match="yosys is not installed; install it"):
        yosys_version()


def test_a_missing_liberty_file_is_a_sentence_and_status_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["synthesise", str(tmp_path / "no.lib"), str(tmp_path / "areas.json")])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2 and "no.lib: no such Liberty file" in capsys.readouterr().err
    assert not (tmp_path / "areas.json").exists()
