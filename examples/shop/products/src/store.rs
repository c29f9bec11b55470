//! Products in a SQLite file, which the replicas of this service share.

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

/// A product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Product {
    /// Given by the service.
    pub(crate) id: i64,
    /// What it is called.
    pub(crate) name: String,
    /// In cents: money is never a float.
    pub(crate) price_cents: i64,
    /// How many there are.
    pub(crate) stock: i64,
}

/// What a client says of a product.
#[derive(Clone, Debug, Deserialize, Serialize, Validate, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Lamp", "price_cents": 4200, "stock": 3}))]
pub(crate) struct NewProduct {
    /// What it is called.
    #[garde(length(chars, min = 1, max = 100))]
    pub(crate) name: String,
    /// In cents.
    #[garde(range(min = 0, max = 100_000_000))]
    pub(crate) price_cents: i64,
    /// How many there are.
    #[garde(range(min = 0, max = 1_000_000))]
    pub(crate) stock: i64,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// The products.
#[derive(Clone)]
pub(crate) struct Products(Arc<Mutex<Connection>>);

impl Products {
    /// Opens the database, makes its folder and tables if they are missing, and puts
    /// a few products into an empty one.
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

    /// A page of products, by id, of those whose name holds `query`.
    pub(crate) async fn list(
        &self,
        query: String,
        limit: u32,
        offset: u32,
    ) -> Result<Vec<Product>, StoreError> {
        self.with(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT id, name, price_cents, stock FROM products \
                 WHERE instr(lower(name), lower(?1)) > 0 ORDER BY id LIMIT ?2 OFFSET ?3",
            )?;
            let rows = statement.query_map(params![query, limit, offset], product)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// One product.
    pub(crate) async fn get(&self, id: i64) -> Result<Option<Product>, StoreError> {
        self.with(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT id, name, price_cents, stock FROM products WHERE id = ?1",
            )?;
            Ok(statement.query_row([id], product).optional()?)
        })
        .await
    }

    /// Adds a product.
    pub(crate) async fn add(&self, new: NewProduct) -> Result<Product, StoreError> {
        self.with(move |db| {
            let sql = "INSERT INTO products (name, price_cents, stock) VALUES (?1, ?2, ?3) \
                       RETURNING id, name, price_cents, stock";
            Ok(db.query_row(sql, params![new.name, new.price_cents, new.stock], product)?)
        })
        .await
    }

    /// Replaces a product; `None` when there is none of this id.
    pub(crate) async fn replace(
        &self,
        id: i64,
        new: NewProduct,
    ) -> Result<Option<Product>, StoreError> {
        self.with(move |db| {
            let sql = "UPDATE products SET name = ?2, price_cents = ?3, stock = ?4 WHERE id = ?1 \
                       RETURNING id, name, price_cents, stock";
            let values = params![id, new.name, new.price_cents, new.stock];
            Ok(db.query_row(sql, values, product).optional()?)
        })
        .await
    }

    /// Removes a product; whether there was one.
    pub(crate) async fn remove(&self, id: i64) -> Result<bool, StoreError> {
        self.with(move |db| Ok(db.execute("DELETE FROM products WHERE id = ?1", [id])? > 0))
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
            "CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT NOT NULL,
                 price_cents INTEGER NOT NULL, stock INTEGER NOT NULL);
             INSERT INTO products (name, price_cents, stock) VALUES
                 ('Kettle', 2900, 12),
                 ('Teapot', 3400, 5),
                 ('Cup', 700, 60);
             PRAGMA user_version = 1;",
        )?;
    }
    transaction.commit()
}

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product {
        id: row.get(0)?,
        name: row.get(1)?,
        price_cents: row.get(2)?,
        stock: row.get(3)?,
    })
}
