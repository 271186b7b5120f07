"""Layers are kept once and brought to where they are lacking; what goes away with an image is what no other has."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import pytest

from tests.rig.cluster import layers

#: Stands for ctr: has the blobs of its folder, and keeps what it is sent.
_CTR = """
import sys, tarfile
folder, verb = sys.argv[1:3]
if verb == "content":
    import os
    print(*("sha256:" + name for name in os.listdir(folder)), sep="\\n")
else:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        tar.extractall(folder + ".sent", filter="data")
"""


def _saved(*contents: bytes) -> io.BytesIO:
    """An archive as buildah makes it, each layer's file named by its digest."""
    digests = [hashlib.sha256(one).hexdigest() for one in contents]
    config = {"rootfs": {"type": "layers", "diff_ids": [f"sha256:{one}" for one in digests]}}
    parts = {f"{digest}.tar": one for digest, one in zip(digests, contents, strict=True)}
    parts["c0.json"] = json.dumps(config).encode()
    parts["manifest.json"] = json.dumps([{"Config": "c0.json"}]).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    archive.seek(0)
    return archive


def _kept(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "layers").glob("*.tar")}


def _named(*contents: bytes) -> set[str]:
    return {hashlib.sha256(one).hexdigest() for one in contents}


def test_a_layer_that_is_there_is_not_sent_again(tmp_path: Path) -> None:
    image = tmp_path / "one.image"
    layers.keep(_saved(b"base", b"code"), image)
    node = tmp_path / "node"
    node.mkdir()
    (node / hashlib.sha256(b"base").hexdigest()).touch()
    layers.bring(image, "rig.local/one:1", [sys.executable, "-c", _CTR, str(node)])
    sent = tmp_path / "node.sent"
    blobs = {path.name: path.read_bytes() for path in (sent / "blobs" / "sha256").iterdir()}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items())
    described = json.loads((sent / "index.json").read_bytes())["manifests"][0]
    assert described["annotations"] == {"io.containerd.image.name": "rig.local/one:1"}
    manifest = json.loads(blobs[described["digest"].removeprefix("sha256:")])
    names = [one["digest"].removeprefix("sha256:") for one in manifest["layers"]]
    assert set(names) == _named(b"base", b"code")
    assert [name in blobs for name in names] == [False, True]


def test_only_the_layers_that_no_image_has_go(tmp_path: Path) -> None:
    for number, name in enumerate(("old.image", "new.image", "made.image.new")):
        layers.keep(_saved(b"base", name.encode()), tmp_path / name)
        os.utime(tmp_path / name, (number, number))
    assert layers.forget(tmp_path, "*.image", 1) == [tmp_path / "old.image"]
    assert _kept(tmp_path) == _named(b"base", b"new.image", b"made.image.new")


def test_an_archive_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    whole = _saved(b"base", b"code")
    lacking = io.BytesIO()
    with tarfile.open(fileobj=whole) as source, tarfile.open(fileobj=lacking, mode="w") as tar:
        for member in source:
            if member.name != f"{hashlib.sha256(b'code').hexdigest()}.tar":
                tar.addfile(member, source.extractfile(member))
    lacking.seek(0)
    with pytest.raises(ValueError, match="lacks the layer"):
        layers.keep(lacking, tmp_path / "one.image")
    assert not (tmp_path / "one.image").exists()


def test_what_does_not_take_the_image_is_named_with_its_words(tmp_path: Path) -> None:
    image = tmp_path / "one.image"
    layers.keep(_saved(b"base"), image)
    code = "import sys; sys.exit('no room' if sys.argv[1] == 'images' else 0)"
    with pytest.raises(RuntimeError, match=r"one:1: no room"):
        layers.bring(image, "rig.local/one:1", [sys.executable, "-c", code])
