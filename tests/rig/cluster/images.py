"""The images of the cluster, without a registry: archives in the user's cache, made where they are not there yet.

- ``SANDBOX``: what holds a pod together; busybox, asleep.
- ``BASH``: bash and busybox, two static programs: the least that a stage's image may be.
- ``DEBIAN``: bash, coreutils, Python, CA certificates: what a stage's image usually is; the agent's is built on it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.rig.tools import cache, skip

__all__ = ["BASH", "DEBIAN", "SANDBOX", "cached", "debian_archive", "small_archives"]

SANDBOX = "rig.local/sandbox:1"
BASH = "rig.local/bash:1"
DEBIAN = "rig.local/debian:bookworm-1"

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INCLUDED = "ca-certificates,python3,python3-venv"
#: Nobody reads these in a container.
_WASTE = (
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
    "usr/share/doc/*",
    "usr/share/locale/*",
    "dev/*",
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SECONDS = 900


def small_archives(folder: Path) -> list[Path]:
    """The sandbox's image and BASH, which are made in a moment, as files of ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in (SANDBOX, BASH):
        with tempfile.TemporaryDirectory() as top:
            root, target = Path(top, "root"), folder / f"{_file_name(name)}.tar"
            _busybox(root)
            if name == BASH:
                shutil.copy("/usr/bin/bash-static", root / "bin" / "bash")
            _archive(name, root, target, ["/bin/sleep", "infinity"] if name == SANDBOX else [])
        made.append(target)
    return made


def debian_archive() -> Path:
    """DEBIAN, from Debian's own packages: less than a minute the first time, then from the cache."""
    return cached(DEBIAN, _debian)


def cached(name: str, make: Callable[[Path], None], suffix: str = ".tar") -> Path:
    """The file of the image ``name`` from the cache. ``make`` writes it, where it is not there yet."""
    target = cache() / "images" / f"{_file_name(name)}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            beside = target.with_name(f"{target.name}.new")
            beside.unlink(missing_ok=True)
            make(beside)
            os.replace(beside, target)
    return target


def _busybox(root: Path) -> None:
    """A system of one static program, under all of its names."""
    for folder in ("bin", "etc", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")
    shutil.copy("/usr/bin/busybox", root / "bin" / "busybox")
    listed = subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True)
    for name in listed.stdout.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "usr").mkdir()
    (root / "usr" / "bin").symlink_to("../bin")


def _debian(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="distill-ledger-debian-") as top:
        root = Path(top, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={_INCLUDED}", "bookworm"]
        try:
            done = subprocess.run(
                [*command, str(root)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            skip(f"{' '.join(command)}: not done after {_SECONDS} s; try again")
            raise
        if done.returncode:
            skip(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()[-400:]}")
        for waste in _WASTE:
            for path in root.glob(waste):
                link = path.is_symlink() or not path.is_dir()
                path.unlink() if link else shutil.rmtree(path)
        _archive(DEBIAN, root, target, [])


def _archive(name: str, root: Path, target: Path, entrypoint: list[str]) -> None:
    """Write the image whose one layer is the tree at ``root``, as `docker save` would."""
    with tempfile.TemporaryDirectory() as top:
        layer = Path(top, "layer.tar")
        with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(root.iterdir()):
                tar.add(path, path.name)
        with layer.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        config = {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": [_PATH], "Entrypoint": entrypoint, "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "tests/rig/cluster/images.py"}],
        }
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(target, "w") as tar:
            for part, content in (("manifest.json", manifest), ("config.json", config)):
                encoded = json.dumps(content).encode()
                member = tarfile.TarInfo(part)
                member.size = len(encoded)
                tar.addfile(member, io.BytesIO(encoded))
            tar.add(layer, "layer.tar")


def _file_name(name: str) -> str:
    return name.rpartition("/")[2].replace(":", "-")
