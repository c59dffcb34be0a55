"""A page in headless Chromium: what a script in it finds, and what the console says."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
AFTER_THE_PAGE = """<script>
(async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  while (!document.body.dataset.ready) await wait(50);
  const found = {};
  try { %s } catch (error) { found.error = String(error.stack); }
  top.postMessage(JSON.stringify(found), "*");
})();
</script></body>"""
# A window of Chromium is never narrower than 500 pixels; a frame in it can be.
FRAME = """<!doctype html>
<iframe src="%s" style="width: %dpx; height: 1200px; border: 0"></iframe>
<script>
onmessage = (event) => {
  document.body.append(Object.assign(document.createElement("pre"),
    { id: "found", textContent: event.data }));
};
</script>"""


def look(page: Path, script: str, width: int = 1280, dark: bool = False) -> dict:
    """Run a script after the page is ready; it keeps what it finds in `found`.

    The result has what the console said as "console".
    """
    copy, frame = (page.with_name(f"{page.stem}_{name}.html") for name in ("copy", "frame"))
    head, _, tail = page.read_text(encoding="utf-8").rpartition("</body>")
    copy.write_text(head + AFTER_THE_PAGE.replace("%s", script) + tail, encoding="utf-8")
    frame.write_text(FRAME % (copy.name, width))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width + 60},1300"
    done = run(size, scheme, "--dump-dom", frame.as_uri(), profile=page.parent / "profile")
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr[-2000:]
    console = re.findall(r"CONSOLE:\d+\] (.*)", done.stderr)
    return json.loads(unescape(text[1])) | {"console": console}


def run(*arguments: str, profile: Path) -> subprocess.CompletedProcess:
    """One start of Chromium. Its clock runs ahead, so that waiting in the page takes no time."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={profile}", "--virtual-time-budget=20000"]
    command = [str(CHROMIUM), *flags, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
