//! What the fleet needs of others, as narrow as it can be; the binary plugs in the
//! registry and the gateway.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use atoll_model::{Address, Catalog, Check, Fault, InstanceId, ServiceName};
use tokio::sync::watch;

/// A boxed future, so that the ports can be trait objects.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where replicas are made known and their health is learnt.
pub trait Directory: Send + Sync + 'static {
    /// Makes a replica known as `starting`, to be checked by `check`. Known
    /// already: the same again, with the new address.
    fn enlist(&self, replica: Enlisted) -> Pending<'_, Result<(), Fault>>;
    /// Marks a replica as draining: no new requests.
    fn drain(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>>;
    /// Forgets a replica.
    fn delist(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>>;
    /// The catalogue, as it changes.
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>>;
}

/// A replica as the directory is told of it.
#[derive(Clone, Debug)]
pub struct Enlisted {
    /// The service.
    pub service: ServiceName,
    /// The replica: `users-1`.
    pub id: InstanceId,
    /// Where it will listen.
    pub address: Address,
    /// How to learn that it is fit.
    pub check: Check,
    /// Its process id, for people.
    pub pid: u32,
}

/// Who knows how many requests an instance has in flight.
pub trait Traffic: Send + Sync + 'static {
    /// Resolves when the data plane has taken notice that the instance drains and
    /// no request to it is in flight.
    fn idle(&self, service: ServiceName, id: InstanceId) -> Pending<'_, ()>;
}
