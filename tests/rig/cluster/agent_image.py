"""This project's own image, built by buildah from its Dockerfile on a base that is made here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.rig.cluster.images import DEBIAN, cached, debian_archive
from tests.rig.tools import cache, skip

__all__ = ["agent_archive", "built"]

_ROOT = Path(__file__).parents[3]
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
#: What the Dockerfile takes from the checkout.
_SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
)
_FOLDERS = ("ledger", "k8s", "launcher")
_SECONDS = 900
_KEPT, _MANY = 3, 8


def agent_archive() -> tuple[str, Callable[[], Path]]:
    """The image's name, which tells the files that it is made of, and what has its archive ready."""
    name = f"rig.local/distill-ledger:{_digest()[:12]}"
    return name, lambda: cached(name, lambda target: built(name, target))


def _digest() -> str:
    whole = hashlib.sha256()
    files = [_ROOT / name for name in _SOURCES]
    for folder in _FOLDERS:
        files += [path for path in (_ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    for path in sorted(path for path in files if path.is_file()):
        whole.update(f"{path.relative_to(_ROOT)}\0{path.stat().st_size}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


def built(name: str, target: Path, *options: str) -> None:
    """Write the archive of the image ``name``, of this checkout, by its Dockerfile or by that of ``options``."""
    storage = cache() / "buildah"
    # Layers that a change of the code leaves as they are stay in the cache between builds.
    with tempfile.TemporaryDirectory(prefix="distill-ledger-buildah-") as run:
        buildah = [
            "buildah",
            "--root",
            str(storage),
            "--runroot",
            run,
            "--storage-driver",
            "overlay",
        ]
        _run([*buildah, "pull", "--quiet", f"docker-archive:{debian_archive()}"])
        _run(
            [
                *buildah,
                *("build", "--quiet", "--layers", "--isolation", "chroot", "--pull-never"),
                *("--build-arg", f"BASE={DEBIAN}", "--build-arg", f"PIP_CERT={_AUTHORITIES}"),
                *("--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"),
                *options,
                *("--tag", name, str(_ROOT)),
            ]
        )
        _run([*buildah, "push", "--quiet", name, f"docker-archive:{target}:{name}"])
        _forget(buildah, target)


def _forget(buildah: list[str], target: Path) -> None:
    """Images of checkouts that are no more would fill the disk: the archives of some are kept, and their layers
    until there are many."""
    archives = target.parent.glob("distill-ledger-*.tar")
    for old in sorted(archives, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)
    listed = subprocess.run(
        [*buildah, "images", "--quiet", "rig.local/distill-ledger"],
        capture_output=True,
        text=True,
        check=False,
    )
    if len(set(listed.stdout.split())) > _MANY:
        _run([*buildah, "rmi", "--all", "--force"])


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        skip(f"{' '.join(command[:8])} …: {(done.stdout + done.stderr).strip()[-800:]}")
