"""The program's door: names, one-line errors, exit codes. Each command's module is imported when it is used.

Exit codes: 0; a failed stage's own; 70 where it has none; 130 when cancelled; 1 a defect of this program; 2 wrong
use or input; 3 a lost race, conflict or hold; 4 integrity; 5 unavailable (the same command can be run again).
An error is one line; ``--debug``, anywhere on the line, puts its traceback before it. A reader that goes away
(``launcher list | head -1``) is no error.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from launcher import __version__
from launcher.cli.terminal import one_line, silence
from launcher.errors import LauncherError
from ledger.errors import LedgerError

__all__ = ["cli", "explain", "main"]

#: Command -> (module under launcher.cli, one line of help, heading). Help is here so that --help imports nothing.
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "submit": ("runs", "Start a run and follow it to its end.", "Runs"),
    "resume": ("runs", "Go on with a run whose launcher died.", "Runs"),
    "attach": ("attach", "Follow a run on Kubernetes; go on with it where nobody does.", "Runs"),
    "cancel": ("runs", "Stop a run: its whole process group, after a grace period.", "Runs"),
    "cron": ("cron", "Run a pipeline's slot: one run for each slot of a schedule.", "Runs"),
    "pause": ("cron", "Let a pipeline start no runs until it is unpaused.", "Runs"),
    "unpause": ("cron", "Let a pipeline go on after a pause.", "Runs"),
    "status": ("status", "Everything about a run: why it failed, what to type next.", "Runs"),
    "list": ("listing", "The newest runs, and what became of them.", "Runs"),
    "logs": ("logs", "A stage's log, byte for byte; -f follows the run.", "Runs"),
    "restore": ("restore", "Rebuild a run's folder from the store.", "Runs"),
    "tags": ("tags", "Check the relabel tags of a run.", "Runs"),
    "promote": ("pointers", "Make a run's student live, by hand.", "Checkpoints"),
    "rollback": ("rollback", "Put the previous checkpoint back at once.", "Checkpoints"),
    "release": ("pointers", "Let automatic promotions go on after a rollback.", "Checkpoints"),
    "pointers": ("pointers", "What each pointer names, and its history.", "Checkpoints"),
    "pull": ("pull", "Fetch a checkpoint, verified, by ref.", "Checkpoints"),
    "storage": ("care", "What is stored, by class, in bytes.", "Care"),
    "gc": ("gc", "Move what nothing needs to the trash; empty old trash.", "Care"),
    "replay": ("care", "Rebuild the documents from the ledger, or compare them.", "Care"),
    "audit": ("checks", "Check ledger, documents, blobs and pointers.", "Care"),
    "drill": ("drill", "Rebuild ledger and documents elsewhere, and compare.", "Care"),
    "ledger": ("ledger", "Copy the ledger to another place, verified; its head.", "Care"),
    "doctor": ("doctor", "Check this machine and a cluster: tools, disk, store, room.", "Care"),
    "exporter": ("exporter", "Serve the ledger's numbers to Prometheus.", "Care"),
}

_EXAMPLES: Final = """\b
launcher submit --config FILE --teacher-checkpoint REF --teacher-scorecard FILE
launcher rollback TARGET --reason "stuck in menus"
launcher COMMAND --help

RUN is a run id, or a prefix or suffix of one that no other run has."""

_COMPLETE: Final = "_LAUNCHER_COMPLETE"


def _note_debug(ctx: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        ctx.find_root().obj["debug"] = True


_DEBUG: Final = click.Option(
    ["--debug"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_note_debug,
    help="Show the traceback of an error.",
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"launcher.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        if _DEBUG not in command.params:
            command.params.append(_DEBUG)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for heading in dict.fromkeys(h for _, _, h in COMMANDS.values()):
            rows = [(n.ljust(width), text) for n, (_, text, h) in COMMANDS.items() if h == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)
        with formatter.section("Examples"):
            formatter.write_text(_EXAMPLES)

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
    params=[_DEBUG],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="launcher")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Self-distillation loops with an append-only run ledger.

    Alone, `launcher` shows what is live, what failed last and what to type next.
    """
    if ctx.invoked_subcommand is None:
        from launcher.cli.overview import overview

        overview()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    _prepare_standard_files()
    if os.getpid() == 1:
        # The first process of a container is not ended by a signal that it does not handle.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    if _COMPLETE in os.environ:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "launcher", _COMPLETE, os.environ[_COMPLETE]))
    state = {"debug": False}
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv), state)
    except BaseException as exc:  # noqa: BLE001 - here every error ends
        if state["debug"] and not isinstance(exc, click.ClickException | click.exceptions.Exit):
            import traceback

            traceback.print_exc()
        code = explain(exc)
    sys.exit(code)


def _run(args: list[str], state: dict[str, bool]) -> int:
    """The command's exit code, once all that it printed is out. Raises what it raises."""
    with cli.make_context("launcher", args, obj=state) as ctx:
        code = cli.invoke(ctx)
    if sys.stdout is not None:
        sys.stdout.flush()
    return code if isinstance(code, int) else 0


def explain(exc: BaseException) -> int:
    """Say in one line what went wrong, and return the exit code that says it."""
    match exc:
        case click.exceptions.Exit():
            return exc.exit_code
        case click.exceptions.Abort():
            return _say("stopped", 130)
        case click.ClickException():
            ctx = exc.ctx if isinstance(exc, click.UsageError) else None
            return _say(f"{exc.format_message().rstrip('.')} (see {_help_of(ctx)})", 2)
        case LauncherError():
            return _say(str(exc), exc.exit_code)
        case LedgerError():
            return explain(_translated(exc))
        case KeyboardInterrupt():
            return _say("stopped; launcher shows what goes on", 130)
        case BrokenPipeError():
            silence()
            return 0
        case OSError():
            what = exc.strerror or str(exc)
            return _say(f"{exc.filename}: {what}" if exc.filename else what, 5)
        case Exception():
            return _say(f"a defect: {_defect(exc)} (please report it, with --debug)", 1)
    raise exc


def _help_of(ctx: click.Context | None) -> str:
    return f"{ctx.command_path if ctx else 'launcher'} --help"


def _translated(exc: LedgerError) -> LauncherError:
    from launcher.workspace import translated

    try:
        with translated():
            raise exc
    except LauncherError as ours:
        return ours


def _defect(exc: Exception) -> str:
    """``KeyError: 'x' at runner.py:12``: what a report needs first."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f" at {os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else ""  # noqa: PTH119
    return f"{type(exc).__name__}: {exc}{where}"


def _say(text: str, code: int) -> int:
    try:
        click.echo(f"launcher: {one_line(text)}", err=True)
    except OSError:
        silence(err=True)
    return code


def _prepare_standard_files() -> None:
    """Make it safe to run with standard files closed, and to print any name or log line there is."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Else the next file that is opened, the ledger perhaps, would be taken for it.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
