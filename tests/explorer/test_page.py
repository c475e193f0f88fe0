"""The explorer in a real browser: its first minutes, its states, keys, hostile events, and how it looks."""

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.async_playwright import Axe
from playwright.async_api import Page, expect

from eventmill import Event, EventBatch, Metrics, MetricsQuery, QueryTooLarge, RejectedEvents, Store, StoreUnavailable
from eventmill.api.access import Access
from eventmill.api.keys import Keyring, create_key
from eventmill.testing import make_event
from eventmill.testing.contract import eventually
from support import real_events
from support.browser import Browse, exploring, needs_browser
from support.mill import ROOT, Mill
from support.proxies import StoreProxy

pytestmark = [pytest.mark.anyio, needs_browser]

VIEWS = ["trends", "funnel", "retention", "live", "events", "pipeline"]
SAMPLE_SPAN = "from=2015-05-17&to=2015-05-20&tz=UTC"
SHOTS = ROOT / "tests" / "explorer" / "screenshots"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}},
}
TOTAL = "[data-total=events]"
HOSTILE = [
    "<img src=x onerror=\"document.title='hacked'\">",
    "<script>document.title='hacked'</script>",
    "</option></select><b>bold",
    "{{7*7}} ${7*7} {a|b}",
    "javascript:document.title='hacked'",
    "\u202egnp.exe",
    "א" * 256,
    "W" * 256,
]


def event(name: str = "page_view", **fields: Any) -> dict[str, Any]:
    return {"event_name": name, "channel": "web", "user_id": "ada", "timestamp": int(time.time())} | fields


async def post(mill: Mill, *events: dict[str, Any]) -> None:
    await mill.client.post("/events/bulk", json=list(events))


async def store(mill: Mill, events: Sequence[Event]) -> None:
    await mill.store.insert(EventBatch.of(events))


async def test_an_empty_store_shows_how_to_send_the_first_event_and_comes_alive_with_it(browse: Browse) -> None:
    async with exploring() as (_, url), browse(url) as page:
        command = await page.locator("figure", has_text="curl").locator("code").inner_text()
        program = await asyncio.create_subprocess_shell(command, stdout=-3, stderr=-3)
        assert await program.wait() == 0
        await expect(page.locator(TOTAL)).to_have_text("1")


@pytest.mark.parametrize("title", ["Python", "eventmill"])
async def test_the_first_event_can_be_sent_as_shown(browse: Browse, title: str) -> None:
    async with exploring() as (_, url), browse(url) as page:
        figure = page.get_by_role("figure").filter(has=page.get_by_label(f"Copy the {title} command"))
        text = await figure.locator("code").inner_text()
        command = ["python", "-c", text] if title == "Python" else ["sh", "-c", text]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        program = await asyncio.create_subprocess_exec(*command, stdout=-3, env=os.environ | {"PATH": path})
        assert await program.wait() == 0
        await expect(page.locator(TOTAL)).to_have_text("1")


async def test_the_sample_is_loaded_into_a_project_of_its_own_and_shown(browse: Browse) -> None:
    async with exploring() as (mill, url), browse(url) as page:
        await page.get_by_role("button", name="Load the sample").click()
        await expect(page.locator(TOTAL)).to_have_text(f"{real_events.EXPECTED['distinct_events']:,}")
        await expect(page).to_have_url(re.compile("project=sample"))
        await page.get_by_role("region", name="Totals by channel").wait_for()
        assert (await mill.client.get("/metrics?from=0")).json()["total_count"] == 0


async def test_a_key_is_asked_for_kept_in_the_tab_only_and_shows_its_project_alone(browse: Browse) -> None:
    (secret, key), (_, other) = create_key("read", "shop"), create_key("read", "blog")
    async with exploring(access=Access("default", Keyring([key, other]))) as (mill, url):
        now_ms = int(time.time() * 1000)
        names = {"shop": "purchase", "blog": "comment"}
        events = [make_event(project=project, event_name=name, timestamp_ms=now_ms) for project, name in names.items()]
        await store(mill, events)
        async with browse(f"{url}?view=events") as page:
            dialog = page.get_by_role("dialog", name="This server needs a key")
            await dialog.get_by_label("A key that may read").fill("emr_wrong")
            await dialog.get_by_role("button").click()
            await dialog.get_by_text("does not accept").wait_for()
            await dialog.get_by_label("A key that may read").fill(secret)
            await dialog.get_by_role("button").click()
            await (
                page.get_by_role("region", name="Events", exact=True).get_by_role("button", name="purchase").wait_for()
            )
            assert "comment" not in await page.content()
            assert await page.evaluate("JSON.stringify([localStorage, document.cookie])") == '[{"theme":""},""]'
            assert secret not in page.url
            await page.reload()
            await (
                page.get_by_role("region", name="Events", exact=True).get_by_role("button", name="purchase").wait_for()
            )
            tab = await page.context.new_page()
            await tab.goto(page.url)
            await tab.get_by_role("dialog", name="This server needs a key").wait_for()
            await page.get_by_role("link", name="Pipeline").click()
            await page.get_by_text("This key may not see this").first.wait_for()
            await page.get_by_role("button", name="Forget the key").click()
            await page.get_by_role("dialog", name="This server needs a key").wait_for()


