"""The files of the page, and what browsers may do with them."""

import os
from pathlib import Path
from typing import Any

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"
_HEADERS = {
    # Everything comes from this server, and no text of an event can become a script or a style.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",  # browsers ask whether a file has changed
}


class _Files(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        return response


def create_assets() -> ASGIApp:
    """Return an application that serves the scripts and styles."""
    return GZipMiddleware(_Files(directory=FOLDER, follow_symlink=True))  # the sample is that of examples/


def create_page() -> ASGIApp:
    """Return an application that serves the page, whatever the path."""
    files = create_assets()

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        page: dict[str, Any] = {**scope, "path": "/index.html", "root_path": ""}
        await files(page, receive, send)

    return serve
