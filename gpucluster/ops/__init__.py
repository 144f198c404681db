"""Numerical primitives; the CPU and the GPU path of each stand in one file."""
