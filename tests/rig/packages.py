"""Programs that the rig takes from Debian: installed by root where one is missing, else named."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.rig.tools import skip

__all__ = ["installed", "installed_package"]

#: A file that the package brings, and its package.
_PACKAGES = {
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    "/usr/bin/bash-static": "bash-static",
    "/usr/bin/buildah": "buildah",
    "/usr/bin/busybox": "busybox-static",
    "/usr/bin/containerd": "containerd",
    "/usr/bin/ctr": "containerd",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "/usr/sbin/debootstrap": "debootstrap",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/iptables": "iptables",
    "/usr/bin/openssl": "openssl",
    "/usr/sbin/runc": "runc",
}
_SECONDS = 900


def installed() -> None:
    """Whatever of Debian the cluster needs is there when this returns; whoever comes first installs it."""
    _install(_PACKAGES)


def installed_package(file: str, package: str) -> str:
    """``file``, which the Debian package brings: installed as the others are."""
    _install({file: package})
    return file


def _install(packages: Mapping[str, str]) -> None:
    if not _missing(packages):
        return
    if os.geteuid() or not shutil.which("apt-get"):
        names = " ".join(_missing(packages))
        skip(f"it takes the Debian packages {names}: apt-get install them as root")
    with Path(tempfile.gettempdir(), "distill-ledger-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = _missing(packages)
        # The lists that the machine came with may name versions that are gone; then they are read anew.
        if wanted and _apt("install", *wanted):
            _apt("update")
            if said := _apt("install", *wanted):
                skip(f"apt-get install {' '.join(wanted)}: {said[-400:]}")
    if wanted := _missing(packages):
        skip(f"apt-get installed {' '.join(wanted)}, but not where this looks for them")


def _missing(packages: Mapping[str, str]) -> list[str]:
    return sorted({name for file, name in packages.items() if not Path(file).exists()})


def _apt(verb: str, *packages: str) -> str:
    """What went wrong, empty where nothing did."""
    options = ["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]
    try:
        done = subprocess.run(
            ["apt-get", *options, verb, *packages],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_SECONDS} s"
    return (done.stderr.strip() or f"ended with {done.returncode}") if done.returncode else ""
