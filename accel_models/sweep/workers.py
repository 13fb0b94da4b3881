"""Who does the work: this process, processes of this machine, or a Ray or Dask cluster; all of them through joblib."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

from xmsim.configs.errors import XmsimError

Task = TypeVar("Task")
Result = TypeVar("Result")

ONE_THREAD = {name: "1" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
TASKS_A_ROUND = 16  # for each worker, of a backend that hands results over in rounds
CONNECT_SECONDS = 10
IDLE_SECONDS = 15  # after which a process that gets no task ends, which those of a killed sweep do not get


@dataclass(frozen=True)
class Workers:
    """A joblib backend."""

    backend: str
    jobs: int  # -1: as many as the cluster has
    streams: bool = True  # hands every result over as it comes; False: round by round
    options: dict[str, Any] = field(default_factory=dict)  # of the backend

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """What `work` makes of each task, in whatever order they are done. Tasks are drawn as workers become free.

        Raises:
            XmsimError: raised by a task, or a worker is gone.
        """
        first = list(islice(tasks := iter(tasks), 1))
        if not first:
            return  # without starting anybody
        from joblib import Parallel, delayed, effective_n_jobs, parallel_config
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        local = self.backend == "loky"
        calls = (delayed(_unless_orphaned)(work, task, os.getpid()) if local else delayed(work)(task) for task in chain(first, tasks))
        with parallel_config(backend=self.backend, n_jobs=self.jobs, **self.options):
            parallel = Parallel(batch_size=1, return_as="generator_unordered" if self.streams else "list")
            round_size = TASKS_A_ROUND * effective_n_jobs(self.jobs)
        try:
            if self.streams:
                yield from parallel(calls)
            while part := list(islice(calls, round_size)):
                yield from parallel(part)
        except TerminatedWorkerError as error:
            raise XmsimError(
                "a worker was killed, most likely for want of memory; take fewer --jobs, and run the same command again"
            ) from error


def _unless_orphaned(work: Callable[[Task], Result], task: Task, parent: int) -> Result:
    """Do the task, if the process that wants it lives: tasks that wait for the workers of a killed one would slow down the next."""
    if parent not in (os.getpid(), os.getppid()):
        os._exit(1)
    return work(task)


@contextmanager
def workers(jobs: int, cluster: str | None = None) -> Iterator[Workers]:
    """So many processes of this machine, each with one thread, or those of the cluster at an address.

    A cluster's workers must have this xmsim, and see the traces and the output folder at the same paths.

    Args:
        jobs: processes; one works in this process. Of a cluster all workers are taken.
        cluster: ray://HOST:PORT of a Ray cluster, tcp://HOST:PORT (or tls://) of a Dask scheduler; None: this machine.
    Raises:
        XmsimError: no such cluster, or the library it needs is not installed.
    """
    if cluster is None:
        one_thread = {"inner_max_num_threads": 1, "idle_worker_timeout": IDLE_SECONDS}
        yield Workers("loky", jobs, options=one_thread if jobs > 1 else {})
    elif cluster.startswith("ray://"):
        with _ray(cluster) as found:
            yield found
    elif cluster.startswith(("tcp://", "tls://")):
        with _dask(cluster) as found:
            yield found
    else:
        raise XmsimError(f"--cluster {cluster}: give ray://HOST:PORT of a Ray cluster or tcp://HOST:PORT of a Dask scheduler")


@contextmanager
def _dask(address: str) -> Iterator[Workers]:
    try:
        from distributed import Client
    except ImportError as error:
        raise XmsimError(f'--cluster {address}: Dask is not installed; pip install "xmsim[dask]"') from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise XmsimError(f"--cluster {address}: no Dask scheduler answers there; start one with `dask scheduler`") from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise XmsimError(f"--cluster {address}: the scheduler has no workers; start some with `dask worker {address} --nthreads 1`")
        client.run(_use_one_thread)
        yield Workers("dask", -1)


@contextmanager
def _ray(address: str) -> Iterator[Workers]:
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise XmsimError(f'--cluster {address}: Ray is not installed; pip install "xmsim[ray]"') from error
    try:
        ray.init(address, runtime_env={"env_vars": ONE_THREAD}, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise XmsimError(f"--cluster {address}: no Ray cluster answers there; start one with `ray start --head`") from error
    try:
        register_ray()
        yield Workers("ray", -1, streams=False)
    finally:
        with suppress(Exception):  # the cluster may be gone by now
            ray.shutdown()


def _use_one_thread() -> None:
    """Of a Dask worker that has not imported numba yet: take one thread, as there are other workers for the other cores."""
    os.environ.update(ONE_THREAD)
