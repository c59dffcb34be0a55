"""The libraries of the page are the files that their README names, with their licences."""

import hashlib
import re

from support.paths import ROOT

FOLDER = ROOT / "effchal" / "reporting" / "libraries"
README = (FOLDER / "README.md").read_text()


def test_every_file_has_the_digest_that_the_readme_says():
    digests = dict(re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", README, re.MULTILINE))
    files = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert set(digests) == {name for name in files if not name.endswith("LICENSE")}
    for name, digest in digests.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_every_library_has_its_licence():
    rows = re.findall(r"\| (MIT|BSD-3-Clause) \| (\S+-LICENSE) \|$", README, re.MULTILINE)
    assert len(rows) == 5
    for licence, name in rows:
        start = (FOLDER / name).read_text()[:200]
        assert ("MIT License" if licence == "MIT" else "University of Washington") in start
