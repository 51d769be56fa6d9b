"""Functions that build, change or query dictionaries."""

import random

from cdlm.training.data.functions.spec import Entry, Spec, loop_body, pick_name
from cdlm.training.data.functions.terms import EVERYTHING, UNCHANGED, draw_change, draw_condition

ENTRIES = (
    Entry(("invert", "swap_table"), "table", ("a dict from each value of table to its last key",),
          "result = {}\nfor key, n in table.items():\n    result[n] = key\nreturn result"),
    Entry(("merge", "merge_tables"), "table, extra",
          ("a dict with the items of table and extra; extra wins",),
          "result = dict(table)\nresult.update(extra)\nreturn result"),
    Entry(("add_tables", "sum_tables"), "table, extra",
          ("a dict with the values of table and extra added by key",),
          "result = dict(table)\nfor key, n in extra.items():\n"
          "    result[key] = result.get(key, 0) + n\nreturn result"),
    Entry(("common_keys", "keys_in_both"), "table, extra",
          ("a sorted list of the keys of table that are in extra",),
          "return sorted(key for key in table if key in extra)"),
    Entry(("best_key", "largest_key"), "table",
          ("the first key of table with the largest value, or None if table is empty",),
          "if not table:\n    return None\nreturn max(table, key=table.get)"),
    Entry(("worst_key", "smallest_key"), "table",
          ("the first key of table with the smallest value, or None if table is empty",),
          "if not table:\n    return None\nreturn min(table, key=table.get)"),
    Entry(("sort_keys", "sorted_keys"), "table",
          ("a sorted list of the keys of table",), "return sorted(table)"),
    Entry(("keys_by_value", "rank_keys"), "table", ("a list of the keys of table sorted by value",),
          "return sorted(table, key=table.get)"),
    Entry(("lookup", "get_value"), "table, word", ("the value of word in table, or @ if it is missing",),
          "return table.get(word, @)"),
    Entry(("index_words", "first_index"), "words", ("a dict from each word to its first index",),
          "result = {}\nfor i, w in enumerate(words):\n    if w not in result:\n"
          "        result[w] = i\nreturn result"),
    Entry(("most_common", "most_frequent"), "words",
          ("the most common word, the first one if equal, or None if empty",),
          "if not words:\n    return None\nreturn max(words, key=words.count)"),
    Entry(("pair_up", "make_table"), "words, nums",
          ("a dict from each word to the number at the same index of nums",),
          "return dict(zip(words, nums))"),
)  # fmt: skip

# Parameter, its description, loop variable, source, kind of element.
_SOURCES = (
    ("words", "word", "w", "words"),
    ("text", "word in text", "w", "text.split()"),
    ("text", "character in text", "c", "text"),
    ("nums", "number in nums", "n", "nums"),
)
_WORD_TERMS = (
    ("longer than @ letters", "longer_@", "len({x}) > @"),
    ("shorter than @ letters", "shorter_@", "len({x}) < @"),
    ("starting with '&'", "start_&", "{x}.startswith('&')"),
    ("with '&' in it", "with_&", "'&' in {x}"),
    ("not equal to '&'", "not_&", "{x} != '&'"),
)
_WORD_VALUES = (
    ("length", "length", "len({x})"),
    ("first letter", "start", "{x}[0]"),
    ("last letter", "end", "{x}[-1]"),
    ("upper case", "upper", "{x}.upper()"),
    ("copy reversed", "reversed", "{x}[::-1]"),
)


