"""Tuning of a model with a method attached."""
