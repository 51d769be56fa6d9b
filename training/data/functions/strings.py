"""Functions over text: its characters, its words, and well-known stand-alone ones."""

import random

from cdlm.training.data.functions.spec import Entry, Spec, pick_name

ENTRIES = (
    Entry(("is_palindrome", "palindrome"), "word", ("True if word is a palindrome and False otherwise",),
          "return word == word[::-1]"),
    Entry(("is_palindrome", "palindrome"), "text",
          ("True if text in lower case without spaces is a palindrome and False otherwise",),
          "text = text.lower().replace(' ', '')\nreturn text == text[::-1]"),
    Entry(("reverse", "reverse_text"), "text", ("text reversed",), "return text[::-1]"),
    Entry(("reverse_words", "words_reversed"), "text", ("text with its words in reversed order",),
          "return ' '.join(text.split()[::-1])"),
    Entry(("count_letter", "letter_count"), "text, letter", ("how many times letter is in text",),
          "count = 0\nfor c in text:\n    if c == letter:\n        count += 1\nreturn count"),
    Entry(("remove_letter", "without_letter"), "text, letter", ("text without each copy of letter",),
          "return text.replace(letter, '')"),
    Entry(("repeat", "repeat_word"), "word, k", ("word repeated k times",), "return word * k"),
    Entry(("repeat_@", "times_@"), "word", ("word repeated @ times",), "return word * @", high=6),
    Entry(("initials", "first_letters"), "text", ("the first letter of each word in text as one string",),
          "return ''.join(w[0] for w in text.split())"),
    Entry(("capitalize_words", "title"), "text", ("text with each word capitalized",),
          "return ' '.join(w.capitalize() for w in text.split())"),
    Entry(("swap_case", "switch_case"), "text",
          ("text with upper and lower case swapped",), "return text.swapcase()"),
    Entry(("upper", "to_upper"), "text", ("text in upper case",), "return text.upper()"),
    Entry(("lower", "to_lower"), "text", ("text in lower case",), "return text.lower()"),
    Entry(("same_ends", "ends_match"), "word",
          ("True if word starts and ends with the same letter, and False otherwise or if empty",),
          "return word != '' and word[0] == word[-1]"),
    Entry(("find_letter", "where_letter"), "word, letter",
          ("the index of letter in word, or -1 if there is none",),
          "return word.find(letter)"),
    Entry(("no_repeats", "unique_letters"), "text", ("text with only the first copy of each character",),
          "result = ''\nfor c in text:\n    if c not in result:\n        result += c\nreturn result"),
    Entry(("longest_run", "run_length"), "text", ("the length of the longest run of one character in text",),
          "best = 0\nrun = 0\nlast = ''\nfor c in text:\n    run = run + 1 if c == last else 1\n"
          "    best = max(best, run)\n    last = c\nreturn best"),
    Entry(("first_@", "start"), "text", ("the first @ characters of text",), "return text[:@]", high=8),
    Entry(("last_@", "end"), "text", ("the last @ characters of text",), "return text[-@:]", high=8),
    Entry(("every_@", "take_every_@"), "text", ("every @-th character of text, starting with the first",),
          "return text[::@]", high=5),
    Entry(("shorten", "cut_@"), "text",
          ("text cut to @ characters plus '...' if it is longer, otherwise text",),
          "if len(text) > @:\n    return text[:@] + '...'\nreturn text"),
    Entry(("pad_@", "pad_left"), "word", ("word padded on the left with '*' to @ characters",),
          "while len(word) < @:\n    word = '*' + word\nreturn word", low=4, high=9),
    Entry(("shift_@", "shift_letters"), "word",
          ("word with each letter moved @ places on from 'a' to 'z', around",),
          "result = ''\nfor c in word:\n    result += chr((ord(c) - 97 + @) % 26 + 97)\nreturn result"),
    Entry(("add_digits", "sum_digits"), "text", ("the sum of the digits in text",),
          "total = 0\nfor c in text:\n    if c.isdigit():\n        total += int(c)\nreturn total"),
    Entry(("sort_words", "sorted_words"), "text",
          ("a sorted list of the words in text",), "return sorted(text.split())"),
    Entry(("average_length", "mean_length"), "words",
          ("the average length of the words, or 0 if there are none",),
          "if not words:\n    return 0\nreturn sum(len(w) for w in words) / len(words)"),
)  # fmt: skip

