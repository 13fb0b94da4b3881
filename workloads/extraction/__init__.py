"""Capture of what decides sparsity while a model runs, and its trace."""