async def test_a_key_of_one_project_never_loads_the_sample_into_it(browse: Browse) -> None:
    secret, key = create_key("admin", "shop")
    async with exploring(access=Access("default", Keyring([key]))) as (mill, url), browse(url) as page:
        await page.get_by_label("A key that may read").fill(secret)
        await page.get_by_role("button", name="Show my events").click()
        await page.get_by_role("button", name="Load the sample").click()
        await page.get_by_text("The sample cannot be loaded: the key is for the project shop alone").wait_for()
        assert (await mill.client.get("/metrics?from=0", headers={"X-API-Key": secret})).json()["total_count"] == 0


async def test_the_first_event_of_a_project_goes_into_it(browse: Browse) -> None:
    async with exploring() as (mill, url), browse(f"{url}?project=blog") as page:
        command = await page.locator("figure", has_text="curl").locator("code").inner_text()
        program = await asyncio.create_subprocess_shell(command, stdout=-3, stderr=-3)
        assert await program.wait() == 0
        await expect(page.locator(TOTAL)).to_have_text("1")
        assert (await mill.client.get("/metrics?from=0", headers={"X-Project": "blog"})).json()["total_count"] == 1


ODD_ADDRESSES = [
    *("view=toString", "view=constructor", "view=", "from=-366d&to=-1h", "from=-366d&to=1448000000"),
    *("from=-366d&to=garbage", "view=live&tz=Nope", "from=2015-04-01&to=2015-05-20&tz=Berlin", "from=0&to=1"),
    *(
        "by=nothing&by=day&by=day",
        "look=pie",
        "measure=sum:",
        "where=what&where=[1,2]",
        "view=funnel&step=",
        "to=-1h",
    ),
    *("from=2025-01-02&to=2025-01-01", "unit=year&view=retention", "tz=", "view=funnel&window=x", "project=a/b"),
]


async def test_no_address_makes_a_blank_page(browse: Browse) -> None:
    async with exploring() as (mill, url):
        await store(mill, [make_event(timestamp_ms=int(time.time() * 1000))])
        await post(mill, event("x", channel=""))
        async with browse(url) as page:
            for address in ODD_ADDRESSES:
                await page.goto(f"{url}?{address}")
                await expect(page.locator("main")).to_contain_text(re.compile(r"\w"))
                await page.get_by_role("link", name="Events").click()
                await expect(page.get_by_role("heading", name="Newest events")).to_be_visible()


async def test_live_shows_stored_events_as_they_arrive_and_refused_ones_with_their_reason(browse: Browse) -> None:
    async with exploring() as (mill, url), browse(f"{url}?view=live") as page:
        await page.get_by_text("listening", exact=True).wait_for()
        await expect(page.get_by_text("New events appear here")).to_be_visible()
        while await page.get_by_role("region", name="Stored events").count() == 0:
            await post(mill, event("order", user_id="grace"), event("broken", timestamp="yesterday"))
            await page.wait_for_timeout(300)
        await page.get_by_role("region", name="Stored events").get_by_text("grace").first.wait_for()
        await page.get_by_role("button", name="Pause").click()
        await post(mill, event("order", user_id="linus"))
        await expect(page.get_by_text("new events appear after Go on")).to_be_visible()
        assert await page.get_by_role("region", name="Stored events").get_by_text("linus").count() == 0
        await page.get_by_role("button", name="Go on").click()
        await page.get_by_role("region", name="Stored events").get_by_text("linus").first.wait_for()
        refused = page.locator(".refused li").first
        await expect(refused.locator("b")).to_have_text("timestamp")
        await refused.locator("summary").click()
        await expect(refused.locator("pre")).to_contain_text('"broken"')


