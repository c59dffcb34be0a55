"""A server in a process of its own."""

import subprocess
import time
import urllib.error
import urllib.request

from effchal.serving.ready import free_port
from support.forked import Command


def status(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


class Server:
    """A server process on a free port, waited for, and stopped with SIGTERM.

    The words of `effchal serve ...` run in a forked process, others in one of their own.
    """

    def __init__(self, command, **options):
        self.port = free_port()
        command = [part.replace("PORT", str(self.port)) for part in command]
        if command[0] == "serve":
            self.process = Command(command, stderr=subprocess.STDOUT, **options)
        else:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            self.process = subprocess.Popen(command, **pipes, **options)
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        end = time.monotonic() + 120
        while status(f"{self.url}/ready") != 200:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(self.process.communicate()[0])
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
