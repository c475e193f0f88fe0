"""A server that does nothing: it answers 202 to every event.

    python empty_fastapi.py PORT [CHDB_FOLDER]

With a folder it also holds chDB's engine open.
"""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/events", status_code=202)
async def post_event() -> None:
    pass


if __name__ == "__main__":
    if len(sys.argv) > 2:
        import clickhouse_connect

        client = clickhouse_connect.get_client(interface="chdb", path=sys.argv[2])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
