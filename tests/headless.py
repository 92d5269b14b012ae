"""A browser without a window, for pages that stand alone: what they do, and that they ask nobody for anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OFFLINE = ("file:", "data:", "blob:", "about:", "chrome:")


@contextmanager
def browser(downloads: Path, *, width: int = 1280, height: int = 900) -> Iterator[Any]:
    """selenium's driver of Chromium; the test is skipped where they are not installed.

    At the end the browser's console must hold no error, and no address may have been asked for but files.
    """
    selenium = pytest.importorskip("selenium.webdriver", reason="install selenium: pip install '.[test]'")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("install a browser and its driver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    try:
        yield chrome
        assert chrome.get_log("browser") == []
        urls = asked(chrome)
        assert any(url.startswith("file:") for url in urls)
        assert [url for url in urls if not url.startswith(OFFLINE)] == []
    finally:
        chrome.quit()


def asked(chrome: Any) -> list[str]:
    """The addresses that were asked for since this was called last."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def keys(chrome: Any, *pressed: str) -> None:
    """Press keys, one after the other, wherever the focus is."""
    from selenium.webdriver import ActionChains

    ActionChains(chrome).send_keys(*pressed).perform()
