"""Makes chat prompts from Debian packages: WordNet's glosses, names of manual pages, fortunes.

Nothing of it is kept in this project: the packages ``wordnet-base``, ``manpages`` and ``fortunes`` are read where they
are installed or unpacked. The prompts have no answers; the model that is trained answers them itself.
"""

import gzip
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cdlm.training.errors import TrainingError

Item = TypeVar("Item")

_WORD = (
    "What is {a} {word}?",
    "Explain what {a} {word} is in simple words.",
    "How would you describe {a} {word} to a child?",
    'Tell me something interesting about the word "{word}".',
    "Write a short paragraph about {a} {word}.",
    'Use the word "{word}" in two sentences.',
    'Give me three words that are related to "{word}".',
    "Write a two-sentence story with {a} {word} in it.",
    "What would I use {a} {word} for, and what should I watch out for?",
    "Why might someone care about {a} {word}?",
)
_GLOSS = (
    "Which word means: {gloss}?",
    'I am looking for a word. It means "{gloss}". What could it be?',
    "Put this definition into simpler words: {gloss}.",
    "Give me an example of {gloss}.",
)
_EXAMPLE = (
    'Rewrite this sentence in other words: "{example}"',
    'What could come after this sentence? "{example}"',
    'Make this more polite: "{example}"',
    'Turn this into a question: "{example}"',
)
_MANUAL = (
    "On Linux, what does {name} do?",
    "What is {name} for on a Linux system?",
    "Which Linux command, file or function has to do with this: {purpose}?",
    'Explain this line of a manual to a beginner: "{name} - {purpose}"',
)
_FORTUNE = (
    "What does this saying mean? \"{saying}\"",
    "Do you agree with this, and why? \"{saying}\"",
    "Say this in plain words: \"{saying}\"",
    "Give me a short title for this: \"{saying}\"",
)  # fmt: skip
_WRITING = (
    "Write a short email to my {who} about {a} {word}.",
    "Give me two tips about {a} {word} for a beginner.",
    "List five things that one can say about {a} {word}.",
    "Write a four-line poem about {a} {word}.",
    "My {who} asked me about {a} {word}. What should I answer?",
    "Plan a short lesson about {a} {word} for my {who}.",
)
_EVERYDAY = (
    "How do I choose {a} {word}?",
    "What do people usually get wrong about {a} {word}?",
    "How is {a} {word} different from {b} {other}?",
    "Compare {a} {word} with {b} {other} in a few sentences.",
    "What should my {who} know before buying {a} {word}?",
    "Tell my {who} a short story about {a} {word} and {b} {other}.",
    "How would I start to learn about {a} {word}?",
    "What are the good and the bad sides of {a} {word}?",
    "Can you explain how {a} {word} works?",
    "Where does the word {word} come from?",
    "Write a birthday wish to my {who} that mentions {a} {word}.",
    "What questions should I ask about {a} {word}?",
    "Help me describe {a} {word} in an advertisement.",
    "I lost my {word}. What should I do now?",
    "Why would anyone need both {a} {word} and {b} {other}?",
    "Give me some ideas for {a} {word} at home.",
    "Make a short plan for a day with my {who} and {a} {word}.",
    "My {who} is worried about {a} {word}. What can I say?",
)
_PEOPLE = ("teacher", "boss", "neighbor", "sister", "friend", "class", "team", "landlord", "grandmother", "customer")
_LONGEST = 160  # Characters of a gloss or a saying.