async def test_all_refused_events_are_shown_each_with_its_own_details(browse: Browse) -> None:
    async with exploring() as (mill, url):
        for bulk in ("a", "b"):  # of each bulk, 100 refused events are kept
            await post(mill, *(event(f"{bulk} {n}", timestamp="yesterday") for n in range(75)))
        async with browse(f"{url}?view=live") as page:
            await expect(page.locator(".refused li")).to_have_count(150)
            opened = page.locator(".refused li").first
            await opened.locator("summary").click()
            shown = await opened.locator("pre").inner_text()
            await post(mill, event("later", timestamp="tomorrow"))
            await expect(page.locator(".refused li")).to_have_count(151)
            await expect(page.locator(".refused li details[open] pre")).to_have_text(shown)


async def test_a_lookup_says_where_an_event_is(browse: Browse) -> None:
    async with exploring() as (mill, url):
        await post(mill, event("order", user_id="grace", event_id="known"), event("x", user_id="linus", channel=""))
        async with browse(f"{url}?view=live") as page:
            for kind, text, state in (
                ("event_id", "known", "stored"),
                ("user_id", "linus", "refused"),
                ("user_id", "nobody", "unknown"),
            ):
                await page.get_by_label("Look up by").select_option(kind)
                await page.get_by_label("Event id or user").fill(text)
                await page.get_by_role("button", name="Find").click()
                await page.locator(f"[data-state={state}]").wait_for()


class Picky(StoreProxy):
    """A store that rejects events of a name until it is told otherwise."""

    is_picky = True

    async def insert(self, batch: EventBatch) -> None:
        bad = [at for at, one in enumerate(batch.events) if one.event_name == "bad"]
        if bad and self.is_picky:
            raise RejectedEvents("no such column", bad)
        await super().insert(batch)


async def test_dead_letters_are_shown_and_replayed(browse: Browse) -> None:
    async with exploring(wrap_store=Picky) as (mill, url):
        await post(mill, event("bad"), event("good"))
        async with browse(f"{url}?view=pipeline") as page:
            await page.get_by_text("no such column", exact=True).click()
            await page.get_by_text('"event_name": "bad"').wait_for()
            assert isinstance(mill.store, Picky)
            mill.store.is_picky = False
            await page.get_by_role("button", name="Replay all").click()
            await page.get_by_text("There are no dead letters").wait_for()
            await page.get_by_text("1 replayed").wait_for()
            await expect(page.get_by_text("newest event of the project").locator("xpath=../dd")).to_contain_text("ago")
            await page.goto(f"{url}?event=bad")
            await expect(page.locator(TOTAL)).to_have_text("1")


