"""The truth: a slow decoder in plain PyTorch. One request, no cache, no batching, the whole mask every step.

It shares no code with ``model`` or ``scheduler``: weights come as a dictionary of tensors, shape and manifest as
plain attributes.
"""
