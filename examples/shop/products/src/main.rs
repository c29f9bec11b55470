//! The products of the shop: create, read, update, delete, over SQLite.
//!
//! A whole service in three files: this one starts and stops it, `api.rs` speaks
//! HTTP, `store.rs` keeps products. It listens on `$PORT`, says that it is well at
//! `/healthz`, describes itself at `/openapi.json`, and finishes its requests when it
//! is told to stop. Nothing in it knows of Atoll.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "an example stands alone: it reads its environment and logs to its output"
)]

mod api;
mod store;

use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("products: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::var("PORT")
        .unwrap_or_else(|_| "3002".to_owned())
        .parse()?;
    let database = std::env::var("DATABASE_PATH").unwrap_or_else(|_| "products.db".to_owned());
    let products = store::Products::open(database.as_ref())?;
    // Before it listens, so that whoever finds it listening may already stop it.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!(
        "{}",
        serde_json::json!({"message": "listening", "port": port, "database": database})
    );
    axum::serve(listener, api::router(products))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}
