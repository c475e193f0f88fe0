"""Settings, and words for what is wrong with them."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from eventmill import ConfigurationError, PluginSettings, Reach, SettingsConfigDict
from eventmill.settings import Settings, find_unknown, load, split_address, variables


class NatsSettings(PluginSettings):
    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_NATS_")
    url: SecretStr
    count: int = Field(1, ge=1)

    @property
    def reach(self) -> Reach:
        return "network"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTMILL_BATCH_EVENTS", "17")
    monkeypatch.setenv("EVENTMILL_QUEUE", "")
    settings = load(Settings)
    assert (settings.batch_events, settings.queue) == (17, None)


def test_settings_come_from_a_dotenv_file_shared_with_plugins(empty_folder: Path) -> None:
    (empty_folder / ".env").write_text("EVENTMILL_QUEUE=nats\nEVENTMILL_QUEUE_NATS_URL=nats://x\nOTHER=1\n")
    assert load(Settings).queue == "nats"
    assert load(NatsSettings).url.get_secret_value() == "nats://x"


def test_options_take_precedence_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTMILL_LISTEN", "127.0.0.1:1")
    assert load(Settings, listen=None).listen == "127.0.0.1:1"
    assert load(Settings, listen=":2").listen == "0.0.0.0:2"


def test_a_dotenv_file_that_is_not_text_is_rejected_with_a_message(empty_folder: Path) -> None:
    (empty_folder / ".env").write_bytes(b"EVENTMILL_LOG_LEVEL=\xe9\n")
    with pytest.raises(ConfigurationError, match=r"\.env is not UTF-8"):
        load(Settings)


def test_a_missing_variable_is_named_in_full() -> None:
    with pytest.raises(ConfigurationError, match="EVENTMILL_QUEUE_NATS_URL is required"):
        load(NatsSettings)


def test_a_wrong_value_is_named_in_full_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTMILL_QUEUE_NATS_URL", "nats://secret")
    monkeypatch.setenv("EVENTMILL_QUEUE_NATS_COUNT", "0")
    with pytest.raises(ConfigurationError, match="EVENTMILL_QUEUE_NATS_COUNT: .*greater than or equal to 1") as refusal:
        load(NatsSettings)
    assert "secret" not in str(refusal.value)
    assert "secret" not in repr(load(NatsSettings, count=1))


@pytest.mark.parametrize("address", ["8080", "localhost", "localhost:", "localhost:http", "a:70000"])
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ConfigurationError, match="EVENTMILL_LISTEN: must be HOST:PORT"):
        load(Settings, listen=address)


def test_addresses_are_split_into_host_and_port() -> None:
    assert split_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert split_address("[::1]:80") == ("::1", 80)


def test_a_misspelt_variable_is_reported_with_the_one_likely_meant(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    monkeypatch.setenv("EVENTMILL_BATCH_EVENT", "1")
    (empty_folder / ".env").write_text("EVENTMILL_STOER=memory\n")
    known = variables(Settings) + variables(NatsSettings)
    assert find_unknown(known) == [
        "EVENTMILL_BATCH_EVENT is not a setting; did you mean EVENTMILL_BATCH_EVENTS?",
        "EVENTMILL_STOER is not a setting; did you mean EVENTMILL_STORE?",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "EVENTMILL_PORT",
        "EVENTMILL_SERVICE_HOST",
        "EVENTMILL_SERVICE_PORT",
        "EVENTMILL_SERVICE_PORT_HTTP",
        "EVENTMILL_PORT_8080_TCP",
        "EVENTMILL_PORT_8080_TCP_ADDR",
        "EVENTMILL_QUEUE_SERVICE_HOST",
    ],
)
def test_variables_that_kubernetes_injects_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    assert load(Settings).listen == "127.0.0.1:8080"
    assert find_unknown(variables(Settings)) == []


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_former_name_of_a_variable_works_with_a_warning(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTMILL_BATCH_ROWS", "7")
    assert load(Settings).batch_events == 7
    assert find_unknown(variables(Settings)) == [
        "EVENTMILL_BATCH_ROWS is now EVENTMILL_BATCH_EVENTS; the former name stops working in the next release"
    ]
    monkeypatch.setenv("EVENTMILL_BATCH_ROWS", "many")
    with pytest.raises(ConfigurationError, match="EVENTMILL_BATCH_ROWS: "):
        load(Settings)
    monkeypatch.setenv("EVENTMILL_BATCH_EVENTS", "8")
    assert load(Settings).batch_events == 8
