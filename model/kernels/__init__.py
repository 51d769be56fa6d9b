"""Our Triton kernels for the engine's steps on a GPU.

Each module has a kernel and the function that launches it. With ``TRITON_INTERPRET=1`` they run on CPU tensors: without
a GPU, tests compare them with PyTorch's operators this way.
"""
