"""A real browser, for tests of the explorer."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, expect

import eventmill_explorer
from support.mill import Mill, running_mill
from support.server import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: make browser")
DESKTOP = {"width": 1280, "height": 900}
_TIMEOUT_MS = 15_000
expect.set_options(timeout=_TIMEOUT_MS)


@dataclass(frozen=True)
class Browse:
    """Opens pages of a browser; each knows nothing of the others."""

    browser: Browser

    @asynccontextmanager
    async def __call__(self, url: str, **options: Any) -> AsyncIterator[Page]:
        """Yield a page at this address. Fail if it logs an error that is none of HTTP."""
        errors: list[str] = []

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
                errors.append(message.text)

        context = await self.browser.new_context(**({"viewport": DESKTOP, "timezone_id": "UTC"} | options))
        try:
            context.set_default_timeout(_TIMEOUT_MS)
            page = await context.new_page()
            page.on("console", note)
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(url)
            yield page
        finally:
            await context.close()
        assert errors == []


@asynccontextmanager
async def exploring(**options: Any) -> AsyncIterator[tuple[Mill, str]]:
    """Yield the API over memory backends with the explorer, and its address."""
    apps = eventmill_explorer.eventmill_http_apps()
    async with running_mill(http_apps=apps, **options) as mill, serving(mill.app) as (port, _):
        yield mill, f"http://127.0.0.1:{port}/"
