"""Every setting of the server: one frozen value, and the one table it is read, checked and documented from.

A value comes from the defaults, then the YAML file, then VISION_SERVER_* variables, then flags; the later one wins.
How the table is shown to people is in `setting_texts`. This is the only module that reads the environment. No setting
is a global: whoever needs one is handed the `Settings`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import BadSetting
from .setting_kinds import (
    ALIASES,
    DEVICE,
    DTYPE,
    ENDPOINT,
    FETCH_HOSTS,
    FOLDER,
    HOSTS,
    IDLE,
    KEY,
    NETWORKS,
    ORIGINS,
    PHRASES,
    PROMPTS,
    SWITCH,
    TEXT,
    Kind,
    choice,
    number,
    whole,
    whole_or_auto,
)
from .setting_models import MODELS, ModelEntry

ENV_PREFIX = "VISION_SERVER_"
CONFIG_VARIABLE = "VISION_SERVER_CONFIG"
DEFAULT_MODEL = "promptgen-large"
_UNITS = ("_s", "_mb", "_m")
_T = TypeVar("_T")


def _row(kind: Kind, default: _T, meaning: str, *, flag: bool = True) -> _T:
    row: _T = field(default=default, repr=kind is not KEY, metadata={"kind": kind, "help": meaning, "flag": flag})
    return row


@dataclass(frozen=True)
class Settings:
    """All settings, checked. Raises BadSetting when they contradict one another."""

    host: str = _row(TEXT, "127.0.0.1", "Address to listen on. Anything but loopback needs api_key or allow_anonymous.")
    port: int = _row(whole(0, 65535), 54880, "Port to listen on; 0 takes a free one.")
    model: str = _row(
        TEXT, DEFAULT_MODEL, "Checkpoint: a name that `vision-server models` lists, owner/name on the hub, or a folder."
    )
    revision: str = _row(TEXT, "main", "Branch, tag or commit of a checkpoint on the hub.")
    models: tuple[ModelEntry, ...] = _row(
        MODELS, (), "YAML only: several checkpoints by name, each with options; `model` is the default one."
    )
    adapter: Path | None = _row(FOLDER, None, "Folder with a LoRA adapter of PEFT's for `model`, merged at load.")  # noqa: RUF009  a field, as all
    hf_token: str | None = _row(KEY, None, "Token for the hub; none: HF_TOKEN, or the hub library's own.", flag=False)
    hf_endpoint: str | None = _row(ENDPOINT, None, "Address of the hub or a mirror; none: HF_ENDPOINT, or the hub's.")
    cache_dir: Path | None = _row(FOLDER, None, "Folder for downloads; none: the hub library's.")  # noqa: RUF009  a field, as all
    offline: bool = _row(SWITCH, False, "Never ask the hub, as with HF_HUB_OFFLINE=1: use what is there.")
    wait_for_download: bool = _row(SWITCH, True, "Requests wait for a download; no: they get 503 with Retry-After.")
    download_stall_timeout_s: float = _row(
        number(0.001, 86_400),
        60.0,
        "A download without a byte for this long ends; at most half of load_stall_timeout_s.",
    )
    device: str = _row(DEVICE, "auto", "auto (cuda, mps, xpu, cpu in this order), cpu, cuda, cuda:1, mps, xpu.")
    dtype: str = _row(DTYPE, "auto", "Precision the model computes in.")
    idle_timeout_s: float = _row(
        IDLE, 300.0, "The worker ends after this many seconds without work; 0 at once, -1 never."
    )
    standby: bool = _row(SWITCH, False, "Keep a process without model and GPU (260 MB of RAM) that wakes up sooner.")
    max_queue: int = _row(whole(1, 100_000), 256, "Requests that may wait; one more is refused with 429.")
    max_queue_mb: float = _row(
        number(0.001, 1_048_576), 512.0, "MiB of bodies that arrive and pictures that are here; more gets 429."
    )
    max_per_client: int = _row(whole(0, 100_000), 0, "Requests of one client that may be here at once; 0: any number.")
    rate_limit_per_min: int = _row(whole(0, 1_000_000), 0, "Requests of one client in a minute; 0: any number.")
    trusted_proxies: tuple[str, ...] = _row(
        NETWORKS, (), "Addresses, networks whose X-Forwarded-For says who the client is (IPv6: its /64)."
    )
    max_batch: int | Literal["auto"] = _row(
        whole_or_auto(1, 1024), "auto", "Requests decoded together; auto asks the device's memory."
    )
    feature_cache_mb: float = _row(
        number(0, 65_536), 64.0, "MiB of image features kept for the next prompts on a picture; 0 for none."
    )
    request_timeout_s: float = _row(number(0.001, 86_400), 300.0, "A request that waited longer is answered with 504.")
    load_stall_timeout_s: float = _row(
        number(0.001, 86_400), 120.0, "A load that reports no progress for this long is ended."
    )
    step_stall_timeout_s: float = _row(
        number(0.001, 86_400), 120.0, "A worker whose decoding stands still for this long is ended."
    )
    body_timeout_s: float = _row(number(0.001, 86_400), 60.0, "A request body that takes longer to arrive gets 408.")
    shutdown_grace_s: float = _row(number(0, 86_400), 30.0, "Time that SIGTERM leaves to the requests in flight.")
    leave_notice_s: float = _row(
        number(0, 3600), 0.0, "Time before that in which all is served and /ready says 503, for balancers to notice."
    )
    max_body_mb: float = _row(number(0.001, 1024), 32.0, "Largest picture file, in MiB (base64 may be 4/3 of it).")
    max_pixels_m: float = _row(number(0.001, 268), 50.0, "Most pixels of a picture, in millions.")
    api_key: str | None = _row(KEY, None, "Key asked of every client (Bearer or X-API-Key). A flag shows in `ps`.")
    allow_anonymous: bool = _row(SWITCH, False, "Serve without a key although others can reach the address.")
    allowed_hosts: tuple[str, ...] = _row(HOSTS, (), "More names that the Host header may carry, without port.")
    allowed_origins: tuple[str, ...] = _row(ORIGINS, (), "Web origins that may call, e.g. https://app.example.")
    fetch_hosts: tuple[str, ...] = _row(
        FETCH_HOSTS, (), "Public hosts that pictures are fetched from, *.name for all below; none: no fetching."
    )
    fetch_timeout_s: float = _row(number(0.001, 3600), 10.0, "A picture at an address must be here within this time.")
    default_prompt: str = _row(TEXT, "<CAPTION>", "Prompt of a request that names none.")
    prompts: tuple[str, ...] = _row(PROMPTS, (), "More prompts the model understands, sent to it literally.")
    phrases: tuple[tuple[str, str], ...] = _row(
        PHRASES, (), "Words in chat texts, and the prompt they ask for: `describe this=<CAPTION>`."
    )
    model_aliases: tuple[tuple[str, str], ...] = _row(
        ALIASES, (), "More names that clients may ask for, and who answers: `gpt-4o=promptgen-large`."
    )
    log_format: str = _row(choice("text", "json"), "text", "Form of a log line.")
    log_level: str = _row(choice("debug", "info", "warning", "error"), "info", "Least severity that is logged.")

    def __post_init__(self) -> None:
        if not self.loopback and self.api_key is None and not self.allow_anonymous:
            raise BadSetting(
                f"host {self.host} can be reached from other machines: set api_key (VISION_SERVER_API_KEY), "
                "or say --allow-anonymous."
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach `host`. A name that is not localhost counts as reachable by others."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Row:
    """One line of the table. `default` is the value itself, not text; `flag` and `variable` are "" if there is none."""

    name: str
    kind: Kind
    default: Any
    help: str
    flagged: bool

    @property
    def secret(self) -> bool:
        return self.kind is KEY

    @property
    def flag(self) -> str:
        if not self.flagged or self.kind is MODELS:
            return ""
        stems = (self.name[: -len(unit)] for unit in _UNITS if self.name.endswith(unit))
        stem = next((stem for stem in stems if stem not in TABLE), self.name)  # max_queue and max_queue_mb
        return "--" + stem.replace("_", "-")

    @property
    def variable(self) -> str:
        return "" if self.kind is MODELS else ENV_PREFIX + self.name.upper()


TABLE: dict[str, Row] = {
    f.name: Row(f.name, f.metadata["kind"], f.default, f.metadata["help"], f.metadata["flag"]) for f in fields(Settings)
}


@dataclass(frozen=True)
class Loaded:
    """The settings, where each value came from, and the YAML file that was (or would have been) read."""

    settings: Settings
    origins: dict[str, str]
    config_path: Path


def load(flags: Mapping[str, Any], config: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Settings from every source. `flags` maps setting names to what the command line said.

    A `config` that is named (here or by VISION_SERVER_CONFIG) must exist; the one in the user's configuration folder
    may be absent. Raises BadSetting, whose message names the source, the value and the way out.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(TABLE, "default")
    path, required = _config_path(config, environ)

    def take(name: str, raw: object, origin: str) -> None:
        try:
            values[name] = TABLE[name].kind.parse(raw)
        except ValueError as error:
            raise BadSetting(f"{origin}: {name} {error}") from None
        origins[name] = origin

    for key, raw in _read_yaml(path, required).items():
        take(_known(key, TABLE, f"{path}"), raw, f"{path}")
    names = {row.variable: row.name for row in TABLE.values() if row.variable}
    for variable, text in environ.items():
        if variable.startswith(ENV_PREFIX) and variable != CONFIG_VARIABLE:
            name = names[_known(variable, names, "environment")]
            if text:  # compose files hand an unset variable down as an empty one
                take(name, text, f"variable {variable}")
    for name, raw in flags.items():
        take(name, raw, f"flag {TABLE[name].flag}")
    if values.get("models") and "model" not in values:
        values["model"] = values["models"][0].name
    return Loaded(Settings(**values), origins, path)


def environment_without_settings() -> dict[str, str]:
    """This process's environment less every VISION_SERVER_* variable: for a daemon that must not inherit them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def server_to_ask(environ: Mapping[str, str] | None = None) -> tuple[str, str | None]:
    """The address, and the key if there is one, for commands that ask a running server: VISION_HOST, VISION_API_KEY."""
    environ = os.environ if environ is None else environ
    here = f"http://{TABLE['host'].default}:{TABLE['port'].default}"
    return environ.get("VISION_HOST") or here, environ.get("VISION_API_KEY") or None


