"""The pages say what is true: their programs are run, their commands are parsed, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

import stepwell
from tests.docs import running
from tests.docs.pages import ROOT, Module, Page, pages

PAGES = pages()
MODULES = [(page, module) for page in PAGES for module in page.modules.values() if module.scripts]
PROGRAMS = [(page, page.modules["client"]) for page in PAGES if "client" in page.modules]
TESTS = [(page, page.modules["tests"]) for page in PAGES if "tests" in page.modules]


def name_of(value: object) -> str:
    return value.name if isinstance(value, Page | Module) else str(value)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "module"), MODULES, ids=name_of)
def test_a_program_does_what_its_page_says(page: Page, module: Module) -> None:
    log = running.Log()
    made = running.load(page, module)
    services = running.services_of(made)
    with log.listening(), running.running_server(retry_interval_ms=50) as server, running.working(services, server):
        with stepwell.Client(server.url) as client:
            for script in module.scripts:
                running.Script(client, log, []).play(script)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "module"), PROGRAMS, ids=name_of)
def test_a_client_prints_what_its_page_says(
    page: Page, module: Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", module.text, re.MULTILINE)
    made = running.load(page, page.modules["page"])
    with running.running_server(retry_interval_ms=50) as server:
        with running.working(running.services_of(made), server):
            monkeypatch.setenv("STEPWELL_URL", server.url)
            app = page.modules["page"].blocks[0].title.removesuffix(".py") or "app"
            monkeypatch.setitem(sys.modules, app, made)
            running.load(page, module)
    printed = capsys.readouterr().out.splitlines()
    assert printed == expected


@pytest.mark.parametrize(("page", "module"), TESTS, ids=name_of)
def test_the_tests_on_a_page_pass(page: Page, module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "app", running.load(page, page.modules["page"]))
    made = running.load(page, module)
    tests = [value for name, value in vars(made).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_compiles(page: Page) -> None:
    for module in page.modules.values():
        for block in module.blocks:
            compile(block.text, f"{page.name}:{block.line + 1}", "exec", flags=0x2000)  # top-level await is allowed


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_the_command_line_takes(page: Page) -> None:
    for command in page.commands:
        for words in commands_in(command):
            take(words)


def commands_in(text: str) -> list[list[str]]:
    """The `stepwell` commands of a shell line, as lists of words."""
    found: list[list[str]] = [[]]
    for word in shlex.split(text, comments=True):
        if word in {"&&", "||", ";", "|", "&"}:
            found.append([])
        else:
            found[-1].append(word)
    return [words[1:] for words in found if words[:1] == ["stepwell"]]


def take(words: list[str]) -> None:
    import click

    from stepwell.cli import cli

    context = click.Context(cli, info_name="stepwell")
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    if not {"-h", "--help", "--version"} & set(words):
        command.make_context(command.name or "", list(words))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Page) -> None:
    text = re.sub(r"```.*?```", "", page.path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = Path(os.path.normpath(page.path.parent / path)) if path else page.path
        assert place.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {anchor_of(title) for title in titles}, f"{page.name}: {target}"


def anchor_of(title: str) -> str:
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.strip().lower())).strip("-")


def test_no_page_tells_of_what_is_not_its_readers_business() -> None:
    for page in PAGES:
        text = page.path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|tmp|work)/", text), page.name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.path.name in navigation, page.name
