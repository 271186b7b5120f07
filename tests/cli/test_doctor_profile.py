"""doctor on a profile, as far as no cluster has to be asked; tests/launcher/test_doctor_cluster.py asks one."""

from __future__ import annotations

from pathlib import Path

from tests.cli.session import make_session


def test_doctor_says_what_a_profiles_stages_lack_without_a_cluster(tmp_path: Path) -> None:
    session = make_session(tmp_path / "project")
    (session.root / "p.yaml").write_text(
        "agent: {image: ours}\nstore: {claim: store}\n"
        "defaults: {image: theirs, labels: {release: nightly}}\n"
    )
    away = {"KUBECONFIG": str(tmp_path / "absent"), "HOME": str(tmp_path)}
    asked = ("doctor", "--no-probe", "--profile", "p.yaml", "--stage-account", "nightly-stages")
    found = session.look(*asked, "--stage-label", "release=nightly", **away)
    assert "ok       labels        release=nightly" in found.lines
    assert any(one.startswith("warning  stage account default in all") for one in found.lines)
    found = session.look(*asked, "--stage-label", "release=weekly", **away)
    assert any(one.startswith("failed   labels        pods of all stages") for one in found.lines)
    assert "failed: labels, cluster" in found.err
    for wrong in ("release", "=x"):
        assert session.look(*asked, "--stage-label", wrong).code == 2
    assert session.look("doctor", "--stage-account", "x").code == 2