def take_variables(names: Collection[str]) -> dict[str, str]:
    """Those of these variables that are set, taken out of the environment: meant for this process, not its children."""
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def hand_down(variables: Mapping[str, str]) -> None:
    """For libraries that are not imported yet and for this process's children: those that are not set already."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def let_waiting_threads_sleep() -> None:
    """For this process's children: GNU OpenMP's threads spin only shortly before they sleep, unless told otherwise.

    By default they spin for milliseconds. On a machine with other work, the one that waits then keeps the core from the
    one it waits for, and captions were seen to take twenty times as long; not to spin at all makes a quiet one slower.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _config_path(config: Path | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    if config is not None:
        return config, True
    if environ.get(CONFIG_VARIABLE):
        return Path(environ[CONFIG_VARIABLE]), True
    import platformdirs  # imported late: `--config` and tests do not need it

    return platformdirs.user_config_path("vision-server", appauthor=False) / "config.yaml", False


def _read_yaml(path: Path, required: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if required:
            raise BadSetting(f"{path}: there is no such configuration file.") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{path}: cannot be read ({type(error).__name__}).") from None
    import yaml

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadSetting(f"{path}{where}: this is not YAML.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadSetting(f"{path}: expected lines of `name: value`, found a {type(content).__name__}.")
    return content


def _known(key: object, known: Collection[str], where: str) -> str:
    if isinstance(key, str) and key in known:
        return key
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ". `vision-server --help` lists them."
    raise BadSetting(f"{where}: there is no setting {key}{hint}")
