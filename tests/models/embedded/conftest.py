"""Small stand-ins for wheels and pip; the embedded model is loaded once, if it is prepared."""

import hashlib
import sys
import zipfile

import pytest

from sparsight.models import embedded
from sparsight.models.embedded.parts import Part

MEMBER = "package/model.bin"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def make_part(tmp_path):
    """Builds a wheel with the given members and the part that pins it."""

    def make(members=None, member=MEMBER):
        wheel = tmp_path / "package-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (members or {MEMBER: CONTENT}).items():
                archive.writestr(name, content)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return wheel, Part(
            "package", "1.0", wheel.name, digest, wheel.stat().st_size, member, len(CONTENT), "MIT"
        )

    return make


@pytest.fixture
def fake_pip(tmp_path, monkeypatch):
    """Puts a script in the place of `python -m pip`; the script sees pip's arguments."""

    def install(body):
        script = tmp_path / "fake-python"
        script.write_text(f"#!{sys.executable}\nimport sys, pathlib\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


@pytest.fixture(scope="session")
def prepared():
    if not embedded.is_prepared():
        pytest.skip("the embedded model is not prepared; run `sparsight prepare`")
    return embedded.load()
