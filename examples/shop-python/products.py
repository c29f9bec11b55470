"""The products of the shop in Flask: create, read, update, delete, over SQLite.

It says that it is well at `/healthz`, describes itself at `/openapi.json`, and gunicorn finishes
its requests when it is told to stop. Nothing in it knows of Atoll.
"""

import json
from http import HTTPStatus
from typing import Annotated

from flask import Flask, Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from werkzeug.exceptions import HTTPException, NotFound, UnsupportedMediaType

from database import connect, migrate

DATABASE = "products.db"
PAGE_MAX = 200
TABLES = [
    """CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL,
        price_cents INTEGER NOT NULL, stock INTEGER NOT NULL)""",
    """INSERT INTO products (name, price_cents, stock) VALUES
        ('Kettle', 2900, 12),
        ('Teapot', 3400, 5),
        ('Cup', 700, 60)""",
]


class NewProduct(BaseModel):
    """What a client says of a product."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100, examples=["Lamp"])
    # In cents: money is never a float.
    price_cents: int = Field(ge=0, le=100_000_000, examples=[4200])
    stock: int = Field(ge=0, le=1_000_000, examples=[3])


class Product(NewProduct):
    """A product, with the id that the service gave."""

    id: int


class Page(BaseModel):
    """Which products to list."""

    q: str = Field("", description="Only products whose name holds this.")
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


class Unreadable(Exception):
    """A part of the URL is not what it should be."""


# SQLite's own range; Python's integers have none.
ID = TypeAdapter(Annotated[int, Field(ge=-(2**63), lt=2**63)])

migrate(DATABASE, TABLES)
app = Flask(__name__)
# What the Rust service takes; more is answered with 413.
app.config["MAX_CONTENT_LENGTH"] = 2 << 20


@app.get("/products")
def list_products():
    try:
        page = Page.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise Unreadable("; ".join(f"{f.field}: {f.message}" for f in fields(error))) from None
    with connect(DATABASE) as db:
        rows = db.execute(
            "SELECT id, name, price_cents, stock FROM products"
            " WHERE instr(lower(name), lower(?)) > 0 ORDER BY id LIMIT ? OFFSET ?",
            (page.q, min(page.limit, PAGE_MAX), page.offset),
        )
        return jsonify([dict(row) for row in rows])


@app.post("/products")
def add_product():
    new = body()
    with connect(DATABASE) as db:
        row = db.execute(
            "INSERT INTO products (name, price_cents, stock) VALUES (?, ?, ?)"
            " RETURNING id, name, price_cents, stock",
            (new.name, new.price_cents, new.stock),
        ).fetchone()
    return dict(row), 201, {"Location": f"/products/{row['id']}"}


@app.get("/products/<raw>")
def read_product(raw: str):
    id = identity(raw)
    with connect(DATABASE) as db:
        row = db.execute(
            "SELECT id, name, price_cents, stock FROM products WHERE id = ?", (id,)
        ).fetchone()
    return dict(row or missing(id))


@app.put("/products/<raw>")
def replace_product(raw: str):
    """The same again changes nothing."""
    id, new = identity(raw), body()
    with connect(DATABASE) as db:
        row = db.execute(
            "UPDATE products SET name = ?, price_cents = ?, stock = ? WHERE id = ?"
            " RETURNING id, name, price_cents, stock",
            (new.name, new.price_cents, new.stock, id),
        ).fetchone()
    return dict(row or missing(id))


@app.delete("/products/<raw>")
def remove_product(raw: str):
    id = identity(raw)
    with connect(DATABASE) as db:
        if db.execute("DELETE FROM products WHERE id = ?", (id,)).rowcount == 0:
            missing(id)
    return "", 204


@app.get("/healthz")
def healthz():
    return "ok\n", {"Content-Type": "text/plain; charset=utf-8"}


@app.get("/openapi.json")
def openapi():
    def says(description: str, schema: dict, kind: str = "application/json") -> dict:
        return {"description": description, "content": {kind: {"schema": schema}}}

    def refuses(*statuses: int) -> dict:
        kind = "application/problem+json"
        return {str(s): says(HTTPStatus(s).phrase, ref(Problem), kind) for s in statuses}

    def ref(model: type[BaseModel]) -> dict:
        return {"$ref": f"#/components/schemas/{model.__name__}"}

    def schema(model: type[BaseModel]) -> dict:
        whole = model.model_json_schema(ref_template="#/components/schemas/{model}")
        whole.pop("$defs", None)
        return whole

    sent = {"required": True, "content": {"application/json": {"schema": ref(NewProduct)}}}
    one = {"200": says("The product", ref(Product))}
    query = [
        {"name": name, "in": "query", "schema": schema}
        for name, schema in Page.model_json_schema()["properties"].items()
    ]
    id = {"name": "id", "in": "path", "required": True, "schema": ID.json_schema()}
    many = says("The page", {"type": "array", "items": ref(Product)})
    made = {"201": says("The product", ref(Product))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "products", "description": "The products of the shop.", "version": "1"},
        "paths": {
            "/products": {
                "get": {"parameters": query, "responses": {"200": many} | refuses(400)},
                "post": {"requestBody": sent, "responses": made | refuses(400, 422)},
            },
            "/products/{id}": {
                "parameters": [id],
                "get": {"responses": one | refuses(400, 404)},
                "put": {"requestBody": sent, "responses": one | refuses(400, 404, 422)},
                "delete": {"responses": {"204": {"description": "Gone"}} | refuses(400, 404)},
            },
        },
        "components": {
            "schemas": {m.__name__: schema(m) for m in (NewProduct, Product, Problem, FieldError)}
        },
    }


@app.after_request
def log(response: Response) -> Response:
    """One JSON line for each request, with the id that the gateway gave it."""
    # A check every few hundred milliseconds is no news.
    if request.path != "/healthz":
        line = {
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "request_id": request.headers.get("x-request-id"),
        }
        print(json.dumps(line), flush=True)
    return response


def body() -> NewProduct:
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, as `Content-Type: application/json`")
    return NewProduct.model_validate_json(request.get_data())


def identity(raw: str) -> int:
    try:
        return ID.validate_python(raw)
    except ValidationError as error:
        raise Unreadable(f"`{raw}`: {error.errors()[0]['msg']}") from None


def missing(id: int):
    raise NotFound(f"there is no product {id}")


def fields(error: ValidationError) -> list[FieldError]:
    return [
        FieldError(field=".".join(map(str, e["loc"])) or "body", message=e["msg"])
        for e in error.errors()
    ]


@app.errorhandler(HTTPException)
def failed(error: HTTPException):
    return problem(error.code, error.description)


@app.errorhandler(Unreadable)
def unreadable(error: Unreadable):
    return problem(400, str(error))


@app.errorhandler(ValidationError)
def invalid(error: ValidationError):
    """Bytes that say nothing are 400, a field that is wrong 422."""
    if error.errors()[0]["type"] == "json_invalid":
        return problem(400, error.errors()[0]["msg"])
    return problem(422, "some fields are not as they should be", fields(error))


def problem(status: int, detail: str, errors=()):
    body = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors)
    )
    text = body.model_dump_json(exclude_defaults=True)
    return text, status, {"Content-Type": "application/problem+json"}
