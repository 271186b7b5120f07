"""exporter: the ledger's numbers for Prometheus, until it is told to end."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import click

from launcher.cli.common import home_option, workspace
from launcher.errors import UsageError

__all__ = ["exporter_command"]


@click.command(
    "exporter",
    help="Serve the ledger's numbers to Prometheus: /metrics, /healthz, /readyz. It only reads.",
    epilog="\b\nExample:\n  launcher exporter --listen 0.0.0.0:9464 --store s3://bucket/prefix",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:9464",
    show_default=True,
    help="Where; port 0 takes a free one and says which.",
)
@click.option(
    "--audit-every",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="Run `launcher audit` now and so long after each, and serve what it finds. Off by default.",
)
@click.option("--audit-quick", is_flag=True, help="As audit --quick: blobs by presence and size.")
@home_option
def exporter_command(
    listen: str, audit_every: float | None, audit_quick: bool, home: str | None
) -> int:
    host, port = _address(listen)
    if audit_quick and audit_every is None:
        raise UsageError("--audit-quick says how, not how often", "add --audit-every HOURS")
    from launcher.exporter.audits import Audits
    from launcher.exporter.server import serve

    ws = workspace(home, writing=False)
    audits = (
        Audits(audit_every * 3600, _audit_flags(home, audit_quick))
        if audit_every is not None
        else None
    )
    server = serve(ws.ledger, host, port, audits)

    def end(_number: int, _frame: FrameType | None) -> None:
        # Raised here, an exception could be lost wherever the server happens to be; and it waits for its own loop.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    click.echo(
        f"serving {ws.ledger.where} at http://{listen.rpartition(':')[0]}:{server.server_port}/metrics"
    )
    try:
        if audits is not None:
            audits.start()
        server.serve_forever()
    finally:
        server.server_close()
        if audits is not None:
            audits.end()
    return 0


def _audit_flags(home: str | None, quick: bool) -> list[str]:
    """This command's own, for the audits that it starts."""
    store = click.get_current_context().find_root().obj.get("store")
    flags = {"--home": home, "--store": store}
    given = [word for flag, value in flags.items() if value for word in (flag, value)]
    return [*given, "--quick"] if quick else given


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {text!r} is no HOST:PORT", "127.0.0.1:9464, [::]:9464")
    return host, int(port)
