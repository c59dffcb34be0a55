"""An export on the hub: uploaded to a stand-in, and what is said where it cannot be."""

import os
import subprocess
import sys

import pytest
from support.hub_uploads import UploadHub
from support.paths import ROOT

from effchal.config import ConfigError
from effchal.exporting.hub import require_online

UPLOAD = """
import sys
from pathlib import Path
from effchal.exporting.hub import UploadError, upload
try:
    print(upload(Path(sys.argv[1]), "me/model", private=True))
except UploadError as error:
    sys.exit(f"error: {error}")
"""


def upload(folder, url, token="a-token"):
    """In a process of its own: the hub's client reads its environment when it is imported."""
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": url, "HF_TOKEN": token, "PYTHONPATH": str(ROOT), "HF_HOME": str(folder)}
    command = [sys.executable, "-c", UPLOAD, folder / "out"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("---\nlibrary_name: peft\n---\n\n# a model\n")
    (tmp_path / "out" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_a_folder_is_uploaded_with_its_card(folder):
    with UploadHub() as hub:
        done = upload(folder, hub.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/me/model"
    assert hub.private == {"me/model": True}
    assert hub.commits == ["Upload by effchal export"]
    assert hub.files == {
        ("me/model", each.name): each.read_bytes() for each in (folder / "out").iterdir()
    }


def test_a_hub_that_is_not_there_or_refuses_is_one_line(folder):
    with UploadHub() as hub:
        refused = upload(folder, hub.url, token="another")
    gone = upload(folder, hub.url)
    for done in (refused, gone):
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: push_to_hub=me/model: ")
        assert done.stderr.endswith(f"upload it later: hf upload me/model {folder / 'out'}\n")
        assert done.stderr.count("\n") == 1
    assert "401" in refused.stderr
    assert len(list((folder / "out").iterdir())) == 2


def test_offline_it_is_refused_at_the_beginning(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="push_to_hub=me/x needs the hub, and HF_HUB_OFFLINE is"):
        require_online("me/x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    require_online("me/x")
