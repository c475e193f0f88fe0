"""Operators: principals that may see and change what belongs to all projects."""

from typing import Annotated

from fastapi import Depends, Request

from eventmill.errors import Forbidden
from eventmill.hookspecs import Principal, principal_of


def operator_of(request: Request) -> Principal:
    """Return who sent the request. Raise Forbidden for a key of one project: the queue belongs to all."""
    principal = principal_of(request.scope)
    if not principal.is_for_all:
        raise Forbidden("the queue and the consumers belong to all projects: use an admin key with the project *")
    return principal


Operator = Annotated[Principal, Depends(operator_of)]


def name_of(operator: Principal) -> str:
    """Return the operator for the log and for other operators: name and id of the key."""
    return f"{operator.name} ({operator.key})" if operator.name else operator.key
