"""This project's own image, built by buildah from its Dockerfile on a base that is made here.

A change of the code changes one small layer: what the image stands on comes from buildah's cache, and of the result
only that layer is kept and brought into the cluster (``tests.rig.cluster.layers``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rig.cluster import layers
from tests.rig.cluster.images import DEBIAN, cached, debian_archive
from tests.rig.tools import cache, skip

__all__ = ["agent_image", "built"]

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
#: Images of checkouts that are no more would fill the disk; each is a few megabytes.
_KEPT = 16
#: So many of buildah's own, of some 40 MB beside what they share, are begun anew.
_MANY = 64


def agent_image() -> tuple[str, Callable[[], Path]]:
    """The image's name, which tells the files that it is made of, and what has it ready for ``layers.bring``."""
    name = f"rig.local/distill-ledger:{_digest()[:12]}"
    return name, lambda: cached(name, lambda target: built(name, target), ".image")


def _digest() -> str:
    whole = hashlib.sha256()
    files = [_ROOT / name for name in _SOURCES]
    for folder in _FOLDERS:
        files += [path for path in (_ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    for path in sorted(path for path in files if path.is_file()):
        whole.update(f"{path.relative_to(_ROOT)}\0{path.stat().st_size}\0".encode())
        whole.update(path.read_bytes())
    return whole.hexdigest()


def built(name: str, target: Path, *options: str, kept: int = _KEPT) -> None:
    """Make the image ``name`` of this checkout, by its Dockerfile or by that of ``options``, for ``layers.bring``.

    Of images of this repository the newest ``kept`` stay.
    """
    base = debian_archive()
    with _buildah() as buildah:
        if not _images(buildah, DEBIAN):
            _run([*buildah, "pull", "--quiet", f"docker-archive:{base}"])
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
        _keep([*buildah, "push", "--quiet", name, "docker-archive:/dev/stdout"], target)
        layers.forget(target.parent, f"{Path(name.partition(':')[0]).name}-*.image", kept)
        # Taken away one by one, images take the layers with them that the next build stands on.
        if len(_images(buildah, name.partition(":")[0]).split()) > _MANY:
            for words in (["rm", "--all"], ["rmi", "--all", "--force"]):
                # What cannot be removed now, as after a build that was killed, is no reason against the image.
                subprocess.run([*buildah, *words], capture_output=True, check=False)


@contextmanager
def _buildah() -> Iterator[list[str]]:
    """The program's first words; one build at a time, so that the second finds the layers of the first."""
    storage = cache() / "buildah"
    with (
        storage.with_suffix(".lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="distill-ledger-buildah-") as run,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield [
            *("buildah", "--root", str(storage), "--runroot", run),
            *("--storage-driver", "overlay"),
        ]


def _images(buildah: list[str], name: str) -> str:
    """The ids of the images of this name."""
    listed = subprocess.run(
        [*buildah, "images", "--quiet", "--filter", f"reference={name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.strip()


def _keep(command: list[str], target: Path) -> None:
    """Of the archive that ``command`` prints, what is not kept yet."""
    torn: Exception | None = None
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        try:
            layers.keep(process.stdout, target)
        except (tarfile.TarError, KeyError, ValueError) as exc:
            torn = exc
        while process.stdout.read(1 << 20):
            pass  # it is not to die of a closed pipe
        if process.wait():
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            skip(f"{' '.join(command[-3:])}: {said[-800:]}")
    if torn is not None:
        raise torn


def _run(command: list[str]) -> None:
    said = " ".join(command[7:9])
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        skip(f"buildah {said}: not done after {_SECONDS} s; try again")
        raise
    if done.returncode:
        skip(f"buildah {said} …: {(done.stdout + done.stderr).strip()[-800:]}")
