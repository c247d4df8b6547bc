"""Looks at a page as a person's browser would: headless Chromium, spoken to through two pipes."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

SEEN = """(() => {
  for (const folded of document.querySelectorAll('details')) folded.open = true;
  return {
    title: document.title,
    text: document.body.innerText,
    images: document.images.length,
    broken: [...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt),
    too_wide: [...document.querySelectorAll('body *')]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide'))
      .map(e => e.outerHTML.slice(0, 99)),
    scroll_width: document.documentElement.scrollWidth,
  };
})()"""


@dataclass
class Sight:
    """What was seen of a page.

    Attributes:
        title: its title, after whatever ran in it.
        text: what it shows.
        images: how many there are.
        broken: the texts in place of those that do not show.
        too_wide: what reaches over the right edge.
        scroll_width: pixels that it takes from left to right.
        complaints: errors and warnings of the console, and addresses other than the file's own that it asked for.
        screenshot: PNG of the whole page, before anything is unfolded.
    """

    title: str
    text: str
    images: int
    broken: list
    too_wide: list
    scroll_width: int
    complaints: list = field(default_factory=list)
    screenshot: bytes = b""


class Chromium:
    """A headless browser. Messages go to it by one pipe and come by another, a NUL after each.

    The test is skipped where there is none.

    Args:
        webgl: whether it can draw in three dimensions, which it then does without a graphics card.
    """

    def __init__(self, *, webgl=False):
        self._graphics = "--use-angle=swiftshader --enable-unsafe-swiftshader" if webgl else "--disable-gpu"

    def __enter__(self):
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            pytest.skip("no Chromium here")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # It reads from its descriptor 3 and writes to 4: wherever the pipes lie, a shell puts them there.
        flags = (
            f"--headless --no-sandbox {self._graphics} --disable-dev-shm-usage --no-first-run --disable-extensions "
            f"--disable-background-networking --remote-debugging-pipe --user-data-dir={self._profile.name} about:blank"
        )
        command = f"exec {program} {flags} 3<&{theirs_in} 4>&{theirs_out}"
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._timer = threading.Timer(120, self._process.kill)  # a browser that hangs ends the pipe, and so the test
        self._timer.start()
        self._buffer, self._number, self._events = b"", 0, []
        return self

    def __exit__(self, *_):
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def look(self, path, width, height=900, *, dark=False):
        """Opens a file in a window of its own and returns what is to be seen, with all that is folded open."""
        target, session = self._open(path.resolve().as_uri(), width, height, dark=dark)
        picture = self._ask("Page.captureScreenshot", session, captureBeyondViewport=True)["data"]
        seen = self._ask("Runtime.evaluate", session, expression=SEEN, returnByValue=True)["result"]["value"]
        complaints = [said for event in self._events if (said := _complaint(event, path.resolve().as_uri()))]
        self._ask("Target.closeTarget", targetId=target)
        return Sight(**seen, complaints=complaints, screenshot=base64.b64decode(picture))

    def visit(self, url, width, height=900):
        """Opens an address and stays there."""
        _, session = self._open(url, width, height)
        return Visit(self, session, url)

    def _open(self, url, width, height, *, dark=False):
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", session)
        self._ask(
            "Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        if dark:
            scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
            self._ask("Emulation.setEmulatedMedia", session, features=scheme)
        self._events.clear()
        self._ask("Page.navigate", session, url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        return target, session

    def _ask(self, method, session=None, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _read(self):
        while b"\0" not in self._buffer:
            data = os.read(self._from, 1 << 20)
            assert data, "the browser ended"
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


class Visit:
    """A page that is open."""

    def __init__(self, browser, session, url):
        self._browser, self._session, self._url = browser, session, url

    def run(self, script):
        """What a line of JavaScript is on the page."""
        found = self._browser._ask("Runtime.evaluate", self._session, expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def type(self, text):
        """Types into what has the focus, and presses Enter."""
        self._browser._ask("Input.insertText", self._session, text=text)
        for kind in ("keyDown", "keyUp"):
            self._browser._ask(
                "Input.dispatchKeyEvent", self._session, type=kind, key="Enter", code="Enter", text="\r",
                windowsVirtualKeyCode=13,
            )  # fmt: skip

    def screenshot(self):
        """PNG of what is in the window."""
        return base64.b64decode(self._browser._ask("Page.captureScreenshot", self._session)["data"])

    def complaints(self):
        """Errors and warnings of the console, and addresses other than the page's own that it asked for."""
        return [said for event in self._browser._events if (said := _complaint(event, self._url))]


def _complaint(event, address):
    about = event["params"]
    match event["method"]:
        case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
            return about["entry"]["text"]
        case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
            return str(about["args"])
        case "Runtime.exceptionThrown":
            return about["exceptionDetails"]["text"]
        case "Network.requestWillBeSent":
            url = about["request"]["url"]
            own = url.startswith(("data:", "blob:")) or url == address
            own |= address.startswith("http") and url.startswith(address)
            return None if own else f"asked for {url}"
    return None
