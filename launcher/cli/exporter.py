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
@home_option
def exporter_command(listen: str, home: str | None) -> int:
    host, port = _address(listen)
    from launcher.exporter.server import serve

    ws = workspace(home, writing=False)
    server = serve(ws.ledger, host, port)

    def end(_number: int, _frame: FrameType | None) -> None:
        # Raised here, an exception could be lost wherever the server happens to be; and it waits for its own loop.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    click.echo(
        f"serving {ws.ledger.where} at http://{listen.rpartition(':')[0]}:{server.server_port}/metrics"
    )
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {text!r} is no HOST:PORT", "127.0.0.1:9464, [::]:9464")
    return host, int(port)
