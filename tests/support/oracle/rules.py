"""Which positions a step of the slow decoder finalizes, from the definitions of the rules."""


def pass_factor(confidence: dict[int, float], factor: float) -> list[int]:
    """Walks down the confidences until the n-th is below 1 - factor / (n + 1); the first always passes."""
    passing: list[int] = []
    for position in sorted(confidence, key=lambda position: -confidence[position]):
        if passing and confidence[position] < 1 - factor / (len(passing) + 2):
            break
        passing.append(position)
    return passing


def pass_entropy_bound(entropy: dict[int, float], bound: float) -> list[int]:
    """Tries every number of positions, lowest entropy first; the last that keeps sum - max within the bound."""
    ranked = sorted(entropy, key=lambda position: entropy[position])
    sizes = range(1, len(ranked) + 1)
    spent = {size: sum(entropy[p] for p in ranked[:size]) - max(entropy[p] for p in ranked[:size]) for size in sizes}
    return ranked[: max([1, *(size for size in sizes if spent[size] <= bound)])]


def share(positions: int, steps: int) -> int:
    """Positions of the first of ``steps`` steps, if positions are dealt to the steps one by one, in turn."""
    shares = [0] * max(1, steps)
    for position in range(positions):
        shares[position % len(shares)] += 1
    return shares[0]
