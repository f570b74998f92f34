"""Who may import whom, one way. Read by ast from every file, so that a lazy import counts too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vision_server"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room is a module, or a folder with all that is in it. What is not named here has no room, and the test says so.
ROOMS: dict[str, str] = {
    "": "",
    "errors": "",
    "log": "",
    "quotas": "errors",
    "fetching": "",
    "fetching.address": "errors",
    "fetching.connection": "errors fetching.address",
    "setting_kinds": "fetching.address",
    "setting_models": "setting_kinds",
    "settings": "errors setting_kinds setting_models",
    "setting_texts": "setting_kinds setting_models settings",
    "hub": "errors",
    "catalog": "errors hub tasks",
    "footprint": "catalog",
    "images": "errors",
    "tasks": "errors",
    "served": "errors setting_models settings hub catalog tasks",
    "engine": "errors",
    "outlines": "tasks",
    "client": "",
    "client.retries": "",
    "client.server": "client.retries",
    "client.terminal": "tasks",
    "client.checkup": "client.server client.terminal",
    "worker": "",
    "worker.protocol": "errors",
    "worker.lane": "worker.protocol",
    "worker.line": "worker.lane",
    "worker.idle": "worker.lane",
    "worker.transfer": "worker.protocol",
    "worker.setbacks": "errors worker.line",
    "worker.process": "errors worker.protocol",
    "worker.memory": "",
    "worker.life": "errors worker.lane worker.process worker.protocol worker.setbacks worker.transfer",
    "worker.supervisor": "errors worker.idle worker.lane worker.life worker.line worker.process worker.protocol "
    "worker.setbacks worker.transfer",
    "worker.spare": "log worker.process worker.protocol",
    "worker.standby": "worker.life",
    "worker.runner": "errors log worker.lane worker.life worker.memory worker.process worker.protocol worker.spare "
    "worker.standby worker.supervisor",
    "worker.resources": "",
    "worker.decode": "errors images",
    "worker.stepper": "errors tasks worker.decode worker.protocol",
    "worker.ahead": "worker.resources",
    "worker.imports": "engine worker.ahead worker.decode",
    "worker.equipping": "engine worker.protocol worker.resources worker.stepper",
    "worker.child": "errors log hub tasks engine worker.ahead worker.equipping worker.imports worker.resources "
    "worker.decode worker.protocol worker.stepper",
    "worker.status": "errors worker.life worker.process worker.protocol worker.supervisor",
    "jobs": "errors quotas worker.lane worker.life worker.protocol worker.runner worker.status",
    "service_manager": "errors",
    "daemon": "service_manager settings api",
    "api": "errors quotas settings served footprint images fetching.address fetching.connection tasks jobs",
    "doctor": "client.checkup errors settings hub catalog served",
    "client.names": "",
    "client.sketch": "client.names tasks worker.decode",
    "client.telling": "client.sketch client.terminal errors",
    "client.sources": "client.server",
    "client.files": "client.names client.server client.sources client.telling",
    "client.records": "client.files client.server client.telling client.terminal",
    "client.conversation": "client.server client.sources client.telling client.terminal errors",
    "client.xmp": "",
    "client.exif": "",
    "client.embedded": "client.exif client.xmp images",
    "client.metadata": "client.embedded client.files client.server client.terminal client.xmp errors images tasks",
    "client.batch": "client.files client.metadata client.records client.server client.sources "
    "client.telling client.terminal errors",
    "client.caption": "client.batch client.conversation client.files client.metadata client.records client.server "
    "client.sources client.telling client.terminal settings",
    "demo": "client.server client.sketch client.terminal errors outlines settings tasks",
    "pull": "errors settings hub catalog served",
    "merging": "errors settings served pull engine",
    "listing": "errors settings hub catalog footprint served",
    "dataset": "errors tasks worker.decode",
    "finetune": "dataset errors engine evaluation.cider finetune.flags finetune.options outlines pull served settings "
    "tasks training",
    "finetune.options": "",
    "finetune.flags": "errors finetune.options",
    "bulk": "dataset engine errors pull served settings tasks worker.equipping worker.process worker.protocol "
    "worker.resources worker.stepper",
    "bulk.flags": "",
    "cli": "bulk bulk.flags client client.caption errors log setting_texts settings daemon doctor demo evaluation "
    "evaluation.command evaluation.flags finetune finetune.flags listing merging pull",
    "__main__": "cli",
    "training": "errors log tasks engine outlines",
    "evaluation": "",
    "evaluation.cider": "",
    "evaluation.flags": "",
    "evaluation.questions": "dataset errors tasks",
    "evaluation.detection": "tasks",
    "evaluation.measures": "outlines tasks evaluation.cider evaluation.detection",
    "evaluation.runs": "errors tasks evaluation.measures",
    "evaluation.comparison": "errors evaluation.runs",
    "evaluation.tables": "evaluation.comparison evaluation.measures",
    "evaluation.command": "dataset errors settings served pull engine evaluation evaluation.comparison "
    "evaluation.questions evaluation.runs evaluation.tables",
}

# Outside libraries that only these rooms may import.
KEPT = {
    "torch": "bulk engine finetune training worker.child worker.equipping worker.imports",
    "transformers": "finetune training",
    "aiohttp": "api daemon fetching.connection",
    "numpy": "engine evaluation.comparison evaluation.detection evaluation.measures training worker.decode",
    "PIL": "client.sketch dataset engine outlines training worker.decode worker.stepper",
    "yaml": "settings",
    "platformdirs": "settings",
    "huggingface_hub": "hub",
    "ray": "bulk",
    "pyarrow": "bulk",
    "fsspec": "bulk",
    "tqdm": "bulk client.batch evaluation.command finetune",
    "httpx2": "hub",
}
STANDARD_LIBRARY_ONLY = (
    "",
    "errors",
    "log",
    "quotas",
    "service_manager",
    "fetching.address",
    "setting_kinds",
    "setting_models",
    "catalog",
    "client.names",
    "client.retries",
    "footprint",
    "client.server",
    "client.terminal",
    "bulk.flags",
    "evaluation.cider",
    "evaluation.flags",
    "client.sources",
    "client.files",
    "client.records",
    "client.xmp",
    "client.exif",
    "client.embedded",
    "client.metadata",
    "finetune.flags",
    "finetune.options",
    "images",
    "tasks",
    "worker.protocol",
    "worker.lane",
    "worker.line",
    "worker.idle",
    "worker.transfer",
    "worker.standby",
    "worker.resources",
    "worker.ahead",
)


def module_of(path: Path) -> str:
    """The dotted name below the package: "" for its __init__, "api.app", "worker"."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    while module not in ROOMS:
        assert module, "no room"
        module = module.rpartition(".")[0]
    return module


