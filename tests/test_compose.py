"""The stack in compose/ is accepted by Docker, and names only settings that there are."""

import re
import shutil
import subprocess

import pytest
import yaml
from pydantic_settings import BaseSettings

from eventmill.plugins import load_plugins
from eventmill.settings import Settings, variables
from support.mill import ROOT

COMPOSE = ROOT / "compose" / "compose.yaml"


def test_every_setting_in_the_stack_is_one() -> None:
    plugins = load_plugins()
    kinds: list[type[BaseSettings]] = [Settings, *(item.record.settings for item in plugins.queues)]
    kinds += [item.record.settings for item in plugins.stores]
    known = {name for kind in kinds for name in variables(kind)}
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    named = {name for service in services.values() for name in service.get("environment", {})}
    assert {name for name in named if name.startswith("EVENTMILL_")} <= known
    assert "EVENTMILL_QUEUE_SQS_URL" in named


def test_every_variable_of_the_stack_has_its_value_in_one_place() -> None:
    values = dict(re.findall(r"^(\w+)=(.+)$", (ROOT / "compose" / ".env").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)\}", COMPOSE.read_text())) == set(values)
    assert f"ARG PYTHON_IMAGE={values['PYTHON_IMAGE']}\n" in (ROOT / "compose" / "Dockerfile").read_text()


def test_every_extra_in_the_image_is_one() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [named] = re.findall(r"'\.\[([\w,]+)\]'", (ROOT / "compose" / "Dockerfile").read_text())
    assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("profile", ["redis", "sqs", "metrics"])
def test_docker_accepts_the_stack(profile: str) -> None:
    command = ["docker", "compose"]
    if (
        shutil.which("docker") is None
        or subprocess.run([*command, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [*command, "-f", str(COMPOSE), "--profile", profile, "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
