"""The SQLite file of a service, which its replicas share."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

BUSY_TIMEOUT_SECONDS = 5
"""How long a write waits for that of another replica."""

BUSY_PAUSE_SECONDS = 0.01
"""Before it tries again by itself, where SQLite does not."""


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
        write_ahead(db)
        # Immediate, so that of two replicas that start at once the second waits and then
        # finds the work done.
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] < 1:
            for statement in statements:
                db.execute(statement)
            db.execute("PRAGMA user_version = 1")
        db.execute("COMMIT")


def write_ahead(db: sqlite3.Connection) -> None:
    """Switches to the write-ahead log, which lets replicas read while one writes.

    SQLite's busy timeout does not cover the switch: it fails at once while another replica
    writes in the old mode, as replicas do that start together.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_PAUSE_SECONDS)
