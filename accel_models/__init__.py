"""How one machine serves a workload."""

from xmsim.accel_models.machine_file import load_accelerator, shipped_accelerators

__all__ = ["load_accelerator", "shipped_accelerators"]
