"""Fast-dLLM's dual cache; see ``prefix_cache``."""

from cdlm.training.decoding.prefix_cache import PrefixCacheDecoder


class DualCacheDecoder(PrefixCacheDecoder):
    """Like the prefix cache, and the masks behind the active block are computed once a block as well."""

    caches_suffix = True
