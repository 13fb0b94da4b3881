"""The compiled library: found, dispatched, threaded, and missed without harm."""

import os
import subprocess
import sys

import numpy as np
import pytest

from xmsim.reference.kernels import native
from xmsim.workloads.measuring.host import cpu_features

compiled = pytest.mark.skipif(native.library() is None, reason="no compiled kernels")


@compiled
def test_the_highest_set_is_one_that_the_processor_names():
    needs = {"amx": ("amx_bf16", "amx_granted"), "avx512": ("avx512_bf16", "avx512_vbmi2"), "avx2": ("avx2",), "portable": ()}
    assert set(needs[native.offered_isa()]) <= set(cpu_features())


@compiled
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", ["portable", "amx"])
def test_every_word_is_read_once_by_any_number_of_threads(isa, threads):
    words = np.random.default_rng(1).integers(0, 2**63, 200_003, dtype=np.uint64)
    read = native.kernel("xm_read", native.c_uint64, native.c_void_p, native.c_int64, native.c_int)
    with native.limited_isa(isa):
        assert read(native.address(words), len(words), threads) == np.bitwise_xor.reduce(words)


@pytest.mark.parametrize(("shape", "boundary"), [((3, 5), 64), ((1 << 19, 5), 1 << 21), ((0,), 1)])
def test_arrays_in_huge_pages_start_on_their_boundary_and_hold_zeros(shape, boundary):
    array = native.huge_empty(shape, np.float32)
    assert array.shape == shape and not array.any()
    assert array.ctypes.data % boundary == 0


def test_a_view_that_is_not_contiguous_has_no_address():
    with pytest.raises(ValueError, match="contiguous"):
        native.address(np.zeros((4, 4))[:, ::2])


def test_without_the_library_kernels_are_absent_and_one_line_says_so():
    program = "\n".join(
        (
            "import warnings",
            "from xmsim.reference.kernels import native",
            "native.library_path = lambda name, variable: None",
            "with warnings.catch_warnings(record=True) as told:",
            "    warnings.simplefilter('always')",
            "    assert native.kernel('xm_read', None) is None and native.offered_isa() is None",
            "assert len(told) == 1 and 'C++ compiler' in str(told[0].message)",
        )
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@compiled
def test_a_library_older_than_the_code_is_one_sentence():
    with pytest.raises(RuntimeError, match="have no xm_tomorrow: they are older than xmsim's Python code; install xmsim again"):
        native.kernel("xm_tomorrow", None)


@compiled
def test_a_limit_inside_a_lower_one_changes_nothing():
    used = native.kernel("xm_isa", native.c_int)
    with native.limited_isa("portable"):
        with native.limited_isa("amx"):
            assert used() == 0
        assert used() == 0
    assert used() == native.kernel("xm_offered_isa", native.c_int)()


def test_a_library_that_cannot_be_loaded_is_one_sentence_on_the_command_line(tmp_path):
    environment = {**os.environ, native.LIBRARY_VARIABLE: str(tmp_path / "missing.so")}
    doctor = subprocess.run([sys.executable, "-m", "xmsim", "doctor"], env=environment, capture_output=True, text=True)
    assert doctor.returncode == 2
    assert doctor.stderr.startswith("xmsim: the compiled CPU kernels cannot be loaded") and doctor.stderr.count("\n") == 1
    assert "missing.so" in doctor.stderr and "correct XMSIM_CPU_LIBRARY, or install xmsim again" in doctor.stderr


def run_alone(*lines: str) -> None:
    """Run a program in a process of its own, in which `read` is the kernel that `words` and a number of threads are given to."""
    program = (
        "import numpy as np",
        "from xmsim.reference.kernels import native",
        "words = np.arange(1 << 17, dtype=np.uint64)",
        "whole = int(np.bitwise_xor.reduce(words))",
        "xm_read = native.kernel('xm_read', native.c_uint64, native.c_void_p, native.c_int64, native.c_int)",
        "read = lambda threads: xm_read(native.address(words), len(words), threads)",
        *lines,
    )
    subprocess.run([sys.executable, "-c", "\n".join(program)], check=True)


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="no other system forks by default")
def test_a_process_that_was_forked_computes_with_threads_of_its_own():
    run_alone(
        "import os, signal, torch",
        "torch.set_num_threads(2)",
        "assert read(native.default_threads()) == whole",
        "child = os.fork()",
        "if not child:",
        "    signal.alarm(20)",
        "    os._exit(read(native.default_threads()) != whole)",
        "assert os.waitpid(child, 0)[1] == 0",
    )


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit threads in other ways")
def test_where_no_thread_can_be_made_the_calling_one_does_the_work():
    run_alone(
        "import resource",
        "held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()",
        "resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 20),) * 2)",  # no room for another stack
        "assert read(4) == whole",
    )


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="threads are bound on Linux only")
def test_the_team_of_torch_runs_kernels_and_can_be_bound_to_cores():
    run_alone(
        "import os, torch",
        "first = min(os.sched_getaffinity(0))",
        "assert native.default_threads() == torch.get_num_threads()",
        "native.pin_threads(native.default_threads())",
        "assert os.sched_getaffinity(0) == {first}",
        "assert read(2) == whole",
    )
