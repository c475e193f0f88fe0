"""The explorer in a real browser: what it shows is right."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Page, expect

from eventmill import EventBatch
from eventmill.testing import make_event
from support import real_events
from support.browser import Browse, exploring, needs_browser
from support.mill import Mill

pytestmark = [pytest.mark.anyio, needs_browser]
SPAN = "from=2015-05-17&to=2015-05-20&tz=UTC"
EXPECTED = real_events.EXPECTED


@pytest.fixture
async def real() -> AsyncIterator[tuple[Mill, str]]:
    """The API with the real events, and its address."""
    async with exploring() as (mill, url):
        await real_events.store_in(mill)
        yield mill, url


async def rows(page: Page, name: str) -> list[list[str]]:
    """The cells of a table, row by row."""
    table = page.get_by_role("region", name=name, exact=True)
    await table.wait_for()
    return [await row.locator("td, th").all_inner_texts() for row in await table.locator("tbody tr").all()]


def number(count: int) -> str:
    return f"{count:,}"


async def test_trends_show_the_right_answers_about_the_real_events(browse: Browse, real: tuple[Mill, str]) -> None:
    _, url = real
    async with browse(f"{url}?{SPAN}&look=table&by=channel") as page:
        for name, expected in EXPECTED["events"].items():
            await page.goto(f"{url}?{SPAN}&look=table&by=channel&event={name}")
            await expect(page.locator("[data-total=events]")).to_have_text(number(expected["total_count"]))
            await expect(page.locator("[data-total=users]")).to_have_text(number(expected["unique_count"]))
            shown = {channel: events for channel, events, _ in await rows(page, "Groups")}
            assert shown == {channel: number(count) for channel, count in expected["channel"].items()}
            await page.goto(f"{url}?{SPAN}&look=table&by=day&event={name}")
            await expect(page.locator("[data-total=events]")).to_have_text(number(expected["total_count"]))
            assert {day: events for day, events, _ in await rows(page, "Groups")} == {
                day: number(count) for day, count in expected["day"].items()
            }


async def test_a_chart_has_a_legend_with_the_exact_totals_of_its_groups(browse: Browse, real: tuple[Mill, str]) -> None:
    _, url = real
    async with browse(f"{url}?{SPAN}&event=page_view&by=hour&by=channel") as page:
        assert {channel: events for channel, events, _ in await rows(page, "Totals by channel")} == {
            channel: number(count) for channel, count in EXPECTED["events"]["page_view"]["channel"].items()
        }
        await page.get_by_role("img", name="by hour and channel").locator("canvas").wait_for()


async def test_a_comparison_shows_the_change(browse: Browse, real: tuple[Mill, str]) -> None:
    mill, url = real
    query = "from=2015-05-19&to=2015-05-20"
    answer = (await mill.client.get(f"/metrics?{query}&compare=previous")).json()
    now, before = answer["total_count"], answer["previous"]["total_count"]
    async with browse(f"{url}?{query}&tz=UTC") as page:
        await page.get_by_label("compare with before").check()
        shown = page.locator("[data-total=events] small")
        await expect(shown).to_have_text(f"+{(now / before - 1) * 100:.1f}%")
        assert await shown.get_attribute("title") == f"before: {number(before)}"


async def test_bars_list_their_groups_with_the_change_of_each(browse: Browse, real: tuple[Mill, str]) -> None:
    mill, url = real
    query = "from=2015-05-19&to=2015-05-20"
    answer = (await mill.client.get(f"/metrics?{query}&compare=previous&group_by=channel")).json()
    before = {group["group_value"]: group["unique_count"] for group in answer["previous"]["groups"]}
    async with browse(f"{url}?{query}&tz=UTC&by=channel&compare=previous") as page:
        shown = {row[0]: row[3] for row in await rows(page, "Groups")}
        changes = {
            group["group_value"]: group["unique_count"] / before[group["group_value"]] - 1 for group in answer["groups"]
        }
        assert shown == {name: f"{change:+.1%}".replace("-", "−") for name, change in changes.items()}


async def test_filters_and_measures_are_those_of_the_question(browse: Browse, real: tuple[Mill, str]) -> None:
    _, url = real
    lines = [json.loads(line) for line in set(real_events.lines())]
    missing = [line for line in lines if line["metadata"]["status"] == 404 and line["metadata"]["bytes"] > 300]
    async with browse(f"{url}?{SPAN}") as page:
        for name, operator, value in (("metadata.status", "=", "404"), ("metadata.bytes", ">", "300")):
            await page.get_by_role("button", name="+ Filter").click()
            await page.get_by_label("Property of the filter").select_option(name)
            await page.get_by_label("Comparison").select_option(operator)
            await page.get_by_label("Value").fill(value)
            await page.get_by_role("button", name="Add").click()
        await expect(page.locator("[data-total=events]")).to_have_text(number(len(missing)))
        await page.get_by_label("Measure", exact=True).select_option("max")
        largest = max(line["metadata"]["bytes"] for line in missing)
        await expect(page.locator("[data-total='max:metadata.bytes']")).to_have_text(number(largest))
        await page.get_by_role("button", name=re.compile("Remove the filter .*status")).click()
        await expect(page.locator("[data-total=events]")).not_to_have_text(number(len(missing)))


async def test_a_funnel_shows_the_users_of_each_step(browse: Browse, real: tuple[Mill, str]) -> None:
    mill, url = real
    question = {"from": "2015-05-17", "to": "2015-05-20", "window": "1d", "group_by": "channel"}
    steps = [{"event_name": name} for name in ("page_view", "image_view", "download")]
    answer = (await mill.client.post("/funnels", json=question | {"steps": steps})).json()
    async with browse(f"{url}?view=funnel&{SPAN}") as page:
        await page.get_by_label("Window").select_option("1d")
        await page.get_by_label("New step").select_option("download")
        await page.get_by_label("Group by").select_option("channel")
        for at, step in enumerate(answer["steps"]):
            await expect(page.locator(f"[data-step='{at}']")).to_have_text(number(step["users"]))
        assert [row[:4] for row in await rows(page, "Users by step and channel")] == [
            [group["group_value"], *(number(step["users"]) for step in group["steps"])] for group in answer["groups"]
        ]


async def test_retention_is_a_grid_of_shares(browse: Browse, real: tuple[Mill, str]) -> None:
    mill, url = real
    question = {"from": "2015-05-17", "to": "2015-05-20", "start": {"event_name": "page_view"}}
    answer = (await mill.client.post("/retention", json=question)).json()
    async with browse(f"{url}?view=retention&{SPAN}") as page:
        await page.get_by_label("First").select_option("page_view")
        users = [number(cohort["users"]) for cohort in answer["cohorts"]]
        await expect(page.locator(".cohorts tbody td:nth-of-type(1)")).to_have_text(users)
        assert await rows(page, "Users who come back") == [
            [
                cohort["cohort"],
                number(cohort["users"]),
                *(f"{period['users'] / cohort['users']:.1%}" for period in cohort["periods"]),
            ]
            for cohort in answer["cohorts"]
        ]


async def test_events_and_properties_are_listed_and_shown_in_full(browse: Browse, real: tuple[Mill, str]) -> None:
    _, url = real
    async with browse(f"{url}?view=events&{SPAN}") as page:
        assert {row[0]: row[1:3] for row in await rows(page, "Events")} == {
            name: [number(expected["total_count"]), number(expected["unique_count"])]
            for name, expected in EXPECTED["events"].items()
        }
        statuses = Counter(json.loads(line)["metadata"]["status"] for line in set(real_events.lines()))
        [(_, types, count, values)] = [row for row in await rows(page, "Properties") if row[0] == "metadata.status"]
        assert (types, count) == ("number", number(EXPECTED["distinct_events"]))
        [(status, most)] = statuses.most_common(1)
        assert values.split()[:2] == [str(status), number(most)]
        await page.get_by_role("region", name="Newest events").get_by_role("button").first.click()
        shown = json.loads(await page.get_by_role("dialog", name="The event in full").locator("pre").inner_text())
        assert shown["metadata"]["path"]
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog", name="The event in full")).to_have_count(0)


async def test_the_state_is_in_the_address_so_that_back_and_bookmarks_work(
    browse: Browse, real: tuple[Mill, str]
) -> None:
    _, url = real
    async with browse(f"{url}?{SPAN}") as page:
        total = page.locator("[data-total=events]")
        await expect(total).to_have_text(number(EXPECTED["distinct_events"]))
        await page.get_by_label("Events", exact=True).click()
        await page.get_by_label("download").check()
        downloads = number(EXPECTED["events"]["download"]["total_count"])
        await expect(total).to_have_text(downloads)
        await page.keyboard.press("Escape")
        await page.get_by_label("Then by").select_option("channel")
        await expect(page).to_have_url(re.compile("by=day&by=channel"))
        assert parse_qs(urlsplit(page.url).query)["event"] == ["download"]
        bookmark = page.url
        await page.go_back()
        await expect(page.get_by_label("Then by")).to_have_value("")
        await page.go_back()
        await expect(total).to_have_text(number(EXPECTED["distinct_events"]))
        await page.goto(bookmark)
        await expect(page.get_by_label("Then by")).to_have_value("channel")
        await expect(total).to_have_text(downloads)
        await page.locator("body").press("2")
        await expect(page.get_by_role("link", name="Funnel")).to_have_attribute("aria-current", "page")


async def test_settings_of_a_view_stay_while_another_one_is_shown(browse: Browse, real: tuple[Mill, str]) -> None:
    _, url = real
    async with browse(f"{url}?{SPAN}&by=channel&look=table&measure=count") as page:
        await page.get_by_role("link", name="Funnel").click()
        await page.get_by_label("Step 2", exact=True).wait_for()
        await page.get_by_role("link", name="Trends").click()
        await expect(page.get_by_label("Group by")).to_have_value("channel")
        await expect(page.get_by_label("Measure", exact=True)).to_have_value("count")


async def test_names_of_events_are_offered_also_if_the_last_days_have_none(
    browse: Browse, real: tuple[Mill, str]
) -> None:
    _, url = real
    async with browse(f"{url}?view=funnel&from=2015-05-01&to=2015-12-31&tz=UTC") as page:
        await expect(page.get_by_label("Step 1", exact=True)).to_have_value("page_view")
        assert parse_qs(urlsplit(page.url).query)["step"] == ["page_view", "image_view"]


async def test_signs_in_the_keys_of_metadata_are_no_operators(browse: Browse) -> None:
    keys = ["a!", "a<b", "a>=3", "a.b", "a\\b", "<script>", "plain"]
    async with exploring() as (mill, url):
        events = [
            make_event(event_id=key, timestamp_ms=1_700_000_000_000, metadata=json.dumps({key: "v"}).encode())
            for key in keys
        ]
        await mill.store.insert(EventBatch.of(events))
        async with browse(f"{url}?from=2023-11-01&to=2023-11-30&tz=UTC") as page:
            await expect(page.locator("[data-total=events]")).to_have_text(str(len(keys)))
            options = page.get_by_label("Group by").locator("option", has_text="metadata.")
            await expect(options).to_have_count(len(keys))
            for name in await options.all_inner_texts():
                await page.get_by_role("button", name="+ Filter").click()
                await page.get_by_label("Property of the filter").select_option(name)
                await page.get_by_label("Value").fill("v")
                await page.get_by_role("button", name="Add").click()
                await expect(page.locator("[data-total=events]")).to_have_text("1")
                await page.get_by_role("button", name="Remove the filter").click()


async def test_an_event_in_full_keeps_every_digit(browse: Browse) -> None:
    async with exploring() as (mill, url):
        metadata = b'{"huge":12345678901234567890,"f":1.0,"deep":{"a":[],"b":{}}}'
        await mill.store.insert(EventBatch.of([make_event(timestamp_ms=1_700_000_000_000, metadata=metadata)]))
        async with browse(f"{url}?view=events&from=2023-11-01&to=2023-11-30&tz=UTC") as page:
            await page.get_by_role("region", name="Newest events").get_by_role("button").click()
            shown = page.get_by_role("dialog", name="The event in full").locator("pre")
            await expect(shown).to_contain_text('"huge": 12345678901234567890')
            await expect(shown).to_contain_text('"f": 1.0')


async def test_a_tooltip_isolates_the_names_of_others(browse: Browse) -> None:
    name = "\u202eevil"
    async with exploring() as (mill, url):
        await mill.store.insert(EventBatch.of([make_event(event_name=name, timestamp_ms=1_700_000_000_000)]))
        async with browse(f"{url}?from=2023-11-13&to=2023-11-15&tz=UTC&by=day&by=event_name&look=bar") as page:
            await page.get_by_role("img").locator("canvas").hover()
            await expect(page.locator(".tooltip bdi")).to_have_text([name])
            await expect(page.locator(".tooltip b")).to_have_text(["1"])


async def test_groups_can_be_changed_while_the_last_answer_has_events_without_the_property(browse: Browse) -> None:
    async with exploring() as (mill, url):
        texts = [b"{}", b'{"plan":"pro"}']
        own = [
            make_event(event_id=f"{n}", timestamp_ms=1_700_000_000_000, metadata=text) for n, text in enumerate(texts)
        ]
        await mill.store.insert(EventBatch.of(own))
        async with browse(f"{url}?from=2023-11-01&to=2023-11-30&tz=UTC&by=metadata.plan") as page:
            await page.get_by_text("(none)").wait_for()
            await page.get_by_label("Then by").select_option("day")
            await page.get_by_role("region", name="Totals by metadata.plan").get_by_text("(none)").wait_for()


async def test_groups_of_events_without_the_property_and_with_an_empty_one_are_told_apart(browse: Browse) -> None:
    async with exploring() as (mill, url):
        texts = [b'{"plan":""}', b"{}", b'{"plan":"pro"}', b'{"plan":null}']
        events = [
            make_event(event_id=f"{n}", timestamp_ms=1_700_000_000_000, metadata=text) for n, text in enumerate(texts)
        ]
        await mill.store.insert(EventBatch.of(events))
        async with browse(f"{url}?from=2023-11-01&to=2023-11-30&tz=UTC&look=table&by=metadata.plan") as page:
            assert {row[0] for row in await rows(page, "Groups")} == {"(empty)", "(none)", "pro", "null"}
