"""Run seeds, and print the story of the first that breaks a promise. Exit with 1 if one does."""

import sys

from rich.progress import track

from eventmill.testing.simulation import simulate, sweep


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or not all(argument.isdecimal() for argument in arguments):
        sys.stderr.write("usage: python -m eventmill.testing.simulation SEED [COUNT]\n")
        return 2
    first, count = int(arguments[0]), int(arguments[1]) if len(arguments) == 2 else 1
    if count == 1:
        run = simulate(first)
        sys.stdout.write("\n".join(run.story) + "\n")
        return 1 if run.violations else 0
    runs = track(sweep(first, count), "seeds", count, disable=not sys.stderr.isatty())
    broken = sorted((run for run in runs if run is not None), key=lambda run: run.seed)
    for run in broken[:20]:
        sys.stdout.write(f"seed {run.seed}: {run.violations[0]}\n")
    if broken:
        sys.stdout.write("\n".join(broken[0].story) + "\n")
    sys.stdout.write(f"{count} seeds, {len(broken)} with a broken promise\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
