"""``metadata/storage_alert.txt``: what is stored, what is left, what may go and how. Pure."""

from __future__ import annotations

import shlex

from ledger.events import StorageMeasured

__all__ = ["human_bytes", "storage_alert_text"]


def human_bytes(size_bytes: int) -> str:
    """``1536`` -> ``1.5 kB``; decimal units, as file managers show them."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if round(value, 1) < 1000 or unit == "TB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def storage_alert_text(measured: StorageMeasured, time: str) -> bytes:
    """The document's bytes; every number is in bytes, with a readable form beside it."""
    width = max((len(name) for name in measured.bytes_by_class), default=0)
    lines = [f"Storage at {time}", f"Store: {measured.store}", "", "Stored, by class:"]
    for name, size in measured.bytes_by_class.items():
        lines.append(f"  {name:<{width}}  {size:>15} bytes  ({human_bytes(size)})")
    if measured.free_bytes is not None:
        lines += ["", f"Free: {measured.free_bytes} bytes ({human_bytes(measured.free_bytes)})"]
    if measured.quota_bytes is not None:
        lines += ["", f"Quota: {measured.quota_bytes} bytes ({human_bytes(measured.quota_bytes)})"]
    lines += ["", *_obsolete(measured)]
    return ("\n".join(lines) + "\n").encode()


def _obsolete(measured: StorageMeasured) -> list[str]:
    if not measured.obsolete_count:
        return ["Obsolete checkpoints: none."]
    total = f"{measured.obsolete_bytes} bytes ({human_bytes(measured.obsolete_bytes)})"
    lines = [
        f"Obsolete checkpoints: {measured.obsolete_count}, {total}. To remove one, in the project root:"
    ]
    for item in measured.obsolete:
        lines.append(f"  rm -- {shlex.quote(item.path)}   # {item.size_bytes} bytes, {item.why}")
    hidden = measured.obsolete_count - len(measured.obsolete)
    return [*lines, *([f"  … and {hidden} more: launcher storage"] if hidden else [])]
