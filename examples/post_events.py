"""Post events from Python, one at a time and many at once, and ask for counts.

make run                                  # in another terminal
.venv/bin/python examples/post_events.py
"""

import sys
import time

import httpx

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"


def main() -> None:
    now = int(time.time())
    with httpx.Client(base_url=URL) as client:
        event = {"event_name": "sign_up", "channel": "web", "user_id": "ada", "timestamp": now, "tags": ["example"]}
        answer = client.post("/events", json=event).raise_for_status().json()
        print("accepted", answer["event_id"])

        visits = [event | {"event_name": "visit", "user_id": f"user {n % 3}", "metadata": {"n": n}} for n in range(10)]
        answer = client.post("/events/bulk", json={"events": visits}).raise_for_status().json()
        print("accepted", answer["accepted"], "of", len(visits))

        deadline = time.monotonic() + 10
        question: dict[str, str | int] = {"event_name": "visit", "from": now, "to": now, "group_by": "channel"}
        while True:
            counts = client.get("/metrics", params=question).raise_for_status().json()
            if counts["total_count"] >= len(visits) or time.monotonic() > deadline:
                break
            time.sleep(0.1)  # the consumer batches for up to a second
        print("visits:", counts["total_count"], "by", counts["unique_count"], "users")


if __name__ == "__main__":
    main()
