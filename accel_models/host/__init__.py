"""The host as a machine: what this processor's kernels, and a GPU's, would take for a workload."""
