"""The SQLite file of a service, which its replicas share."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUSY_TIMEOUT_SECONDS = 5
"""How long a write waits for that of another replica."""


@contextmanager
def connect(default: str) -> Iterator[sqlite3.Connection]:
    """A connection for one request: opening a file costs less than sharing one among threads."""
    path = os.environ.get("DATABASE_PATH", default)
    # The timeout comes with the connection, before anything that could find the file locked.
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA synchronous = NORMAL")
        yield db


def migrate(default: str, statements: list[str]) -> None:
    """Makes the folder and the tables if they are missing."""
    Path(os.environ.get("DATABASE_PATH", default)).parent.mkdir(parents=True, exist_ok=True)
    with connect(default) as db:
        db.execute("PRAGMA journal_mode = WAL")
        # Immediate, so that of two replicas that start at once the second waits and then
        # finds the work done.
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] < 1:
            for statement in statements:
                db.execute(statement)
            db.execute("PRAGMA user_version = 1")
        db.execute("COMMIT")
