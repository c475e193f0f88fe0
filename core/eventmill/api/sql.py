"""POST /sql: a read-only statement in the store's own language, for operators."""

import asyncio
import datetime
import math
from typing import Any

from fastapi import APIRouter, Request
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

    @router.post("/sql", summary="Run a SELECT statement", responses=document(400, 503), openapi_extra=needs("admin"))
    async def sql(operator: Operator, request: Request, body: SqlBody) -> SqlResponse:
        """Read the tables of a ClickHouse store in SQL, within the limits of queries. Other stores have no SQL."""
        result = await services.query(lambda store: store.sql(body.sql), request.receive)
        rows = await asyncio.to_thread(_to_json, result.rows)
        return SqlResponse(columns=list(result.columns), rows=rows, is_complete=result.is_complete)

    return router


def _to_json(value: Any) -> Any:
    """Return a value of a row as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime.datetime | datetime.date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _to_json(member) for key, member in value.items()}
    return [_to_json(each) for each in value] if isinstance(value, list | tuple) else str(value)
