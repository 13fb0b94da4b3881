"""The house: rooms import one way only, and nothing of ours is importable under a bare name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "configs": set(),
    "traces": {"configs"},
    "reference": {"configs"},
    "sim": {"configs"},
    "workloads": {"configs", "traces", "reference"},
    "accel_models": {"configs", "workloads", "traces", "sim", "reference"},
    "reports": {
        "configs",
        "sim.result",
        "sim.propagation",
        "workloads.measurement",
        "workloads.evaluation",
        "workloads.measuring.host_check_record",
        "workloads.measuring.generation_record",
        "workloads.methods.mask_record",
    },
}
RECORD_MODULES = (
    "sim/result.py",
    "sim/head_sampling.py",
    "workloads/measurement.py",
    "workloads/tuning/record.py",
    "workloads/pruning/record.py",
    "workloads/measuring/generation_record.py",
    "workloads/measuring/host_check_record.py",
    "workloads/measuring/calibration/record.py",
    "workloads/evaluation.py",
    "workloads/methods/mask_record.py",
    *(f"configs/{name}.py" for name in ("record", "codec", "files", "densities", "costs", "errors")),
)


def imports(path):
    """Every module a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_before_it(room):
    allowed = {f"xmsim.{name}" for name in MAY_IMPORT[room] | {room}}
    for path in (ROOT / room).rglob("*.py"):
        for name in imports(path):
            if name.split(".")[0] != "xmsim":
                continue
            assert any(name == a or name.startswith(f"{a}.") for a in allowed), f"{path.relative_to(ROOT)} imports {name}"


def test_every_room_is_linked_into_the_package():
    for room in MAY_IMPORT:
        link = ROOT / "src" / "xmsim" / room
        assert link.is_symlink() and link.readlink() == Path("..") / ".." / room


def test_record_modules_need_nothing_but_the_standard_library():
    for name in RECORD_MODULES:
        for module in imports(ROOT / name):
            assert module.startswith("xmsim.") or module.split(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"


# modules and operators of torch's, imported on first use; so is all of reference/kernels/cuda
TORCH_CLASSES = ("linear_modules.py", "format_modules.py", "packed_buffers.py", "linear_ops.py", "attention_ops.py")


def test_torch_is_imported_inside_functions_only():
    for room in MAY_IMPORT:
        for path in (ROOT / room).rglob("*.py"):
            if "xm_tiny" in path.parts or "cuda" in path.parts or path.name in TORCH_CLASSES:  # the training script stands alone
                continue
            for node in ast.parse(path.read_text()).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert not any(n.split(".")[0] in ("torch", "transformers") for n in names), f"{path} imports {names}"


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_no_room_is_importable_under_its_bare_name(name, tmp_path):
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0


def test_simulation_imports_neither_torch_nor_matplotlib(tmp_path):
    imported = "xmsim.accel_models, xmsim.sim, xmsim.traces.store, xmsim.cli"
    code = f"import sys, {imported}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
