"""Kernels of our own, in Triton, for what a step does on a GPU.

Each module has a kernel and the function that launches it. With ``TRITON_INTERPRET=1`` they run on CPU tensors, which
is how the tests hold them to PyTorch's operators where there is no GPU.
"""