_KINDS = (
    ("vowels", "vowels", "c in 'aeiouAEIOU'"),
    ("digits", "digits", "c.isdigit()"),
    ("upper case letters", "upper", "c.isupper()"),
    ("lower case letters", "lower", "c.islower()"),
    ("letters", "letters", "c.isalpha()"),
    ("spaces", "spaces", "c == ' '"),
)
_LETTERS = "abdeghilnorstu"
_SYMBOLS = "*#-_.x"
_SEPARATORS = (" ", "-", ", ", "_", "/", "+", "")
_CHANGES = (
    ("in upper case", "upper", "w.upper()"),
    ("reversed", "reversed", "w[::-1]"),
    ("capitalized", "capitalized", "w.capitalize()"),
    ("repeated twice", "twice", "w * 2"),
    ("cut to @ letters", "cut_@", "w[:@]"),
    ("without its first letter", "tails", "w[1:]"),
    ("with '&' at the end", "marked", "w + '&'"),
    ("with '&' at the start", "marked", "'&' + w"),
)


def _kind(rng: random.Random) -> tuple[str, str, str]:
    if rng.random() < 0.5:
        return rng.choice(_KINDS)
    if rng.random() < 0.6:
        letter = rng.choice(_LETTERS)
        return f"copies of '{letter}'", letter, f"c == '{letter}'"
    first, second = sorted(rng.sample(_LETTERS, 2))
    return f"copies of '{first}' or '{second}'", f"{first}_{second}", f"c in '{first}{second}'"


def _join(test: str, action: str, start: str, variable: str) -> tuple[str, ...]:
    loop = ("for c in text:", f"    if {test}:", f"        {action}")
    return (f"{variable} = {start}", *loop, f"return {variable}")


def _characters(rng: random.Random) -> Spec:
    phrase, tag, test = _kind(rng)
    action = rng.choice(("count", "remove", "keep", "replace", "double", "index", "upper", "compare"))
    names: tuple[str, ...] = (f"{action}_{tag}", f"{tag}_{action}")
    if action == "count":
        wordings = ("how many {} are in text", "the count of {} in text", "the number of {} in text")
        purpose = rng.choice(wordings).format(phrase)
        return Spec(pick_name(rng, names), "text", purpose, _join(test, "count += 1", "0", "count"))
    if action == "remove":
        body = _join(f"not ({test})", "result += c", "''", "result")
        return Spec(pick_name(rng, names), "text", f"text without its {phrase}", body)
    if action == "keep":
        purpose = f"only the {phrase} of text as a string"
        return Spec(pick_name(rng, names), "text", purpose, _join(test, "result += c", "''", "result"))
    if action == "index":
        body = ("for i, c in enumerate(text):", f"    if {test}:", "        return i", "return -1")
        purpose = f"the index of the first of the {phrase} in text, or -1 if there are none"
        return Spec(pick_name(rng, names), "text", purpose, body)
    if action == "compare":
        other, other_tag, other_test = _kind(rng)
        totals = (f"a = sum(1 for c in text if {test})", f"b = sum(1 for c in text if {other_test})")
        if rng.random() < 0.5:
            purpose = f"True if text has more {phrase} than {other} and False otherwise"
            names, result = (f"more_{tag}", f"{tag}_or_{other_tag}"), "a > b"
        else:
            word, symbol = rng.choice((("plus", "+"), ("minus", "-"), ("times", "*")))
            purpose = f"the count of {phrase} {word} the count of {other} in text"
            names, result = (f"{tag}_{word}_{other_tag}", f"{tag}_and_{other_tag}"), f"a {symbol} b"
        return Spec(pick_name(rng, names), "text", purpose, (*totals, f"return {result}"))
    symbol = rng.choice(_SYMBOLS)
    change, value = {
        "replace": (f"replaced by '{symbol}'", f"'{symbol}'"),
        "double": ("doubled", "c * 2"),
        "upper": ("in upper case", "c.upper()"),
    }[action]
    body = ("result = ''", "for c in text:", f"    if {test}:", f"        result += {value}", "    else:",
            "        result += c", "return result")  # fmt: skip
    return Spec(pick_name(rng, names), "text", f"text with its {phrase} {change}", body)