class Slow(StoreProxy):
    """A store whose answers about numbers take until the question is cancelled."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked: list[MetricsQuery] = []
        self.cancelled: list[MetricsQuery] = []

    async def metrics(self, query: MetricsQuery) -> Metrics:
        self.asked.append(query)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.append(query)
            raise
        return await super().metrics(query)


async def test_a_question_is_cancelled_when_another_replaces_it_and_when_the_user_wants_it(browse: Browse) -> None:
    async with exploring(wrap_store=Slow) as (mill, url):
        slow = mill.store
        assert isinstance(slow, Slow)
        await store(mill, [make_event(timestamp_ms=int(time.time() * 1000))])
        async with browse(url) as page:
            await page.get_by_role("button", name="Cancel").wait_for()
            await page.get_by_label("Group by").select_option("hour")
            await eventually(lambda: _is(len(slow.asked) == 2 and slow.cancelled == slow.asked[:1]))
            await page.get_by_role("button", name="Cancel").click()
            await page.get_by_text("You cancelled it").wait_for()
            await eventually(lambda: _is(slow.cancelled == slow.asked))


async def _is(true: bool) -> bool:
    return true


class Failing(StoreProxy):
    error: Exception = StoreUnavailable("down")

    async def metrics(self, query: MetricsQuery) -> Metrics:
        raise self.error


async def test_errors_and_questions_that_are_too_large_are_explained(browse: Browse) -> None:
    async with exploring(wrap_store=Failing) as (mill, url):
        assert isinstance(mill.store, Failing)
        await store(mill, [make_event(timestamp_ms=int(time.time() * 1000))])
        async with browse(url) as page:
            await page.get_by_text("The server is busy, or its store is not available").wait_for()
            mill.store.error = QueryTooLarge("there are more than 10000 groups: group by less")
            await page.get_by_role("button", name="Try again").click()
            await page.get_by_text("This question is too large").wait_for()
            await page.get_by_text("there are more than 10000 groups: group by less").wait_for()
            await page.goto(f"{url}?tz=Mars/Olympus")
            await page.get_by_text("This question has an error").wait_for()


async def test_a_time_without_events_leads_to_the_newest_ones(browse: Browse) -> None:
    async with exploring() as (mill, url):
        await store(mill, [make_event(timestamp_ms=1_700_000_000_000)])
        async with browse(f"{url}?tz=UTC") as page:
            await page.get_by_role("button", name="Show the week before it").click()
            await expect(page.locator(TOTAL)).to_have_text("1")
            await expect(page.get_by_label("To")).to_have_value("2023-11-14")


async def test_hostile_texts_of_events_stay_texts(browse: Browse) -> None:
    async with exploring() as (mill, url):
        fields = [
            {"event_name": text, "channel": text[:64], "user_id": text, "tags": (text[:128],), "event_id": str(n)}
            for n, text in enumerate(HOSTILE)
        ]
        metadata = json.dumps({text: text for text in HOSTILE}).encode()
        now_ms = int(time.time() * 1000)
        await store(mill, [make_event(timestamp_ms=now_ms, metadata=metadata, **own) for own in fields])
        await post(mill, *(event(text, timestamp=text) for text in HOSTILE))
        async with browse(url, viewport=LOOKS["phone"]["viewport"]) as page:
            for view in VIEWS:
                await page.goto(f"{url}?view={view}&from=-7d&by=event_name&by=channel&look=bar")
                if view == "live":
                    await expect(page.locator(".refused").get_by_text("timestamp").first).to_be_visible()
                elif view != "pipeline":
                    await expect(page.get_by_text(HOSTILE[0]).first).to_be_attached()
                    await expect(page.locator(".answer[aria-busy=true]")).to_have_count(0)
                assert not await page.evaluate("document.querySelector('img[src=x], main b b, main script')"), view
                assert "hacked" not in await page.title()
                await _fits(page)


async def _fits(page: Page) -> None:
    """Assert that nothing makes the page wider than the screen."""
    widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], widths


async def test_thousands_of_groups_are_the_largest_ones_and_the_rest(browse: Browse) -> None:
    async with exploring() as (mill, url):
        now_ms = int(time.time() * 1000)
        await store(mill, [make_event(timestamp_ms=now_ms, event_id=f"{n}", user_id=f"u{n}") for n in range(5_000)])
        async with browse(f"{url}?by=user_id&look=table") as page:
            table = page.get_by_role("region", name="Groups")
            await expect(table.locator("tbody tr")).to_have_count(9)
            await expect(table.locator("tbody tr").last.locator("td")).to_have_text(["(all others)", "4,992", "4,992"])


@pytest.mark.parametrize("look", LOOKS)
async def test_every_view_is_accessible_fits_and_is_saved_as_a_screenshot(browse: Browse, look: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    async with exploring(wrap_store=Picky) as (mill, url):
        body = b"\n".join(real_events.lines())
        await mill.client.post("/events/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
        await post(mill, event("bad"), event("x", channel=""))
        async with browse(url, **LOOKS[look]) as page:
            for view in VIEWS:
                await page.goto(
                    f"{url}?view={view}&{SAMPLE_SPAN}" + ("&by=hour&by=channel" if view == "trends" else "")
                )
                await _settled(page, view)
                await _fits(page)
                await page.screenshot(path=SHOTS / f"{view}-{look}.png", full_page=True)
                results = await Axe().run(page)
                serious = [
                    (found["id"], [node["html"][:120] for node in found["nodes"]])
                    for found in results["violations"]
                    if found["impact"] in ("serious", "critical")
                ]
                assert serious == [], view
            await page.goto(f"{url}?view=events&{SAMPLE_SPAN}")
            await page.get_by_role("region", name="Newest events").get_by_role("button").first.click()
            await page.get_by_role("dialog", name="The event in full").wait_for()
            found = [
                one["id"] for one in (await Axe().run(page))["violations"] if one["impact"] in ("serious", "critical")
            ]
            assert found == []


async def _settled(page: Page, view: str) -> None:
    shown = {
        "trends": "canvas",
        "funnel": "[data-step='1']",
        "retention": ".cohorts tbody td",
        "live": ".refused li",
        "events": "[aria-label='Newest events'] tbody td",
        "pipeline": "[aria-label='Dead letters'] tbody td",
    }
    await page.locator(shown[view]).first.wait_for()
    await expect(page.locator(".answer[aria-busy=true]")).to_have_count(0)
