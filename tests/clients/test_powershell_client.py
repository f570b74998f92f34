"""clients/vision-client.ps1 as a syntax tree: it parses, holds nothing newer than Windows PowerShell 5.1, and its
interface is the shell client's. Running it takes a PowerShell, which most machines that test this do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Node, Parser

CLIENTS = Path(__file__).parents[2] / "clients"
SCRIPTS = sorted(CLIENTS.rglob("*.ps1"))
SOURCE = (CLIENTS / "vision-client.ps1").read_bytes()
SHELL = (CLIENTS / "vision-client.sh").read_text(encoding="utf-8")
PARSER = Parser(Language(tree_sitter_powershell.language()))


def nodes(root: Node) -> Iterator[Node]:
    yield root
    for child in root.children:
        yield from nodes(child)


def faults(source: bytes) -> list[str]:
    tree = PARSER.parse(source)
    return [
        f"line {node.start_point[0] + 1}: {node.type}"
        for node in nodes(tree.root_node)
        if node.is_error or node.is_missing
    ]


def code_of(source: bytes) -> str:
    """The source with comments and strings blanked out."""
    code = bytearray(source)
    for node in nodes(PARSER.parse(source).root_node):
        if node.type in ("comment", "string_literal"):
            code[node.start_byte : node.end_byte] = b" " * (node.end_byte - node.start_byte)
    return code.decode("ascii")


def newer_than_5_1(source: bytes) -> list[str]:
    """PowerShell 7's operators, which 5.1 cannot parse: ?? ??= ?. ?[ && || and the ternary. All but two hold a `?`."""
    return re.findall(r"&&|\|\||[^\s\w]*\?[^\s\w]*", code_of(source))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_parses(script: Path) -> None:
    assert faults(script.read_bytes()) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_holds_no_operator_that_came_with_powershell_7(script: Path) -> None:
    assert newer_than_5_1(script.read_bytes()) == []


@pytest.mark.parametrize(
    "snippet", ["$a ?? 1", "$a ??= 3", "$a = $b ? 1 : 2", "a && b", "a || b", "${a}?.b", "${a}?[0]"]
)
def test_the_check_for_new_operators_finds_each_of_them(snippet: str) -> None:
    assert newer_than_5_1(f"{snippet} # ? && in a comment\n".encode()) != []
    assert newer_than_5_1(f"$x = '{snippet}' # {snippet}\n".encode()) == []


def test_the_check_for_faults_finds_one() -> None:
    assert faults(b"if ($a { 1 }\n") != []


def test_no_cmdlet_or_parameter_that_5_1_lacks() -> None:
    newer = r"-SkipHttpErrorCheck|-Form\b|-Authentication|ConvertFrom-Json -AsHashtable|-Parallel|clean\s*\{|utf8NoBOM"
    assert not re.search(newer, SOURCE.decode("ascii"))


def usage(script: str) -> list[str]:
    """The lines between `usage:` and the end of the text, without the script's name and the note on quoting."""
    start = script.index("usage: vision-client")
    lines = re.split(r"\r?\n(?:'@|EOF)\r?\n", script[start:], maxsplit=1)[0].splitlines()
    lines = [line.replace("vision-client.ps1", "vision-client.sh").rstrip() for line in lines]
    return [line for line in lines if not line.startswith("  <prompt> ")]


def test_its_usage_is_the_shell_clients() -> None:
    ours = usage(SOURCE.decode("ascii"))
    assert ours == usage(SHELL)
    assert len(ours) > 12


def test_it_ends_with_the_same_statuses() -> None:
    ours = {int(code) for code in re.findall(r"(?:Stop-Client|return) (\d+)", SOURCE.decode("ascii"))} | {64}
    theirs = {int(code) for code in re.findall(r"\b(?:fail|echo) (\d+)", SHELL)} | {64}
    assert ours == theirs == {64, 65, 66, 69, 70, 75, 77}


def test_it_asks_the_same_of_the_server() -> None:
    for word in ("/process_image?prompt=", "text_input", "region", "application/octet-stream", "text/plain", "Bearer "):
        assert word in SOURCE.decode("ascii"), word
        assert word in SHELL, word