def read_prompts(wordnet: Path, manual: Path, fortunes: Path, count: int, seed: int | str) -> list[str]:
    """Returns ``count`` distinct prompts, determined by packages and seed.

    Args:
        wordnet: directory with ``index.noun`` and ``data.noun``, ``/usr/share/wordnet``.
        manual: directory with ``man1`` and so on, ``/usr/share/man``.
        fortunes: directory of fortune files, ``/usr/share/games/fortunes``.

    Raises:
        TrainingError: a directory lacks these files, or they do not give ``count`` different prompts.
    """
    rng = random.Random(f"prompts/{seed}")
    words, glosses, examples = _read_wordnet(wordnet)
    pages, sayings = _read_manual(manual), _read_fortunes(fortunes)

    def about_word(template: str) -> str:
        word, other = rng.choice(words), rng.choice(words)
        return template.format(word=word, a=_article(word), other=other, b=_article(other), who=rng.choice(_PEOPLE))

    def about_page(template: str) -> str:
        name, purpose = rng.choice(pages)
        return template.format(name=name, purpose=purpose)

    makers: list[tuple[float, tuple[str, ...], Callable[[str], str]]] = [
        (0.20, _WORD, about_word),
        (0.16, _WRITING, about_word),
        (0.24, _EVERYDAY, about_word),
        (0.10, _GLOSS, lambda template: template.format(gloss=rng.choice(glosses))),
        (0.10, _EXAMPLE, lambda template: template.format(example=rng.choice(examples))),
        (0.10, _MANUAL, about_page),
        (0.10, _FORTUNE, lambda template: template.format(saying=rng.choice(sayings))),
    ]
    shares = [share for share, _, _ in makers]
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            return list(found)
        _, templates, make = rng.choices(makers, shares)[0]
        found[make(rng.choice(templates))] = None
    raise TrainingError(f"{wordnet}, {manual} and {fortunes} give only {len(found)} different prompts, not {count}")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _read_wordnet(directory: Path) -> tuple[list[str], list[str], list[str]]:
    """Reads common nouns, short definitions, and example sentences."""
    words = []
    for line in _lines(directory / "index.noun"):
        fields = line.split()
        # Behind the pointers: the number of senses, and how many of them were met in tagged texts.
        tagged = int(fields[5 + int(fields[3])])
        if tagged >= 2 and re.fullmatch("[a-z]{3,12}", fields[0]):
            words.append(fields[0])
    glosses, examples = [], []
    for line in _lines(directory / "data.noun"):
        gloss, *quoted = line.partition(" | ")[2].strip().split('"')
        gloss = gloss.strip(" ;:,")
        if 20 <= len(gloss) <= _LONGEST and "(" not in gloss:
            glosses.append(gloss)
        examples += [text for text in quoted[::2] if 20 <= len(text) <= _LONGEST]
    return _filled(directory, words), _filled(directory, glosses), _filled(directory, examples)


def _read_manual(directory: Path) -> list[tuple[str, str]]:
    """Names and purposes, from the section NAME of every page."""
    found = []
    for path in sorted(directory.glob("man[1-8]/*.gz")):
        text = gzip.decompress(path.read_bytes()).decode(errors="replace")
        section = re.search(r'^\.SH "?NAME"?\n(.+?)^\.S', text, re.MULTILINE | re.DOTALL)
        if section is None:
            continue
        name, dash, purpose = " ".join(section[1].split()).replace("\\-", "-").partition(" - ")
        if dash and not re.search(r"[\\\"]|^\.", name + purpose):
            found.append((name.split(",")[0], purpose))
    return _filled(directory, found)


def _read_fortunes(directory: Path) -> list[str]:
    """Reads short sayings that are one paragraph without quotation marks."""
    found = []
    for path in sorted(directory.iterdir() if directory.is_dir() else ()):
        if path.suffix:
            continue
        for entry in path.read_text(errors="replace").split("\n%\n"):
            saying = " ".join(re.split(r"\n\s*--", entry)[0].split())
            if 30 <= len(saying) <= _LONGEST and not re.search(r'["\\|_^]|\s--|:\s', saying):
                found.append(saying)
    return _filled(directory, found)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    return [line for line in lines if line and line[0] != " "]  # Lines that begin with a space are the license.


def _filled(directory: Path, items: list[Item]) -> list[Item]:
    if not items:
        raise TrainingError(f"{directory} holds nothing that prompts are made of")
    return items
