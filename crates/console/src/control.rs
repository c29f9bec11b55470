//! What the admin API needs of the rest, as narrow as it can be.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use atoll_model::{Catalog, Fault, InstanceId, ServiceName};
use tokio::sync::{mpsc, watch};

use crate::wire;

/// A boxed future, so that the port can be a trait object.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Lines that are kept, and those that follow when they were asked for.
pub struct Followed {
    /// Oldest first.
    pub kept: Vec<wire::LogLine>,
    /// What comes next; `None` when only the kept lines were asked for.
    pub next: Option<mpsc::Receiver<wire::LogLine>>,
}

/// What the admin API shows and does. Implemented by the binary.
pub trait Control: Send + Sync + 'static {
    /// How the whole is.
    fn status(&self) -> wire::Status;
    /// Why requests should not be sent here, when they should not.
    fn not_ready(&self) -> Option<String>;
    /// Prometheus text.
    fn metrics(&self) -> String;
    /// All services, by name.
    fn services(&self) -> wire::Services;
    /// One service; `None` when it is neither registered nor configured.
    fn service(&self, name: &ServiceName) -> Option<wire::Service>;
    /// The catalogue, as it changes.
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>>;
    /// Registers an instance, or registers it again; gives the revision.
    fn register(
        &self,
        service: ServiceName,
        id: InstanceId,
        instance: wire::Register,
    ) -> Pending<'_, Result<u64, Fault>>;
    /// Renews an instance's lease.
    fn renew(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>>;
    /// Marks an instance as draining.
    fn drain(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<u64, Fault>>;
    /// Forgets an instance.
    fn deregister(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<u64, Fault>>;
    /// All routes, in the order of the file.
    fn routes(&self) -> wire::Routes;
    /// Which route takes a request, and why.
    fn explain(&self, request: &wire::ExplainRequest) -> Result<wire::Explanation, Fault>;
    /// What a service wrote to its output: the last `tail` lines, and what follows.
    fn logs(
        &self,
        service: &ServiceName,
        replica: Option<&str>,
        tail: usize,
        follow: bool,
    ) -> Result<Followed, Fault>;
    /// Reads the config file again.
    fn reload(&self) -> Pending<'_, Result<wire::Reloaded, Fault>>;
    /// The configuration in force, expanded, secrets redacted.
    fn config(&self) -> serde_json::Value;
}
