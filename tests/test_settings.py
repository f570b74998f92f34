"""Sources and their order, types, ranges, suggestions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_server import setting_texts, settings
from vision_server.errors import BadSetting
from vision_server.settings import TABLE, Settings, load


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return write(tmp_path / "empty.yaml", "")


def refusal(config: Path, flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(BadSetting) as caught:
        load(flags or {}, config, environ or {})
    return str(caught.value)


def test_later_sources_win_and_origins_are_told(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "port: 1\nmax_queue: 1\nidle_timeout_s: 1\n")
    environ = {"VISION_SERVER_MAX_QUEUE": "2", "VISION_SERVER_IDLE_TIMEOUT_S": "2", "OTHER": "x"}
    loaded = load({"idle_timeout_s": "3"}, config, environ)
    assert (loaded.settings.port, loaded.settings.max_queue, loaded.settings.idle_timeout_s) == (1, 2, 3.0)
    assert loaded.settings.host == "127.0.0.1"
    assert loaded.origins["host"] == "default"
    assert loaded.origins["port"] == str(config)
    assert loaded.origins["max_queue"] == "variable VISION_SERVER_MAX_QUEUE"
    assert loaded.origins["idle_timeout_s"] == "flag --idle-timeout"


def test_the_defaults_the_project_promises(empty: Path) -> None:
    value = load({}, empty, {}).settings
    assert value == Settings()
    promised = (
        "127.0.0.1",
        54880,
        "promptgen-large",
        "auto",
        "auto",
        300.0,
        256,
        "auto",
        300.0,
        32.0,
        50.0,
        None,
        False,
    )
    names = "host port model device dtype idle_timeout_s max_queue max_batch request_timeout_s max_body_mb max_pixels_m"
    assert tuple(getattr(value, name) for name in (*names.split(), "api_key", "allow_anonymous")) == promised


def test_a_flag_is_the_name_without_its_unit() -> None:
    flags = {row.name: row.flag for row in TABLE.values()}
    assert flags["idle_timeout_s"] == "--idle-timeout"
    assert flags["max_queue"] == "--max-queue"
    assert flags["max_body_mb"] == "--max-body"
    assert flags["max_pixels_m"] == "--max-pixels"
    assert flags["feature_cache_mb"] == "--feature-cache"
    assert flags["allowed_hosts"] == "--allowed-hosts"
    assert (flags["max_queue"], flags["max_queue_mb"]) == ("--max-queue", "--max-queue-mb")
    assert flags["models"] == flags["hf_token"] == ""  # the one has no text form, the other is not for `ps`
    named = [flag for flag in flags.values() if flag]
    assert len(set(named)) == len(named) == len(flags) - 2


def test_the_file_in_the_user_folder_is_read_and_may_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path / "vision-server")
    assert load({}, None, {}).settings.port == 54880
    (tmp_path / "vision-server").mkdir()
    write(tmp_path / "vision-server" / "config.yaml", "port: 7\n")
    assert load({}, None, {}).settings.port == 7


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    assert "no such configuration file" in refusal(tmp_path / "absent.yaml")
    with pytest.raises(BadSetting, match="no such configuration file"):
        load({}, None, {"VISION_SERVER_CONFIG": str(tmp_path / "absent.yaml")})


def test_the_variable_names_the_file(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "port: 9\n")
    assert load({}, None, {"VISION_SERVER_CONFIG": str(config)}).settings.port == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: [", "line 1: this is not YAML"),
        ("a: 1\n b: 2\n", "this is not YAML"),
        ("- port\n", "expected lines of `name: value`, found a list"),
        ("prot: 1\n", "no setting prot; did you mean port?"),
        ("idle_timeout: 5\n", "no setting idle_timeout; did you mean idle_timeout_s?"),
        ("12: 5\n", "no setting 12"),
        ("xyzzy: 1\n", "no setting xyzzy. `vision-server --help` lists them."),
        ("port: true\n", "port must be a number, not True"),
        ("port: null\n", "port must be a number, not None"),
        ("host: 12\n", "host must be text"),
        ("prompts: 3\n", "prompts must be a list of texts"),
        ("prompts: ['<>']\n", "prompts must hold prompts such as"),
        ("api_key: 12345\n", "api_key must be text of printable ASCII"),
    ],
)
def test_a_bad_file_is_one_clear_sentence(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(write(tmp_path / "c.yaml", text))
    assert said in message
    assert str(tmp_path / "c.yaml") in message
    assert "\n" not in message


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"port: \xff\xfe")
    assert "cannot be read" in refusal(tmp_path / "c.yaml")
    assert "cannot be read" in refusal(tmp_path)


def test_an_unknown_variable_suggests_the_nearest(empty: Path) -> None:
    message = refusal(empty, environ={"VISION_SERVER_IDLE_TIMEOUT": "3"})
    assert message.endswith("did you mean VISION_SERVER_IDLE_TIMEOUT_S?")


def test_an_empty_variable_counts_as_unset(empty: Path) -> None:
    assert load({}, empty, {"VISION_SERVER_PORT": "", "VISION_SERVER_API_KEY": ""}).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "70000", "whole number between 0 and 65535"),
        ("port", "80.5", "whole number between 0 and 65535"),
        ("port", "http", "must be a number, not 'http'"),
        ("max_queue", "0", "between 1 and"),
        ("idle_timeout_s", "-2", "0 (release as soon as the work is done) or -1 (never)"),
        ("idle_timeout_s", "nan", "finite"),
        ("idle_timeout_s", "1e999", "finite"),
        ("request_timeout_s", "0", "between 0.001 and"),
        ("max_batch", "many", "must be auto or a whole number"),
        ("device", "gpu", "must be auto, cpu, cuda"),
        ("device", "cuda:x", "must be auto, cpu, cuda"),
        ("dtype", "int4", "must be one of auto, float32, float16, bfloat16"),
        ("allow_anonymous", "maybe", "must be true or false"),
        ("allowed_hosts", "http://x", "bare host names"),
        ("allowed_hosts", "box:80", "bare host names"),
        ("allowed_hosts", "*.lan", "bare host names"),
        ("trusted_proxies", "proxy.lan", "addresses or networks"),
        ("trusted_proxies", "10.0.0.0/33", "addresses or networks"),
        ("allowed_origins", "*", "exact origins"),
        ("allowed_origins", "https://a.example/path", "exact origins"),
        ("host", "  ", "must be text"),
        ("api_key", "two words", "printable ASCII"),
        ("offline", "perhaps", "must be true or false"),
        ("model_aliases", "gpt-4o", "must be a mapping of texts"),
        ("phrases", "describe=", "must be a mapping of texts"),
        ("hf_endpoint", "hub.example", "must be an address such as https://hub.example"),
        ("hf_endpoint", "https://me:pw@hub.example", "must be an address"),
        ("hf_endpoint", "ftp://hub.example", "must be an address"),
        ("download_stall_timeout_s", "0", "between 0.001 and"),
        ("feature_cache_mb", "-1", "between 0 and 65536"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_source(empty: Path, name: str, value: str, said: str) -> None:
    flagged = refusal(empty, flags={name: value})
    assert said in flagged
    assert flagged.startswith(f"flag {TABLE[name].flag}: {name} ")
    assert said in refusal(empty, environ={TABLE[name].variable: value})


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("model_aliases", "gpt-4o = base, other=large", (("gpt-4o", "base"), ("other", "large"))),
        ("phrases", {"what is  this, please?": " <CAPTION>"}, (("what is this, please?", "<CAPTION>"),)),
        ("phrases", "1+1=2=<OCR>", (("1+1=2", "<OCR>"),)),
        ("phrases", None, ()),
        ("idle_timeout_s", "-1", -1.0),
        ("idle_timeout_s", 0, 0.0),
        ("max_batch", "8", 8),
        ("feature_cache_mb", "0", 0.0),
        ("max_batch", "AUTO", "auto"),
        ("device", "CUDA:1", "cuda:1"),
        ("allow_anonymous", "yes", True),
        ("allow_anonymous", False, False),
        ("allowed_hosts", "Box, [::1],10.0.0.1", ("box", "::1", "10.0.0.1")),
        ("trusted_proxies", "10.1.2.3/8, ::1, 10.0.0.1", ("10.0.0.0/8", "::1/128", "10.0.0.1/32")),
        ("allowed_origins", ["https://App.example:8443/"], ("https://app.example:8443",)),
        ("prompts", "<A>, B", ("<A>", "B")),
        ("prompts", ["<A>"], ("<A>",)),
        ("prompts", None, ()),
        ("api_key", "s3cret", "s3cret"),
        ("api_key", None, None),
        ("hf_token", "hf_secret", "hf_secret"),
        ("hf_endpoint", "https://hub.example/mirror/", "https://hub.example/mirror"),
        ("hf_endpoint", "", None),
        ("cache_dir", "down", Path("down").absolute()),
        ("cache_dir", "~/down", Path("~/down").expanduser()),
        ("cache_dir", None, None),
    ],
)
def test_values_are_read_from_text_and_from_yaml_types(empty: Path, name: str, raw: object, value: object) -> None:
    assert getattr(load({name: raw}, empty, {}).settings, name) == value


@given(st.sampled_from(sorted(TABLE)), st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.booleans()))
def test_any_value_is_taken_or_refused_never_more(name: str, raw: object) -> None:
    message = "must "
    try:
        TABLE[name].kind.parse(raw)
    except ValueError as error:
        message = str(error)
    assert message.startswith("must ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "box.lan"])
def test_a_reachable_address_needs_a_key_or_the_word(host: str) -> None:
    with pytest.raises(BadSetting, match="--allow-anonymous"):
        Settings(host=host)
    assert not Settings(host=host, api_key="k").loopback
    assert not Settings(host=host, allow_anonymous=True).loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).loopback


def test_the_key_and_the_token_are_not_in_the_repr() -> None:
    assert "s3cret" not in repr(Settings(api_key="s3cret", hf_token="hf_s3cret"))
    assert {row.name for row in TABLE.values() if row.secret} == {"api_key", "hf_token"}


def test_the_token_is_no_flag_and_the_models_stand_in_the_file_only(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    setting_texts.add_flags(parser)
    assert "--hf-token" not in parser.format_help()
    assert "--models" not in parser.format_help()
    loaded = load({}, write(tmp_path / "c.yaml", "hf_token: hf_a\n"), {"VISION_SERVER_HF_TOKEN": "hf_b"})
    assert loaded.settings.hf_token == "hf_b"
    assert "no setting VISION_SERVER_MODELS" in refusal(tmp_path / "c.yaml", environ={"VISION_SERVER_MODELS": "{}"})


def test_the_first_of_the_models_is_the_default_unless_one_is_named(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "models:\n  base:\n  large: {dtype: float16}\n")
    assert load({}, config, {}).settings.model == "base"
    assert load({"model": "large"}, config, {}).settings.model == "large"
    assert [entry.name for entry in load({}, config, {}).settings.models] == ["base", "large"]


def test_a_daemon_can_be_given_an_environment_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISION_SERVER_PORT", "1")
    monkeypatch.setenv("KEPT", "1")
    clean = settings.environment_without_settings()
    assert clean["KEPT"] == "1"
    assert not [name for name in clean if name.startswith("VISION_SERVER_")]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("http://127.0.0.1:54880", None)),
        ({"VISION_HOST": "", "VISION_API_KEY": ""}, ("http://127.0.0.1:54880", None)),
        ({"VISION_HOST": "example:1", "VISION_API_KEY": "k"}, ("example:1", "k")),
    ],
)
def test_where_clients_find_a_server(environ: dict[str, str], expected: tuple[str, str | None]) -> None:
    assert settings.server_to_ask(environ) == expected
