"""`stepwell app init`: the directory of an app that can be deployed as it is."""

from __future__ import annotations

from pathlib import Path

import click

from stepwell.cli.output import dim, say
from stepwell.model.app import read_reference

CODE = '''from pydantic import BaseModel, Field

from stepwell.apps import App as Base


class App(Base):
    class Input(BaseModel):
        text: str = Field(description="what to shout")

    class Output(BaseModel):
        text: str

    async def setup(self) -> None:
        """Once per process, before any call: load the model here."""
        self.ending = "!"

    async def run(self, input: Input) -> Output:
        return self.Output(text=input.text.upper() + self.ending)
'''


@click.command()
@click.argument("name", metavar="[NAMESPACE/]NAME")
def init(name: str) -> None:
    """Make the directory NAME with a small app in it."""
    wanted = read_reference(name)
    if wanted.version or wanted.function:
        raise click.UsageError("an app is named without `@version` and `:function`")
    folder = Path(wanted.name)
    try:
        folder.mkdir()
    except OSError as err:
        raise click.ClickException(f"the directory {folder} cannot be made: {err.strerror}") from err
    namespace = f"namespace: {wanted.namespace}\n" if wanted.namespace else ""
    (folder / "inf.yml").write_text(f"{namespace}name: {wanted.name}\ndescription: Shouts a text\nkernel: python\n")
    (folder / "inference.py").write_text(CODE)
    (folder / "requirements.txt").write_text("pydantic>=2\n")
    (folder / "input.json").write_text('{"text": "hello"}\n')
    files = dim("inf.yml, inference.py, requirements.txt, input.json")
    say(f"{folder}/ holds an app {files}", mark="✓", colour="green")
    say(f"next: stepwell app deploy {folder}")
