//! HashiCorp Consul's HTTP API (`/v1`): services, checks and nodes over the registry,
//! keys and sessions over the store.
//!
//! It owns no state. What a catalogue does not tell by itself follows from those that
//! came by (`view.rs`); keys, sessions and foreign nodes stand in the store under
//! `consul/`. It refuses what it does not do with 501 and says so; SPEC.md has the
//! list; `copying.rs` and `copies.rs` are the two ends of a migration. Look next at `endpoint.rs` (what there is), `server.rs` (what every endpoint
//! has in common) and `translate.rs`.

mod acl;
mod agent;
mod away;
mod catalog;
mod checks;
mod config;
mod coordinates;
mod copies;
pub mod copying;
mod endpoint;
mod events;
mod filter;
mod fuzz;
mod guard;
mod gzip;
mod health;
mod keys;
mod kv;
mod machine;
mod mesh;
mod metrics;
mod moment;
mod node_checks;
mod operator;
mod query;
mod refused;
mod server;
mod session_checks;
mod sessions;
mod shared;
mod stored;
mod translate;
mod txn;
mod ui;
mod view;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use atoll_net::serve::{Limits, serve};
use atoll_registry::Registry;
use atoll_runtime::{Random, Restart, Tasks};
use atoll_store::{Op, Store, StoreError, Test, Txn};

pub use acl::AclSettings;
pub use fuzz::{fuzz_acl_rules, fuzz_body, fuzz_filter};
pub use query::{Queries, QueryError, Run};

use crate::acl::Acl;
use crate::server::Front;

/// Connections that are open at once. Each blocking query holds one, and a client may
/// have one for each service that it watches.
const CONNECTIONS_MAX: usize = 16_384;

/// What all keys of the store begin with that are ours: whoever keeps the store mirrors
/// them, so that they can be read while it is away.
pub const KEYS: &str = "consul/";

/// How this Atoll shows itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of its node.
    pub node: String,
    /// The address of its node: that of services which give none.
    pub address: String,
    /// Its datacenter. Default `dc1`.
    pub datacenter: String,
    /// Needed with every request, when set and ACLs are off.
    pub token: Option<String>,
    /// Who may do what; everybody everything, without.
    pub acl: Option<AclSettings>,
}

/// Why the front could not be started.
#[derive(Debug)]
pub enum StartError {
    /// The listener cannot be handed to the runtime.
    Listen(io::Error),
    /// The store cannot be read or written.
    Store(StoreError),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(error) => write!(f, "the consul listener cannot be served: {error}"),
            Self::Store(error) => write!(f, "the consul front cannot use the store: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What runs.
#[derive(Clone, Debug)]
pub struct Started {
    /// Where the API is served.
    pub address: SocketAddr,
    /// Its prepared queries, for DNS.
    pub queries: Queries,
}

/// Serves Consul's API on `listener` until `tasks` stop.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    tasks: &Tasks,
    listener: TcpListener,
    settings: Settings,
    registry: Registry,
    store: Store,
) -> Result<Started, StartError> {
    let group = tasks.group("consul");
    let id = node_id(&store).await.map_err(StartError::Store)?;
    let acl = match settings.acl.clone() {
        Some(acl) => {
            let (datacenter, clock) = (&settings.datacenter, tasks.clock().clone());
            let opened = Acl::open(acl, datacenter, store.clone(), clock).await;
            Some(Arc::new(opened.map_err(StartError::Store)?))
        }
        None => None,
    };
    let at = listener.local_addr().map_err(StartError::Listen)?;
    let loopback = at.ip().is_loopback();
    let front = Front::new(settings, id, registry.clone(), store, acl, loopback);
    run(&group, &front, registry);
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        ..Limits::default()
    };
    let queries = Queries(Arc::clone(&front));
    let service = tower::service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok(server::answer(front, request).await) }
    });
    let address = serve(&group, "http", listener, limits, service).map_err(StartError::Listen)?;
    Ok(Started { address, queries })
}

/// What goes on beside the requests: following the catalogue, and freeing what sessions
/// held that ended.
fn run(group: &Tasks, front: &Arc<Front>, registry: Registry) {
    let following = Arc::clone(front);
    let (watched, watching) = (registry.catalog(), Arc::clone(front));
    group.run("session-checks", Restart::WithBackoff, move |stop| {
        let (front, catalog) = (Arc::clone(&watching), watched.clone());
        async move {
            let watched = stop.unless(front.watch_session_checks(catalog));
            if let Some(Err(refusal)) = watched.await {
                // Restarted after a pause, it looks at all of them again.
                tracing::warn!(error = refusal.text, "checks of sessions cannot be watched");
            }
        }
    });
    group.run("view", Restart::WithBackoff, move |stop| {
        let (front, mut catalog) = (Arc::clone(&following), registry.catalog());
        async move {
            let follow = async {
                // A view that lags would be one that lies.
                loop {
                    let current = Arc::clone(&catalog.borrow_and_update());
                    front.view.apply(current);
                    if catalog.changed().await.is_err() {
                        return;
                    }
                }
            };
            stop.unless(follow).await;
        }
    });
    if let Some(acl) = front.acl.clone() {
        group.run("acl", Restart::WithBackoff, move |stop| {
            let acl = Arc::clone(&acl);
            async move {
                if let Some(Err(error)) = stop.unless(acl.follow()).await {
                    // Restarted after a pause, it reads all there is anew.
                    tracing::warn!(%error, "ACLs cannot be followed; what was known counts");
                }
            }
        });
    }
    let freeing = Arc::clone(front);
    group.run("sessions", Restart::WithBackoff, move |stop| {
        let front = Arc::clone(&freeing);
        async move {
            if let Some(Err(error)) = stop.unless(front.watch_sessions()).await {
                // Restarted after a pause, it looks for all that ended meanwhile.
                tracing::warn!(%error, "sessions cannot be watched");
            }
        }
    });
}

/// The id of our node, which must be the same after a restart: clients take another
/// for another node.
async fn node_id(store: &Store) -> Result<String, StoreError> {
    let new = server::uuid(&mut Random::from_entropy());
    let put = Txn::of([Op::put(keys::NODE_ID, &new[..])]).when(keys::NODE_ID, Test::Missing);
    if store.commit(put).await?.held {
        return Ok(new);
    }
    let kept = store.get(keys::NODE_ID).await?;
    Ok(kept.map_or(new, |kept| {
        String::from_utf8_lossy(&kept.value).into_owned()
    }))
}

#[cfg(test)]
mod tests;
