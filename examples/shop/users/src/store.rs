//! Users in a SQLite file, which the replicas of this service share.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use garde::Validate;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long a write waits for that of another replica.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Before it tries again by itself, where SQLite does not.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct User {
    /// Given by the service.
    pub(crate) id: i64,
    /// What to call them.
    pub(crate) name: String,
    /// Where to write to; no two users have the same.
    pub(crate) email: String,
}

/// What a client says of a user.
#[derive(Clone, Debug, Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Ada", "email": "ada@example.com"}))]
pub(crate) struct NewUser {
    /// What to call them.
    #[garde(length(chars, min = 1, max = 100))]
    pub(crate) name: String,
    /// Where to write to.
    #[garde(length(max = 254), contains("@"))]
    pub(crate) email: String,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Somebody else has that address.
    #[error("a user with the email `{0}` exists already")]
    EmailTaken(String),
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// The users.
#[derive(Clone)]
pub(crate) struct Users(Arc<Mutex<Connection>>);

impl Users {
    /// Opens the database, makes its folder and tables if they are missing, and puts
    /// a few users into an empty one.
    pub(crate) fn open(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder)?;
        }
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        write_ahead(&connection)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        migrate(&mut connection)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// A page of users, by id, of those whose name or email holds `query`.
    pub(crate) async fn list(
        &self,
        query: String,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<User>, StoreError> {
        self.with(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT id, name, email FROM users \
                 WHERE instr(lower(name || ' ' || email), lower(?1)) > 0 ORDER BY id LIMIT ?2 OFFSET ?3",
            )?;
            let rows = statement.query_map(params![query, limit, offset], user)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// One user.
    pub(crate) async fn get(&self, id: i64) -> Result<Option<User>, StoreError> {
        self.with(move |db| {
            let mut statement =
                db.prepare_cached("SELECT id, name, email FROM users WHERE id = ?1")?;
            Ok(statement.query_row([id], user).optional()?)
        })
        .await
    }

    /// Adds a user.
    pub(crate) async fn add(&self, new: NewUser) -> Result<User, StoreError> {
        self.with(move |db| {
            let sql = "INSERT INTO users (name, email) VALUES (?1, ?2) RETURNING id, name, email";
            let made = db.query_row(sql, params![new.name, new.email], user);
            made.map_err(|error| taken(error, &new.email))
        })
        .await
    }

    /// Replaces a user; `None` when there is none of this id.
    pub(crate) async fn replace(&self, id: i64, new: NewUser) -> Result<Option<User>, StoreError> {
        self.with(move |db| {
            let sql =
                "UPDATE users SET name = ?2, email = ?3 WHERE id = ?1 RETURNING id, name, email";
            let changed = db
                .query_row(sql, params![id, new.name, new.email], user)
                .optional();
            changed.map_err(|error| taken(error, &new.email))
        })
        .await
    }

    /// Removes a user; whether there was one.
    pub(crate) async fn remove(&self, id: i64) -> Result<bool, StoreError> {
        self.with(move |db| Ok(db.execute("DELETE FROM users WHERE id = ?1", [id])? > 0))
            .await
    }

    /// SQLite blocks, so it has a thread where that is allowed.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection)
        });
        match done.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

/// Switches to the write-ahead log, which lets replicas read while one writes.
///
/// SQLite's busy timeout does not cover the switch: it fails at once while another
/// replica writes in the old mode, as replicas do that start together.
fn write_ahead(connection: &Connection) -> Result<(), rusqlite::Error> {
    let started = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && started.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

/// Immediate, so that of two replicas that start at once the second waits and then
/// finds the work done.
fn migrate(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < 1 {
        transaction.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE);
             INSERT INTO users (name, email) VALUES
                 ('Ada Lovelace', 'ada@example.com'),
                 ('Grace Hopper', 'grace@example.com'),
                 ('Edsger Dijkstra', 'edsger@example.com');
             PRAGMA user_version = 1;",
        )?;
    }
    transaction.commit()
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        name: row.get(1)?,
        email: row.get(2)?,
    })
}

fn taken(error: rusqlite::Error, email: &str) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => StoreError::EmailTaken(email.to_owned()),
        _ => StoreError::Database(error),
    }
}
