"""The users of the shop in FastAPI: create, read, update, delete, over SQLite.

It says that it is well at `/healthz`, describes itself at `/openapi.json`, and uvicorn finishes
its requests when it is told to stop. Nothing in it knows of Atoll.
"""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as AnyHTTPException

from database import connect, migrate

DATABASE = "users.db"
PAGE_MAX = 200
TABLES = [
    "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE)",
    """INSERT INTO users (name, email) VALUES
        ('Ada Lovelace', 'ada@example.com'),
        ('Grace Hopper', 'grace@example.com'),
        ('Edsger Dijkstra', 'edsger@example.com')""",
]


class NewUser(BaseModel):
    """What a client says of a user."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100, examples=["Ada"])
    email: str = Field(max_length=254, pattern="@", examples=["ada@example.com"])


class User(NewUser):
    """A user, with the id that the service gave."""

    id: int


class Page(BaseModel):
    """Which users to list."""

    q: str = Field("", description="Only users whose name or email holds this.")
    limit: int = Field(50, ge=0, lt=2**32, description="At most this many; 200 at most.")
    offset: int = Field(0, ge=0, lt=2**32, description="Leaves out this many first.")


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str
    message: str


class Problem(BaseModel):
    """An RFC 9457 problem."""

    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


# SQLite's own range; Python's integers have none.
Id = Annotated[int, Path(ge=-(2**63), lt=2**63)]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    migrate(DATABASE, TABLES)
    yield


app = FastAPI(
    title="users",
    description="The users of the shop.",
    lifespan=lifespan,
    docs_url=None,
    redoc_url=None,
    redirect_slashes=False,
    responses={400: {"model": Problem}, 422: {"model": Problem}},
)


@app.get("/users")
def list_users(page: Annotated[Page, Query()]) -> list[User]:
    """A page of users, by id."""
    with connect(DATABASE) as db:
        rows = db.execute(
            "SELECT id, name, email FROM users"
            " WHERE instr(lower(name || ' ' || email), lower(?)) > 0 ORDER BY id LIMIT ? OFFSET ?",
            (page.q, min(page.limit, PAGE_MAX), page.offset),
        )
        return [User(**row) for row in rows]


@app.post("/users", status_code=201, responses={409: {"model": Problem}})
def add_user(new: NewUser, response: Response) -> User:
    """Adds a user."""
    with connect(DATABASE) as db:
        try:
            row = db.execute(
                "INSERT INTO users (name, email) VALUES (?, ?) RETURNING id, name, email",
                (new.name, new.email),
            ).fetchone()
        except sqlite3.IntegrityError:
            raise taken(new) from None
    response.headers["Location"] = f"/users/{row['id']}"
    return User(**row)


@app.get("/users/{id}", responses={404: {"model": Problem}})
def read_user(id: Id) -> User:
    """One user."""
    with connect(DATABASE) as db:
        row = db.execute("SELECT id, name, email FROM users WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise missing(id)
    return User(**row)


@app.put("/users/{id}", responses={404: {"model": Problem}, 409: {"model": Problem}})
def replace_user(id: Id, new: NewUser) -> User:
    """Replaces a user. The same again changes nothing."""
    with connect(DATABASE) as db:
        try:
            row = db.execute(
                "UPDATE users SET name = ?, email = ? WHERE id = ? RETURNING id, name, email",
                (new.name, new.email, id),
            ).fetchone()
        except sqlite3.IntegrityError:
            raise taken(new) from None
    if row is None:
        raise missing(id)
    return User(**row)


@app.delete("/users/{id}", status_code=204, responses={404: {"model": Problem}})
def remove_user(id: Id) -> None:
    """Removes a user."""
    with connect(DATABASE) as db:
        if db.execute("DELETE FROM users WHERE id = ?", (id,)).rowcount == 0:
            raise missing(id)


@app.get("/healthz", include_in_schema=False, response_class=PlainTextResponse)
def healthz() -> str:
    return "ok\n"


@app.middleware("http")
async def log(request: Request, call_next):
    """One JSON line for each request, with the id that the gateway gave it."""
    response = await call_next(request)
    # A check every few hundred milliseconds is no news.
    if request.url.path != "/healthz":
        line = {
            "method": request.method,
            "path": request.url.path,
            "status": response.status_code,
            "request_id": request.headers.get("x-request-id"),
        }
        print(json.dumps(line), flush=True)
    return response


def missing(id: int) -> HTTPException:
    return HTTPException(404, f"there is no user {id}")


def taken(new: NewUser) -> HTTPException:
    return HTTPException(409, f"a user with the email `{new.email}` exists already")


@app.exception_handler(AnyHTTPException)
async def failed(_: Request, error: AnyHTTPException) -> JSONResponse:
    return problem(error.status_code, error.detail, headers=error.headers)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Bytes or a URL that say nothing are 400, another kind of body 415, a field that is wrong 422."""
    first = error.errors()[0]
    where = first["loc"][0]
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if where == "body" and kind != "application/json":
        return problem(415, "send JSON, as `Content-Type: application/json`")
    if first["type"] == "json_invalid":
        place = first["loc"][-1]
        return problem(400, f"{first['msg']} at character {place}: {first['ctx']['error']}")
    fields = [
        FieldError(field=".".join(map(str, e["loc"][1:])) or str(where), message=e["msg"])
        for e in error.errors()
    ]
    if where != "body":
        return problem(400, "; ".join(f"{f.field}: {f.message}" for f in fields))
    return problem(422, "some fields are not as they should be", fields)


def problem(status: int, detail: str, errors=(), headers=None) -> JSONResponse:
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors)
    )
    return JSONResponse(
        body.model_dump(exclude_defaults=True),
        status,
        headers=headers,
        media_type="application/problem+json",
    )
