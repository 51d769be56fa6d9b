"""The proof on a GPU: kernels, decoding, speed against the floors, a mixture of experts, a profile,
memory. ``make gpu`` runs it.

A bare machine with PyTorch for CUDA lacks packages that the model layer needs. ``make gpu-site`` gathers them into
``build/gpu-site``, which is a few megabytes to carry there; it is looked at behind the packages that the machine has.
"""
