"""Directories as Debian's wordnet-base, manpages and fortunes install them, with a few entries."""

import gzip
from pathlib import Path

INDEX = """  1 This software and database is being provided to you, the LICENSEE.
apple n 2 3 @ ~ #p 2 2 07739125 12633994
brass_ring n 1 1 @ 1 5 05155821
zymurgy n 1 1 @ 1 0 06084469
engine n 4 2 @ ~ 4 3 03287733 03288225 03288500 06800000
"""
DATA = """  1 This software and database is being provided to you, the LICENSEE.
07739125 13 n 01 apple 0 001 @ 07705931 n 0000 | fruit with red or yellow or green skin and sweet to tart crisp flesh
03287733 06 n 01 engine 0 001 @ 03744840 n 0000 | motor that turns energy into work; "the engine would not start today"
"""
PAGE = """.TH LS 1
.SH NAME
ls \\- list directory contents
.SH SYNOPSIS
"""
FORTUNES = """A clash of doctrine is not a disaster, it is an opportunity.
\t\t-- Someone
%
Too short.
%
This one says "quoted" things and is therefore left out here.
"""


def write_packages(directory: Path) -> dict[str, Path]:
    """The three directories, by the names that the configuration gives them."""
    places = {name: directory / name for name in ("wordnet", "manual", "fortunes")}
    for place in places.values():
        place.mkdir(parents=True)
    (places["wordnet"] / "index.noun").write_text(INDEX)
    (places["wordnet"] / "data.noun").write_text(DATA)
    (places["manual"] / "man1").mkdir()
    (places["manual"] / "man1" / "ls.1.gz").write_bytes(gzip.compress(PAGE.encode()))
    (places["fortunes"] / "wisdom").write_text(FORTUNES)
    (places["fortunes"] / "wisdom.dat").write_bytes(b"\0\1")
    return places
