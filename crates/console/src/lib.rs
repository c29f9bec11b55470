//! The admin API under `/api/v1`, its OpenAPI document, `/healthz`, `/readyz` and
//! `/metrics`.
//!
//! It knows no domain: the binary implements [`ports`] over the registry, the
//! gateway and the fleet. Serde stays in `wire.rs`, refusals in `problem.rs`, who
//! may ask in `guard.rs`. Start with [`router`].

mod api;
mod extract;
mod guard;
mod params;
pub mod ports;
mod problem;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use atoll_net::Limits;
use atoll_runtime::Tasks;

pub use api::{openapi, router};

use crate::ports::{Directory, Operations, Routing};

/// All that the handlers need.
#[derive(Clone)]
pub struct Console {
    /// Services and instances.
    pub directory: Arc<dyn Directory>,
    /// Atoll itself.
    pub operations: Arc<dyn Operations>,
    /// Routes.
    pub routing: Arc<dyn Routing>,
    /// Who may ask for what.
    pub settings: Arc<Settings>,
}

/// Who may ask for what.
#[derive(Clone, Default)]
pub struct Settings {
    /// Whoever changes something must show it as `Authorization: Bearer ...`.
    /// `None` asks for nothing, which is right on loopback only.
    pub token: Option<String>,
    /// Names under which the console is reached, beside IP addresses and
    /// `localhost`. A page of another name may not speak to it (DNS rebinding).
    pub hosts: Vec<String>,
}

/// Serves the console on `listener` until `tasks` stop.
///
/// # Errors
/// When the listener cannot be handed to the runtime.
pub fn serve(tasks: &Tasks, listener: TcpListener, console: Console) -> io::Result<SocketAddr> {
    atoll_net::serve(
        tasks,
        "console",
        listener,
        Limits::default(),
        router(console),
    )
}
