"""Queries: one file per kind of question, with its dataclass, its parsing and its reference answer."""
