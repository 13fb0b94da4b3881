"""Kernels that are timed: sparse attention on this machine's processor."""
