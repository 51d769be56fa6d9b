"""Kernels of our own, in Triton. With ``TRITON_INTERPRET=1`` they run on CPU tensors, which the tests do."""
