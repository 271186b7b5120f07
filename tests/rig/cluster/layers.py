"""Images as their layers: each layer is kept once, whichever images have it, and brought only to where it is lacking.

An image is a small file that names its layers; the layers lie beside all of them, uncompressed, under their digests.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

__all__ = ["bring", "forget", "keep"]

_LAYER = re.compile(r"([0-9a-f]{64})\.tar")
_OCI = "application/vnd.oci.image"


def keep(archive: IO[bytes], image: Path) -> None:
    """Write the file ``image``, and the layers that are new, from a stream such as `docker save` makes.

    Its layers must be named by their digests, as buildah names them.
    """
    parts: dict[str, bytes] = {}
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                continue
            if layer := _LAYER.fullmatch(member.name):
                _keep_layer(content, _layer(image.parent, layer[1]))
            elif member.name.endswith(".json"):
                parts[member.name] = content.read()
    config = parts[json.loads(parts["manifest.json"])[0]["Config"]]
    for digest in _digests(config):
        if not _layer(image.parent, digest).exists():
            raise ValueError(f"{image.name}: its archive lacks the layer {digest}")
    image.write_bytes(config)


def bring(image: Path, name: str, ctr: Sequence[str]) -> None:
    """Import ``image`` under ``name`` by the program ``ctr``, which is sent the layers that its containerd lacks."""
    listed = subprocess.run(
        [*ctr, "content", "ls", "--quiet"], check=True, capture_output=True, text=True
    )
    there = {one.removeprefix("sha256:") for one in listed.stdout.split()}
    with subprocess.Popen(
        [*ctr, "images", "import", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as importing:  # fmt: skip
        assert importing.stdin is not None
        assert importing.stderr is not None
        with suppress(BrokenPipeError):  # it says why
            _write(image, name, there, importing.stdin)
        said = importing.stderr.read().decode(errors="replace").strip()
    if importing.returncode:
        raise RuntimeError(f"ctr images import {name}: {said[-600:]}")


def forget(folder: Path, pattern: str, kept: int) -> list[Path]:
    """Remove all but the newest images (``*.image``) that match, then layers that none has; returns the images.

    One that is being made has ``.new`` behind its name, and keeps its layers.
    """
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    old = found[: max(0, len(found) - kept)]
    for image in old:
        image.unlink()
    left = [*folder.glob("*.image"), *folder.glob("*.image.new")]
    needed = {digest for image in left for digest in _digests(image.read_bytes())}
    for layer in (folder / "layers").glob("*.tar"):
        if layer.stem not in needed:
            layer.unlink()
    return old


def _keep_layer(content: IO[bytes], target: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(f".{os.getpid()}.new")
    with beside.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)
    os.replace(beside, target)


def _write(image: Path, name: str, there: set[str], to: IO[bytes]) -> None:
    """The image as an OCI layout in a tar, without the layers in ``there``."""
    config = image.read_bytes()
    layers = [_layer(image.parent, digest) for digest in _digests(config)]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": _described(f"{_OCI}.config.v1+json", sha256(config).hexdigest(), len(config)),
            "layers": [
                _described(f"{_OCI}.layer.v1.tar", one.stem, one.stat().st_size) for one in layers
            ],
        }
    ).encode()
    named = _described(f"{_OCI}.manifest.v1+json", sha256(manifest).hexdigest(), len(manifest))
    named["annotations"] = {"io.containerd.image.name": name}
    index = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    with to, tarfile.open(fileobj=to, mode="w|") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(tar, "index.json", index)
        for part in (manifest, config):
            _add(tar, f"blobs/sha256/{sha256(part).hexdigest()}", part)
        for layer in layers:
            if layer.stem not in there:
                with layer.open("rb") as content:
                    member = tarfile.TarInfo(f"blobs/sha256/{layer.stem}")
                    member.size = os.fstat(content.fileno()).st_size
                    tar.addfile(member, content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _described(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _digests(config: bytes) -> list[str]:
    return [one.removeprefix("sha256:") for one in json.loads(config)["rootfs"]["diff_ids"]]


def _layer(folder: Path, digest: str) -> Path:
    return folder / "layers" / f"{digest}.tar"