MODULES = {module_of(path) for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of what a file imports; `from package import x` is package.x where that is a module."""
    module = module_of(path)
    package = ["vision_server", *module.split(".")] if module else ["vision_server"]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("vision_server.")
                yield f"{base}.{alias.name}" if inner in MODULES else base


def test_the_reader_of_imports_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "api").mkdir()
    path = tmp_path / "api" / "app.py"
    path.write_text(
        "import torch.nn\nfrom .. import catalog, __version__\nfrom .routes import add_routes\n"
        "def f():\n    from ..worker.process import spawn\n    from vision_server.engine import Florence\n"
    )
    ours = {"vision_server", "vision_server.catalog", "vision_server.api.routes", "vision_server.worker.process"}
    assert set(imports(path)) == {"torch.nn", "vision_server.engine", *ours}


def test_the_arrows_go_one_way() -> None:
    graph = {room: set(allowed.split()) for room, allowed in ROOMS.items()}
    assert all(room in ROOMS for allowed in graph.values() for room in allowed)
    assert len(list(TopologicalSorter(graph).static_order())) == len(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(module_of(path))
    if room in ("", "worker") and path.name != "__init__.py":
        pytest.fail(f"{path.name} has no room: name it in ROOMS")
    for name in imports(path):
        top = name.partition(".")[0]
        if top == "vision_server":
            other = room_of(name.removeprefix("vision_server").removeprefix("."))
            assert other in ("", room, *ROOMS[room].split()), f"{room} must not import {other}"
        elif top in KEPT:
            assert room in KEPT[top].split(), f"{room} must not import {top}"
        elif room in STANDARD_LIBRARY_ONLY:
            assert top in sys.stdlib_module_names, f"{room} must not import {top}"


def test_the_worker_reads_frames_before_it_has_torch() -> None:
    tree = ast.parse((PACKAGE / "worker" / "child.py").read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("torch" in ast.unparse(node) or "engine" in ast.unparse(node) for node in at_once)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_environment_and_the_workers_process_have_one_owner(path: Path) -> None:
    used = {
        node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    if module_of(path) not in ("settings", "worker.process"):  # which hands it on to the worker
        assert not used & {"environ", "getenv", "environb"}, "only settings reads the environment"
    if module_of(path) != "worker.process":
        assert not used & {"subprocess_exec", "create_subprocess_exec"}, "only worker.process starts the worker"
