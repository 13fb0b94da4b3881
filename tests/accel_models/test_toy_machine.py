"""The machine of docs/adding_a_machine.md: a Python file and a YAML beside it, outside of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xmsim.accel_models import load_accelerator
from xmsim.accel_models.errors import WorkloadError
from xmsim.accel_models.runs import simulate_trace
from xmsim.cli import main
from xmsim.configs.errors import ConfigError
from xmsim.sim.result import read_result
from xmsim.traces.store import open_trace
from xmsim.workloads.attention import AttentionWorkload

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "row_gather"
TRACE = ROOT / "tests" / "golden" / "trace_v1"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example's folder."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "row_gather", ignore=shutil.ignore_patterns("__pycache__")))


def two_heads(kv_heads: int) -> AttentionWorkload:
    """Two heads of three queries and 64 keys, 64 channels; they keep 8, 0 and 4 keys, and 1, 20 and 2."""
    keep = np.arange(64) < np.array([[8, 0, 4], [1, 20, 2]])[:, :, None]
    return AttentionWorkload.from_keep(keep, head_dim=64, kv_heads=kv_heads, causal=False)


@pytest.mark.parametrize("engine", ["compiled", "event"])
def test_cycles_are_those_counted_by_hand(engine):
    # DRAM: 128 bytes a cycle and 50 cycles of latency. K, V (2 · 64 · 128 bytes) and a query (128): 129 + 50 = 179 cycles; a query
    # alone: 1 + 50 = 51.
    # A kept key takes 1 cycle in either row; the softmax takes 2 · ceil(kept / 4); a store takes 1.
    #
    # head 0            loaded   scores     softmax    values     stored
    #   query 0         0-179    179-187    187-191    191-199    199-200
    #   query 1         179-230  keeps no key                     230-232: its write waits for the read of query 2, placed in 230, too
    #   query 2         230-281  281-285    285-287    287-291    291-292
    # head 1, whose group has its K and V on chip
    #   query 0         281-332  332-333    333-335    335-336    336-337
    #   query 1         332-383  383-403    403-413    413-433    433-434
    #   query 2         383-434  434-436    436-438    438-440    440-441
    shared = load_accelerator(EXAMPLE / "row_gather.yaml").simulate(two_heads(kv_heads=1), engine)
    assert (shared.cycles, [head.cycles for head in shared.heads]) == (441, [292, 149])
    assert shared.busy == {"query_load": 6, "score_row": 35, "softmax": 4 + 2 + 2 + 10 + 2, "value_row": 35, "store": 6}
    # With K and V of its own, head 1 loads them from 292 on, when head 0 is done: 292 + 179 + 51 + 51, then 2 + 2 + 2 + 1.
    own = load_accelerator(EXAMPLE / "row_gather.yaml").simulate(two_heads(kv_heads=2), engine)
    assert (own.cycles, [head.cycles for head in own.heads]) == (580, [292, 288])


def test_actions_are_those_of_kept_pairs():
    actions = load_accelerator(EXAMPLE / "row_gather.yaml").simulate(two_heads(kv_heads=2)).actions
    assert actions["score_row"]["mac"] == actions["value_row"]["mac"] == 35 * 64
    assert actions["softmax_unit"]["exp"] == 35
    assert actions["kv_buffer"]["write_bytes"] == 2 * 2 * 64 * 64 * 2


def test_a_buffer_that_is_too_small_is_refused_with_the_size_that_works(example):
    yaml = example / "row_gather.yaml"
    yaml.write_text(yaml.read_text().replace("524288", "16383"))
    with pytest.raises(WorkloadError, match="need 16384 bytes, kv_buffer_bytes is 16383; raise it to 16384"):
        load_accelerator(yaml).schedule(two_heads(kv_heads=2))


def test_the_command_line_simulates_it(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["xmsim", "simulate", str(TRACE), "-m", str(example / "row_gather.yaml"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code, capsys.readouterr().err
    record = read_result(tmp_path / "row_gather.json")
    assert record.machine.model == "row_gather"
    assert record.runs == simulate_trace(open_trace(TRACE), load_accelerator(EXAMPLE / "row_gather.yaml"), engine="event").runs


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (
            "import nowhere_to_be_found\n",
            "row_gather.py:1 cannot be imported (ModuleNotFoundError: No module named 'nowhere_to_be_found'); mend it",
        ),
        ("a = 1\nb = c\n", "row_gather.py:2 cannot be imported (NameError: name 'c' is not defined); mend it"),
        ("def (:\n", "row_gather.py cannot be imported (SyntaxError: invalid syntax (row_gather.py, line 1)); mend it"),
        ("a = 1\n", "row_gather.py has no machine; it needs a class under Accelerator with Config, schedule and peak_macs_per_cycle"),
    ],
)
def test_a_broken_module_is_one_sentence(example, tmp_path, monkeypatch, capsys, code, fault):
    (example / "row_gather.py").write_text(code)
    monkeypatch.setattr(sys, "argv", ["xmsim", "simulate", str(TRACE), "-m", str(example / "row_gather.yaml"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert "row_gather.yaml:2:1: model: " in error and fault in error


def test_an_unknown_model_is_answered_with_both_places(example):
    yaml = example / "row_gather.yaml"
    yaml.write_text(yaml.read_text().replace("model: row_gather", "model: sangre"))
    with pytest.raises(ConfigError) as refused:
        load_accelerator(yaml)
    assert str(refused.value).endswith(f"model: no model sangre in xmsim (did you mean sanger?), and no {example / 'sangre.py'}")


def test_a_model_is_a_name_not_a_path(example):
    (example / "elsewhere").mkdir()
    shutil.move(example / "row_gather.py", example / "elsewhere" / "row_gather.py")
    yaml = example / "row_gather.yaml"
    yaml.write_text(yaml.read_text().replace("model: row_gather", "model: elsewhere/row_gather"))
    with pytest.raises(ConfigError, match="no model elsewhere/row_gather"):
        load_accelerator(yaml)


def test_a_shipped_name_goes_before_a_file_beside_the_yaml(example):
    shutil.copy(ROOT / "configs" / "accelerators" / "dense.yaml", example / "dense.yaml")
    (example / "dense.py").write_text("raise RuntimeError\n")
    assert type(load_accelerator(example / "dense.yaml")).__module__ == "xmsim.accel_models.dense"


def test_two_files_of_one_name_are_two_machines(example):
    code = example / "row_gather.py"
    code.write_text(code.read_text().replace("2 * self.config.macs_per_row", "3 * self.config.macs_per_row"))
    peaks = [load_accelerator(folder / "row_gather.yaml").peak_macs_per_cycle() for folder in (EXAMPLE, example, EXAMPLE)]
    assert peaks == [128, 192, 128]


def test_compiled_code_of_an_edited_file_is_compiled_anew(example, tmp_path):
    code = example / "row_gather.py"

    def store_cycles() -> int:
        """In a process of its own, as a user would run it again; compiled code is kept between them."""
        script = (
            "import sys, numpy as np\n"
            "from xmsim.accel_models import load_accelerator\n"
            "from xmsim.workloads.attention import AttentionWorkload\n"
            "workload = AttentionWorkload.from_keep(np.ones((1, 1, 1), bool), head_dim=8)\n"
            "print(load_accelerator(sys.argv[1]).simulate(workload, 'event').busy['store'])\n"
        )
        words = [sys.executable, "-c", script, str(example / "row_gather.yaml")]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return int(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout)

    assert store_cycles() == 1
    kept_code = list((tmp_path / "cache").rglob("row_gather._write-*.nbc"))
    assert kept_code, "nothing was kept"
    assert store_cycles() == 1
    assert list((tmp_path / "cache").rglob("row_gather._write-*.nbc")) == kept_code
    code.write_text(code.read_text().replace("add_visit(tables, STORE, 1)", "add_visit(tables, STORE, 7)"))
    assert store_cycles() == 7
