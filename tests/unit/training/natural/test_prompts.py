import re
from pathlib import Path

import pytest

from cdlm.training.errors import TrainingError
from cdlm.training.natural.prompts import read_prompts
from tests.support.packages import write_packages


def test_prompts_are_made_of_words_glosses_pages_and_sayings(tmp_path: Path) -> None:
    places = write_packages(tmp_path)
    prompts = read_prompts(**places, count=60, seed=1)
    assert len(set(prompts)) == 60
    assert prompts == read_prompts(**places, count=60, seed=1) != read_prompts(**places, count=60, seed=2)
    text = "\n".join(prompts)
    assert "an apple" in text
    assert "an engine" in text
    assert "motor that turns energy into work" in text
    assert "the engine would not start today" in text
    assert "list directory contents" in text
    assert "A clash of doctrine is not a disaster, it is an opportunity." in text
    for absent in ("zymurgy", "brass", "LICENSEE", "Someone", "Too short", "quoted", "{", "\\"):
        assert absent not in text  # Words that no tagged text has, and entries that do not make a prompt.
    assert not re.search(r"\ba [aeiou]", text.replace("a clash", ""))


def test_packages_that_are_missing_or_too_small_are_named(tmp_path: Path) -> None:
    places = write_packages(tmp_path)
    with pytest.raises(TrainingError, match="give only"):
        read_prompts(**places, count=5000, seed=1)
    (places["fortunes"] / "wisdom").unlink()
    with pytest.raises(TrainingError, match=re.escape(str(places["fortunes"]))):
        read_prompts(**places, count=5, seed=1)
    with pytest.raises(TrainingError, match="nowhere/index.noun: cannot be read"):
        read_prompts(**{**places, "wordnet": Path("nowhere")}, count=5, seed=1)
