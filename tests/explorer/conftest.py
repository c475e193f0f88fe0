"""One browser for the tests of a module; every test has pages of its own."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import async_playwright

from support.browser import CHROMIUM, Browse


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browse() -> AsyncIterator[Browse]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield Browse(browser)
        await browser.close()
