"""A headless Chromium that tests look at pages with, by its own protocol over two pipes; no driver is installed."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")


def chromium() -> str | None:
    """The path of a Chromium, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a headless Chromium.

    Args:
        profile (`Path`): a folder for what it writes.
    Attributes:
        errors: what its console and its scripts complained about.
        requests: the addresses that the page asked for.
    """

    def __init__(self, profile: Path):
        self.profile, self.errors, self.requests, self.numbers = profile, [], [], 0

    def __enter__(self):
        down, self.to = os.pipe()
        self.up, back = os.pipe()

        def as_three_and_four():
            # where the browser expects its pipes; by way of higher numbers, as these may be in use
            os.dup2(down, 100)
            os.dup2(back, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        command = [chromium(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, preexec_fn=as_three_and_four, close_fds=False, **quiet)
        os.close(down)
        os.close(back)
        self.rest = b""
        self.session = None
        (target,) = [info for info in self.call("Target.getTargets")["targetInfos"] if info["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.to)
        os.close(self.up)

    def call(self, method, **params):
        """Send a command and wait for its answer."""
        self.numbers += 1
        message = {"id": self.numbers, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.numbers:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self.rest:
            found = os.read(self.up, 1 << 16)
            assert found, "the browser has ended"
            self.rest += found
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, params):
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(params["args"])
        if method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"])
        if method == "Log.entryAdded":
            self.errors.append(params["entry"])
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Page.loadEventFired":
            self.loaded = True

    def open(self, path, width=1280, height=900, scheme="light"):
        """Show a file at a width, in light or dark."""
        self.show(Path(path).resolve().as_uri(), width, height, scheme)

    def show(self, address, width=1280, height=900, scheme="light"):
        """The same of an address."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._next()

    def ask(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def accessible(self):
        """What a screen reader is told: (role, name) of every element that it is told of."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
        ]

    def screenshot(self, path, whole=False):
        """Write a picture of what is seen, or of the whole page, as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))
