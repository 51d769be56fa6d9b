"""The KV cache: page allocation and prefix caching."""
