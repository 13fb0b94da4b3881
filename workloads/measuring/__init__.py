"""Kernels and models timed on this host."""