def _word_condition(rng: random.Random) -> tuple[str, str, str]:
    length, letter = rng.randint(2, 6), rng.choice(_LETTERS)
    return rng.choice(
        (
            (f"words longer than {length} letters", f"longer_{length}", f"len(w) > {length}"),
            (f"words shorter than {length} letters", f"shorter_{length}", f"len(w) < {length}"),
            (f"words of {length} letters", f"length_{length}", f"len(w) == {length}"),
            (f"words starting with '{letter}'", f"start_{letter}", f"w.startswith('{letter}')"),
            (f"words ending with '{letter}'", f"end_{letter}", f"w.endswith('{letter}')"),
            (f"words with '{letter}' in them", f"with_{letter}", f"'{letter}' in w"),
            (f"words without '{letter}' in them", f"without_{letter}", f"'{letter}' not in w"),
        )
    )


def _words(rng: random.Random) -> Spec:
    phrase, tag, test = _word_condition(rng)
    params, source, place = rng.choice((("text", "text.split()", " in text"), ("words", "words", "")))
    action = rng.choice(("list", "list", "join", "join", "count", "length", "longest", "first", "sorted"))
    described = f"the {phrase}{place}"
    loop = (f"for w in {source}:", f"    if {test}:")
    body: tuple[str, ...]
    names: tuple[str, ...]
    if action == "count":
        body = ("count = 0", *loop, "        count += 1", "return count")
        purpose = f"the count of {described}"
        return Spec(pick_name(rng, (f"count_{tag}", f"number_{tag}")), params, purpose, body)
    if action == "length":
        body = ("total = 0", *loop, "        total += len(w)", "return total")
        purpose = f"the total length of {described}"
        return Spec(pick_name(rng, (f"length_{tag}", f"total_{tag}")), params, purpose, body)
    if action == "longest":
        word, function = rng.choice((("longest", "max"), ("shortest", "min")))
        body = (f"kept = [w for w in {source} if {test}]", f"return {function}(kept, key=len, default='')")
        purpose = f"the first {word} of {described}, or '' if there are none"
        return Spec(pick_name(rng, (f"{word}_{tag}", f"{tag}_{word}")), params, purpose, body)
    if action == "first":
        default = rng.choice(("''", "None"))
        body = (*loop, "        return w", f"return {default}")
        purpose = f"the first of {described}, or {default} if there are none"
        return Spec(pick_name(rng, (f"first_{tag}", f"find_{tag}")), params, purpose, body)
    if action == "sorted":
        body = (f"kept = [w for w in {source} if {test}]", "return sorted(kept)")
        purpose = f"a sorted list of {described}"
        return Spec(pick_name(rng, (f"sort_{tag}", f"sorted_{tag}")), params, purpose, body)
    change, change_tag, value = rng.choice(_CHANGES) if rng.random() < 0.7 else ("", "", "w")
    length, symbol = str(rng.randint(2, 4)), rng.choice("!?*s")
    change, change_tag, value = (part.replace("@", length).replace("&", symbol) for part in (change, change_tag, value))
    each = f", each {change}," if change else ""
    suffix = f"_{change_tag}" if change_tag else ""
    body = ("result = []", *loop, f"        result.append({value})")
    if action == "list":
        names = (f"list_{tag}{suffix}", f"keep_{tag}{suffix}", f"{tag}{suffix}")
        purpose = f"a list of {described}{each.rstrip(',')}"
        return Spec(pick_name(rng, names), params, purpose, (*body, "return result"))
    separator = repr(rng.choice(_SEPARATORS))
    names = (f"join_{tag}{suffix}", f"{tag}{suffix}_join")
    purpose = f"{described}{each} joined with {separator}"
    return Spec(pick_name(rng, names), params, purpose, (*body, f"return {separator}.join(result)"))


KINDS = ((0.4, _characters), (0.8, _words))
