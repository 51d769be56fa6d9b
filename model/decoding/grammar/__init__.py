"""Answers that follow a grammar: vocabularies as bytes, compiled grammars, and the tokens that they admit next.

Imports no torch: the API process compiles grammars too, to refuse bad ones.
"""
