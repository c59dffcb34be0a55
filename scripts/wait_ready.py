"""Wait until a server answers GET /ready: python scripts/wait_ready.py http://127.0.0.1:8080 [seconds]"""

import http.client
import sys
import time
import urllib.error
import urllib.request


def is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/ready", timeout=5).status == 200
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def main() -> None:
    url, patience_s = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 300.0
    end = time.monotonic() + patience_s
    while not is_ready(url):
        if time.monotonic() > end:
            sys.exit(f"error: {url} was not ready within {patience_s:.0f} s")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
