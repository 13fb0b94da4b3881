"""Pruning of a model's weights, block by block."""