def _selected(rng: random.Random) -> tuple[str, str, str, str, str, str, int]:
    """Parameter, description, loop variable, source, condition (may be empty), name part, pivot."""
    param, described, variable, source = rng.choice(_SOURCES)
    if rng.random() < 0.25:
        return param, described, variable, source, "", described.split()[0] + "s", 0
    if variable == "n":
        condition = draw_condition(rng)
        described = f"{condition.singular()} in nums"
        return param, described, variable, source, condition.on("n"), condition.tag, condition.pivot
    terms = _WORD_TERMS[-1:] if variable == "c" else _WORD_TERMS[:-1]
    length, letter = str(rng.randint(2, 5)), rng.choice("abeghilnorst")
    phrase, tag, test = (part.replace("@", length).replace("&", letter) for part in rng.choice(terms))
    head, _, place = described.partition(" ")
    described = f"{head} {phrase} {place}".strip()
    return param, described, variable, source, test.format(x=variable), tag, 0


def _build(rng: random.Random) -> Spec:
    param, described, variable, source, test, tag, pivot = _selected(rng)
    kind = rng.choice(("count", "value", "group"))
    names: tuple[str, ...]
    if kind == "count":
        action = f"result[{variable}] = result.get({variable}, 0) + 1"
        purpose = f"a dict from each {described} to its count"
        names = (f"count_{tag}", f"counts_{tag}", f"{tag}_counts")
    elif variable == "n":
        if kind == "value":
            change = draw_change(rng)
            action = f"result[n] = {change.on('n')}"
            purpose = f"a dict from each {described} to itself {change.phrase}"
            names = (f"table_{tag}_{change.tag}", f"{tag}_{change.tag}")
        else:
            modulus = rng.randint(2, 9)
            action = f"result.setdefault(n % {modulus}, []).append(n)"
            purpose = f"a dict from each value modulo {modulus} to a list of its items, for each {described}"
            names = (f"group_{tag}_mod_{modulus}", f"group_mod_{modulus}")
    else:
        values = _WORD_VALUES[3:4] if variable == "c" else _WORD_VALUES
        phrase, value_tag, value = rng.choice(values)
        value = value.format(x=variable)
        if kind == "value":
            action = f"result[{variable}] = {value}"
            purpose = f"a dict from each {described} to its {phrase}"
            names = (f"table_{tag}_{value_tag}", f"{tag}_{value_tag}")
        else:
            action = f"result.setdefault({value}, []).append({variable})"
            purpose = f"a dict from each {phrase} to a list of its items, for each {described}"
            names = (f"group_{tag}_{value_tag}", f"group_by_{value_tag}")
    body = ("result = {}", f"for {variable} in {source}:", *loop_body(test, action), "return result")
    return Spec(pick_name(rng, names), param, purpose, body, pivot=pivot)


def _query(rng: random.Random) -> Spec:
    condition = EVERYTHING if rng.random() < 0.15 else draw_condition(rng)
    kind = rng.choice(("keys", "sum", "count", "keep", "change"))
    held = condition.plural().replace("numbers", "values")
    change = UNCHANGED
    if kind == "keys":
        start, action, result = "result = []", "result.append(key)", "result"
        purpose = f"a list of the keys of table with {held}"
    elif kind == "sum":
        start, action, result = "total = 0", "total += n", "total"
        purpose = f"the sum of the {held} of table"
    elif kind == "count":
        start, action, result = "count = 0", "count += 1", "count"
        purpose = f"the count of the {held} of table"
    elif kind == "keep":
        start, action, result = "result = {}", "result[key] = n", "result"
        purpose = f"a dict with the items of table with {held}"
    else:
        change = draw_change(rng)
        start, action, result = "result = {}", f"result[key] = {change.on('n')}", "result"
        purpose = f"a dict with the items of table with {held}, each value {change.phrase}"
    loop = "for n in table.values():" if kind in ("sum", "count") else "for key, n in table.items():"
    lines = loop_body(condition.on("n"), action)
    content = "_".join(part for part in (condition.tag, change.tag) if part)
    name = pick_name(rng, (f"{kind}_{content}", f"{kind}_{content}_values", f"table_{kind}_{content}"))
    return Spec(name, "table", purpose, (start, loop, *lines, f"return {result}"), pivot=condition.pivot)


KINDS = ((0.5, _build), (0.85, _query))
