"""A picture of the page at GET / of a running server, after one question with its tokens shown.

python scripts/chat_screenshot.py http://127.0.0.1:8080 chat.png --question "Why is the sky blue?"
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from devtools import Browser

ASKED = "!running && document.querySelector('tbody tr')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--question", default="The capital of France is")
    parser.add_argument("--decoding", default="", help="where requests may choose it")
    parser.add_argument("--max_tokens", default="24")
    parser.add_argument("--width", type=int, default=900)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: no Chromium here")
    with tempfile.TemporaryDirectory() as profile, Browser(chromium, Path(profile)) as browser:
        browser.open(args.url, args.width, args.height, args.dark)
        browser.wait_for("document.body.dataset.ready")
        for name, value in (("method", args.decoding), ("max_tokens", args.max_tokens)):
            browser.evaluate(f"document.getElementById('{name}').value = {value!r}")
            browser.evaluate(
                f"document.getElementById('{name}').dispatchEvent(new Event('change'))"
            )
        browser.type(args.question)
        browser.press("Enter")
        browser.wait_for(ASKED)
        browser.evaluate("document.querySelector('details').open = true")
        browser.screenshot(args.picture)
    print(args.picture)


if __name__ == "__main__":
    main()
