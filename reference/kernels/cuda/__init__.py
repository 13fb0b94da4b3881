"""Kernels for NVIDIA GPUs, called on torch tensors. Imports only torch, numpy and ctypes: GPU hosts may lack our other dependencies."""
