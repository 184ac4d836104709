"""The `stepwell` command.

Each command lives in a file of its own and is imported when it is run, so that `stepwell send` needs nothing of
the server and starts quickly.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = {
    "dev": "stepwell.cli.serve:dev",
    "start": "stepwell.cli.serve:start",
    "worker": "stepwell.cli.worker:worker",
    "send": "stepwell.cli.send:send",
    "runs": "stepwell.cli.runs:runs",
    "run": "stepwell.cli.runs:run",
    "credential": "stepwell.cli.credential:credential",
    "rerun": "stepwell.cli.rerun:rerun",
    "app": "stepwell.cli.app:app",
    "status": "stepwell.cli.status:status",
    "audit": "stepwell.cli.upkeep:audit",
    "backup": "stepwell.cli.upkeep:backup",
    "doctor": "stepwell.cli.doctor:doctor",
    "migrate": "stepwell.cli.doctor:migrate",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as err:
            raise _not_installed(err, name) from err
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)
        except ModuleNotFoundError as err:  # what a command imports when it is run
            raise _not_installed(err, ctx.invoked_subcommand or "") from err


def _not_installed(err: ModuleNotFoundError, command: str) -> Exception:
    """What to say about a module that is missing; the error itself if it is one of ours."""
    if err.name is None or err.name.partition(".")[0] == "stepwell":
        return err
    return click.ClickException(
        f'`stepwell {command}` needs {err.name!r}, which is not installed: pip install "stepwell[server]"'
    )


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"stepwell {version('stepwell')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Durable functions and steps on your own machine.

    \b
    Try it:   stepwell dev app.py
    Then:     stepwell send my/event '{"n": 1}' --follow
    """


def main() -> None:
    """Entry point. Every error is one line; of one that nobody foresaw the traceback is kept in a file."""
    from stepwell.model.errors import StepwellError

    try:
        cli(prog_name="stepwell")
    except StepwellError as err:
        click.echo(f"Error: {err}", err=True)
        sys.exit(1)
    except Exception as err:
        click.echo(f"Error: {_unforeseen(err)}", err=True)
        sys.exit(1)


def _unforeseen(err: Exception) -> str:
    """What to say about an error that is a defect of ours."""
    import tempfile
    import traceback

    from stepwell.cli.output import printable

    what = printable(f"{type(err).__name__}: {err}".encode("utf-8", "replace").decode())
    trace = "".join(traceback.format_exception(err))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="stepwell-error-", suffix=".txt", delete=False
        ) as file:
            file.write(trace)
    except OSError:
        click.echo(trace, err=True)
        where = "the traceback above"
    else:
        where = f"the traceback, which is in {file.name}"
    return (
        f"unexpected {what}. This is a defect of Stepwell: please report it with the command, `stepwell --version` "
        f"and {where}"
    )
