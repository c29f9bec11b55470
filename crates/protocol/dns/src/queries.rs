//! The port to whoever keeps prepared queries, which names below `query` run.
//!
//! DNS has no notion of them beyond this: what a query looks for, and how it is found by
//! a name, is Consul's, and so is the code that runs it for both. The binary plugs it in.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Instance;

/// What running a query gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whom it found; those may be named, whatever their health.
    pub instances: Vec<Arc<Instance>>,
    /// How long the answer may be kept; when absent, as long as all others.
    pub ttl: Option<Duration>,
}

/// Why a query could not be run; it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryFailed(pub String);

/// An answer to come; `None`: there is no such query.
pub type Running<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Found>, QueryFailed>> + Send + 'a>>;

/// Runs prepared queries.
pub trait Queries: Send + Sync {
    /// Runs the query that is called `name` for `client`. Names come in small letters.
    fn run<'a>(&'a self, name: &'a str, client: IpAddr) -> Running<'a>;
}
