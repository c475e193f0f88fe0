"""POST /sql: a read-only statement in the store's own language, for operators."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from eventmill.api.errors import document
from eventmill.api.gate import needs
from eventmill.api.operators import Operator
from eventmill.hookspecs import Services
from eventmill.queries.sql import MAX_STATEMENT_CHARACTERS


class SqlBody(BaseModel):
    """One SELECT statement."""

    model_config = {"extra": "forbid", "strict": True}

    sql: str = Field(min_length=1, max_length=MAX_STATEMENT_CHARACTERS)


class SqlResponse(BaseModel):
    """The rows, at most 10,000; `is_complete` is false if there are more. Values that JSON lacks are texts."""

    columns: list[str]
    rows: list[list[Any]]
    is_complete: bool


def create_router(services: Services) -> APIRouter:
    """Return the route POST /sql."""
    router = APIRouter(tags=["operator"])

    @router.post(
        "/sql",
        summary="Run a SELECT statement",
        response_model=SqlResponse,
        responses=document(400, 503),
        openapi_extra=needs("admin"),
    )
    async def sql(operator: Operator, request: Request, body: SqlBody) -> Response:
        """Read the tables of a ClickHouse store in SQL, within the limits of queries. Other stores have no SQL."""
        result = await services.query(lambda store: store.sql(body.sql), request.receive)
        answer = {"columns": result.columns, "rows": result.rows, "is_complete": result.is_complete}
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return router
