"""One HTML file with everything in it: page, styles, libraries and data."""

import base64
import gzip
import html
import json
import re
from pathlib import Path
from typing import Any

from effchal.reporting.payload import Detail, Report
from effchal.reporting.specs import specs

HERE = Path(__file__).parent
LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "tabulator.min.js")
SCRIPTS = ("values.js", "table.js", "charts.js", "browse.js", "page.js")
MOST_BYTES = 2_900_000
# Tried in order until the page is small enough.
DETAILS = (
    Detail(),
    Detail(200, 100, 1000),
    Detail(100, 50, 700),
    Detail(60, 25, 500),
    Detail(30, 10, 300),
    Detail(12, 3, 200),
)


def fitting_page(report: Report) -> tuple[str, dict[str, Any]]:
    """The page with as much detail as fits, and its data; the least detail, whatever its size."""
    at = 0
    while True:
        data = report.data(DETAILS[at])
        page = page_of(data)
        excess = len(page.encode()) / MOST_BYTES
        if excess <= 1 or at == len(DETAILS) - 1:
            return page, data
        at = min(at + (2 if excess > 2 else 1), len(DETAILS) - 1)


def page_of(data: dict[str, Any], live: bool = False) -> str:
    """The page. Data are compressed, so no text of a run stands in the HTML as it is."""
    style = f"{library('tabulator.min.css')}\n{own('page.css')}"
    scripts = [library(name) for name in LIBRARIES] + [own(name) for name in SCRIPTS]
    parts = {
        "title": html.escape(f"{data['summary']} - effchal report"),
        "style": style,
        "scripts": "\n".join(f"<script>\n{script}\n</script>" for script in scripts),
        "live": "yes" if live else "no",
        "specs": packed(specs()),
        "data": packed(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], own("page.html"))


def packed(value: Any) -> str:
    """JSON, compressed, in letters that HTML takes as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)).decode()


def own(name: str) -> str:
    return (HERE / "page" / name).read_text(encoding="utf-8")


def library(name: str) -> str:
    """A library's file, without the name of a source map that is not in the page."""
    text = (HERE / "libraries" / name).read_text(encoding="utf-8")
    return re.sub(r"(//|/\*)# sourceMappingURL=\S+( \*/)?", "", text)
