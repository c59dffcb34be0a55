"""Wait until a server answers GET /ready: python scripts/wait_ready.py URL SECONDS PID_OF_SERVER"""

import http.client
import sys
import time
import urllib.error
import urllib.request

import psutil


def is_ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/ready", timeout=5).status == 200
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False


def main() -> None:
    url, patience_s, server_pid = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    end = time.monotonic() + patience_s
    while not is_ready(url):
        if not psutil.pid_exists(server_pid) or psutil.Process(server_pid).status() == psutil.STATUS_ZOMBIE:
            sys.exit("error: the server ended before it was ready")
        if time.monotonic() > end:
            sys.exit(f"error: {url} was not ready within {patience_s:.0f} s")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
