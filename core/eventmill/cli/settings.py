"""eventmill settings: the environment variables of core and of the installed plugins, with defaults and values."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from eventmill.cli.output import print_table
from eventmill.plugins import load_plugins
from eventmill.settings import Settings, read_given

_INTRODUCTION = """\
# Settings

Settings are environment variables, or lines of a file `.env` in the working directory. eventmill warns about unknown
variables that start with `EVENTMILL_`. `eventmill settings` prints this table with the values that are set.

| variable | default | meaning |
| --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting."""

    name: str
    default: str
    meaning: str
    is_secret: bool


def show(*, as_json: bool, as_markdown: bool) -> None:
    """Print the settings, without secrets."""
    variables = list(find_variables())
    if as_markdown:
        lines = (f"| `{each.name}` | {each.default} | {each.meaning} |\n" for each in variables)
        sys.stdout.write(_INTRODUCTION + "".join(lines))
        return
    given = read_given()
    values = {each.name: "(secret)" if each.is_secret else given[each.name] for each in variables if each.name in given}
    rows = [(each.name, values.get(each.name, ""), each.default, each.meaning) for each in variables]
    columns = ("variable", "value", "default", "meaning")
    if as_json:
        sys.stdout.write(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2) + "\n")
    else:
        print_table(columns, rows)


def find_variables() -> Iterator[Variable]:
    """Yield the settings of core, of the queues and of the stores."""
    plugins = load_plugins()
    kinds: list[type[BaseSettings]] = [Settings]
    kinds += [item.record.settings for item in plugins.queues]
    kinds += [item.record.settings for item in plugins.stores]
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if field.validation_alias is None:  # otherwise it is a setting of core's, which a plugin reads too
                variable = f"{kind.model_config.get('env_prefix', '')}{name}".upper()
                is_secret = "Secret" in str(field.annotation)
                yield Variable(variable, _describe(field.default), field.description or "", is_secret)


def _describe(default: object) -> str:
    if default in (None, ()) or default is PydanticUndefined:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
