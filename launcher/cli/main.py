"""The program's door: names, one-line errors, exit codes. Each command's module is imported when it is used.

Exit codes: 0; a failed stage's own; 70 where it has none; 130 when cancelled; 2 wrong use or input; 3 a
lost race, conflict or hold; 4 integrity; 5 unavailable (the same command can be run again).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from launcher import __version__
from launcher.errors import LauncherError

__all__ = ["cli", "main"]

#: Command -> (module under launcher.cli, one line of help, heading). Help is here so that --help imports nothing.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "submit": ("runs", "Start a run and follow it to its end.", "Runs"),
    "resume": ("runs", "Go on with a run whose launcher died.", "Runs"),
    "cancel": ("runs", "Stop a run: its whole process group, after a grace period.", "Runs"),
    "status": ("status", "What is live, or everything about one run.", "Runs"),
    "list": ("listing", "The newest runs, and what became of them.", "Runs"),
    "logs": ("logs", "A stage's log, raw; -f follows it.", "Runs"),
    "tags": ("tags", "Check the relabel tags of a run.", "Runs"),
    "promote": ("pointers", "Make a run's student live, by hand.", "Checkpoints"),
    "rollback": ("rollback", "Put the previous checkpoint back at once.", "Checkpoints"),
    "release": ("pointers", "Let automatic promotions go on after a rollback.", "Checkpoints"),
    "pointers": ("pointers", "What each pointer names, and its history.", "Checkpoints"),
    "pull": ("pull", "Fetch a checkpoint, verified, by ref.", "Checkpoints"),
    "storage": ("care", "What is stored, by class, in bytes.", "Care"),
    "replay": ("care", "Rebuild the documents from the ledger, or compare them.", "Care"),
    "audit": ("checks", "Check ledger, documents, blobs and pointers.", "Care"),
    "doctor": ("checks", "Check this machine: tools, disk, store, ledger.", "Care"),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"launcher.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(h for _, _, h in COMMANDS.values()):
            with formatter.section(heading):
                formatter.write_dl(
                    [(n, text) for n, (_, text, h) in COMMANDS.items() if h == heading]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="launcher")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Self-distillation loops with an append-only run ledger.

    Alone, `launcher` shows what is live, what failed last and what to type next.
    """
    ctx.obj = {"debug": debug}
    if ctx.invoked_subcommand is None:
        from launcher.cli.overview import overview

        overview()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        code = cli.main(args=args, prog_name="launcher", standalone_mode=False)
    except click.exceptions.Abort:
        code = _say("stopped", 130)
    except click.ClickException as exc:
        where = (
            exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx else "launcher"
        )
        code = _say(f"{exc.format_message()} (see {where} --help)", 2)
    except LauncherError as exc:
        if debug:
            raise
        code = _say(str(exc), exc.exit_code)
    except KeyboardInterrupt:
        code = _say("left; what was started goes on: launcher resume", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as exc:
        if debug:
            raise
        what = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        code = _say(what, 5)
    sys.exit(code if isinstance(code, int) else 0)


def _say(text: str, code: int) -> int:
    click.echo("launcher: " + " ".join(text.split("\n")), err=True)
    return code
