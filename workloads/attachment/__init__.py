"""Sparsity methods at work inside a running model."""
