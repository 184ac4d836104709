"""What the pages of the documentation consist of: fenced blocks, and how each is checked.

A comment in front of a block, which no reader sees, says what running it must lead to:

    <!-- module NAME -->     the Python blocks from here on form a module of that name; else the page is one module.
                             `client` is run and must print the comments behind its prints, `tests` has tests
    <!-- check               a script about the module's services; see `Script`
    send shop/order.placed {"id": "o1"}
    gives "receipt-o1"
    -->
    <!-- not run -->         the next block is only compiled; the comment goes on to say why
    <!-- replace "8s" "1s" -->   in the module, when it is run: nobody wants to wait that long

Blocks of the kind `console` hold commands after `$ `; every `stepwell` command among them must be one that the
command line takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_PIECE = re.compile(
    r"^<!--\s*(?P<comment>.*?)\s*-->$|^(?P<indent> *)```(?P<info>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. `run` is False for one that is only compiled."""

    language: str
    title: str
    text: str
    line: int
    run: bool = True


@dataclass
class Module:
    """Python blocks that are run together, and the scripts that say what then happens."""

    name: str
    blocks: list[Block] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The blocks at their places in the page, so that a traceback names its lines."""
        lines: list[str] = []
        for block in self.blocks:
            if block.run:
                lines += [""] * (block.line - len(lines)) + block.text.splitlines()
        text = "\n".join(lines) + "\n"
        for old, new in self.replaced.items():
            assert old in text, f"there is no {old} to replace"
            text = text.replace(old, new)
        return text


@dataclass
class Page:
    """One page, taken apart."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def commands(self) -> list[str]:
        """The commands of all `console` blocks, in order."""
        shown = [block for block in self.blocks if block.language == "console"]
        return [line[2:] for block in shown for line in block.text.splitlines() if line.startswith("$ ")]

    def titled(self, title: str) -> Block:
        """The one block with that title."""
        (found,) = [block for block in self.blocks if block.title == title]
        return found


def read_page(path: Path) -> Page:
    """Take a page apart."""
    page = Page(path)
    text = path.read_text(encoding="utf-8")
    module, run = "page", True
    for piece in _PIECE.finditer(text):
        comment = piece["comment"]
        if comment is not None:
            word, _, rest = comment.partition("\n") if comment.startswith("check") else comment.partition(" ")
            if word == "module":
                module = rest.strip()
            elif word.strip() == "check":
                page.modules[module].scripts.append(rest)
            elif word == "replace":
                old, new = rest.split()
                page.modules.setdefault(module, Module(module)).replaced[old] = new
            elif comment.startswith("not run"):
                run = False
            continue
        language, _, info = piece["info"].partition(" ")
        title = re.search(r'title="([^"]*)"', info)
        indent = len(piece["indent"])
        body = "".join(line[indent:] or "\n" for line in piece["body"].splitlines(keepends=True))
        line = text.count("\n", 0, piece.start("body"))
        block = Block(language, title[1] if title else "", body, line, run)
        run = True
        page.blocks.append(block)
        if language == "python":
            page.modules.setdefault(module, Module(module)).blocks.append(block)
    return page


def pages() -> list[Page]:
    """Every page that readers are led to, the README included."""
    found = sorted(DOCS.glob("*.md"))
    return [read_page(ROOT / "README.md"), *(read_page(path) for path in found)]
