"""The page on the command line has every command, option and variable that there is, and no other."""

from __future__ import annotations

import re

import click
import pytest

from stepwell.cli import cli
from stepwell.cli import options as foreign
from tests.docs.pages import DOCS

TEXT = (DOCS / "cli.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
ROW = re.compile(r"^\| (`-[^|]*)\|([^|]*)\|(.*)\|$", re.MULTILINE)
LATE = {"start": {"--event-key": {"STEPWELL_EVENT_KEY", "INNGEST_EVENT_KEY"}}}
"""Variables that a command reads itself, since the first that is set counts as a list."""


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


COMMANDS = commands(cli)


def written(section: str) -> dict[frozenset[str], set[str]]:
    """Names and variables of the options in the first table of a section."""
    table = SECTIONS[section].partition("### ")[0]
    return {
        frozenset(re.findall(r"`(-[^`]+)`", names)): set(re.findall(r"`([A-Z_]+)`", variables))
        for names, variables, _ in ROW.findall(table)
    }


def there(name: str) -> dict[frozenset[str], set[str]]:
    found: dict[frozenset[str], set[str]] = {}
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden and parameter.name != "help":
            variables = parameter.envvar or []
            names = frozenset([*parameter.opts, *parameter.secondary_opts])
            found[names] = {variables} if isinstance(variables, str) else set(variables)
            for option in names & LATE.get(name, {}).keys():
                found[names] |= LATE[name][option]
    return found


def test_every_command_has_a_section_and_there_is_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_its_options_and_variables_are_those_that_exist(name: str) -> None:
    assert written(name) == there(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_its_plain_defaults_are_those_of_the_command(name: str) -> None:
    for names, _, text in ROW.findall(SECTIONS[name].partition("### ")[0]):
        written_names = set(re.findall(r"`(-[^`]+)`", names))
        default = next(one.default for one in COMMANDS[name].params if written_names & set(one.opts))
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert re.search(rf"(?<!\d){default:g}(?!\d)", text), (names, text)


def test_the_options_of_inngests_server_are_all_mentioned() -> None:
    table = SECTIONS["start"].partition("### Options of Inngest's server")[2]
    nothing, refused = re.findall(r"^\| (.*) \| (?:taken|refused).*\|$", table, re.MULTILINE)
    shown = [set(re.findall(r"`--([a-z-]+)`", line)) for line in (nothing, refused)]
    assert shown[0] == {name.replace("_", "-") for name in foreign._NO_EFFECT}
    assert shown[1] == {name.replace("_", "-") for name in foreign._REFUSED}
