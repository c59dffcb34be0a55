"""GET /: a small page to talk to the model. It needs nothing from elsewhere."""

import base64
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path

from flask import Response, abort

from effchal.config.choices import DecodingMethod
from effchal.serving.access import bearer_token, wants_page
from effchal.serving.service import Service

FILE = Path(__file__).parent / "page.html"


def page(service: Service) -> Response:
    """A page to talk to the model, for a browser.

    Raises:
        NotFound: another client asks; for it nothing is here.
    """
    if not wants_page():
        abort(404)
    methods = [each.value for each in DecodingMethod]
    allowed = service.cfg.serve.allow_decoding_override
    settings = {"token": bool(bearer_token()), "methods": methods if allowed else []}
    text, policy = read_page()
    filled = text.replace("{{settings}}", html.escape(json.dumps(settings)))
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    return Response(filled, mimetype="text/html", headers=headers)


@cache
def read_page() -> tuple[str, str]:
    """The page, and the policy by which a browser runs its own script and style and no other."""
    text = FILE.read_text(encoding="utf-8")
    script, style = (digest(text, tag) for tag in ("script", "style"))
    policy = [
        *("default-src 'none'", f"script-src {script}", f"style-src {style}"),
        *("img-src data:", "connect-src 'self'", "base-uri 'none'", "form-action 'none'"),
        *("frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'"),
    ]
    return text, "; ".join(policy)


def digest(text: str, tag: str) -> str:
    """The hash of the one element of this name, as a policy spells it."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
