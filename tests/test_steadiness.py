"""How evenly requests are answered."""

import json
from pathlib import Path

import httpx

from support import services
from support.mill import install, running, wait_until

_PAGE = """
import gc
from eventmill import HttpApp, hookimpl

def create(services):
    async def app(scope, receive, send):
        count = str(len(gc.get_objects())).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": count})
    return app

@hookimpl
def eventmill_http_apps():
    return [HttpApp("/objects", create, "open")]
"""


def test_a_full_garbage_collection_has_little_to_look_through_once_the_api_serves(tmp_path: Path) -> None:
    (tmp_path / "objects_page.py").write_text(_PAGE)
    install(tmp_path, "objects_page", "objects_page")
    with services.running_sqs() as sqs:
        settings = services.AWS | {
            "PYTHONPATH": str(tmp_path),
            "EVENTMILL_QUEUE": "sqs",
            "EVENTMILL_QUEUE_SQS_URL": f"{sqs.endpoint}/000000000000/events",
            "EVENTMILL_STORE": "none",
            "EVENTMILL_LISTEN": "127.0.0.1:0",
            "EVENTMILL_SHUTDOWN_DELAY_SECONDS": "0",
        }
        with running("serve", cwd=tmp_path, settings=settings) as program:
            url = program.url()
            event = {"event_name": "seen", "channel": "web", "user_id": "u", "timestamp": 1_766_717_657}
            httpx.post(f"{url}/events", content=json.dumps(event), timeout=10)  # loads what is still to load
            wait_until(lambda: httpx.get(f"{url}/objects/").json() < 20_000, 5)
