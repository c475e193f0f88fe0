"""Queries: one file per kind of query, with its dataclass, its parsing and its reference answer."""
