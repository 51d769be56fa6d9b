"""Answers bound to a grammar: vocabularies as bytes, compiled grammars, and what they admit next.

Nothing here needs torch: the API process compiles grammars too, to refuse bad ones.
"""
