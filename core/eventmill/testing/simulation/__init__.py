"""A deterministic simulation of delivery: the real code on a virtual clock, over a queue and a store that fail.

python -m eventmill.testing.simulation 1234           # run a seed and print its story
python -m eventmill.testing.simulation 0 100000       # run many seeds; print the story of the first broken promise
"""

from eventmill.testing.simulation.plan import Plan, Post, Window, draw
from eventmill.testing.simulation.simulation import Run, simulate, simulate_plan
from eventmill.testing.simulation.sweep import sweep

__all__ = ["Plan", "Post", "Run", "Window", "draw", "simulate", "simulate_plan", "sweep"]
