"""The software reference: what the right answer is, and the real kernels."""
