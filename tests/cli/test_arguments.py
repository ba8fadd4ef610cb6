"""Arguments that every command has: paths; and what is typed wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import pytest

from fullframe.cli.arguments import path, path_object
from fullframe.cli.main import GROUPS, build_parser, main

#: What an argument of a path is called in the help.
PATHS = {"FILE", "PATH", "DIR", "OUT", "IN", "IMAGE", "TABLE", "PROGRAM", "C"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def path_arguments() -> list[tuple[str, argparse.Action]]:
    return [
        (parser.prog, action)
        for name, _, _ in GROUPS
        for parser in parsers(build_parser(name))
        if parser.prog.startswith(f"fullframe {name}")
        for action in parser._actions
        if action.metavar in PATHS
    ]


def test_every_path_is_taken_by_one_function() -> None:
    found = path_arguments()
    assert len(found) >= 30
    for prog, action in found:
        assert action.type in (path, path_object), (prog, action.dest)


def words(prog: str, action: argparse.Action) -> list[str]:
    """A command line with an empty path, and nothing else of what the command needs."""
    option = action.option_strings[-1:]
    before = [""] if action.dest == "second" else []
    return [*prog.split()[1:], *option, *before, ""]


@pytest.mark.parametrize(
    ("prog", "action"), path_arguments(), ids=lambda value: getattr(value, "dest", value)
)
def test_an_empty_path_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], prog: str, action: argparse.Action
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words(prog, action))
    captured = capsys.readouterr()
    assert (stopped.value.code, captured.out) == (2, "")
    name = "/".join(action.option_strings) or action.metavar
    assert captured.err.endswith(
        f"\n{prog}: error: argument {name}: an empty path; "
        "expected a name (. is the current directory)\n"
    )


@pytest.mark.parametrize("arguments", [["table", "\x1b[7m"], ["cfi", "fix", "x.S", "\x1b[7m"]])
def test_what_was_typed_is_escaped(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert "\x1b" not in captured.err
    assert r"\x1b[7m" in captured.err
