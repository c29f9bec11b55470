//! What the fleet needs of the registry and of the gateway, plugged together.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_fleet::ports::{Directory, Enlisted, Pending, Traffic};
use atoll_gateway::Gateway;
use atoll_model::{Catalog, Fault, Health, InstanceId, ServiceName};
use atoll_registry::{Registration, Registry, Source};
use atoll_runtime::Stop;
use tokio::sync::watch;

/// Replicas are made known to the registry, which checks them.
pub(crate) struct InRegistry(pub(crate) Registry);

impl Directory for InRegistry {
    fn enlist(&self, replica: Enlisted) -> Pending<'_, Result<(), Fault>> {
        let registration = Registration {
            checks: vec![replica.check],
            health: Health::Starting,
            metadata: BTreeMap::from([("pid".to_owned(), replica.pid.to_string())]),
            ..Registration::new(replica.service, replica.id, replica.address, Source::Fleet)
        };
        Box::pin(async move {
            self.0.register(registration).await?;
            Ok(())
        })
    }

    fn drain(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.0.set_draining(service, id, true).await?;
            Ok(())
        })
    }

    fn delist(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        Box::pin(async move {
            self.0.deregister(service, id, Source::Fleet).await?;
            Ok(())
        })
    }

    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.0.catalog()
    }
}

/// Requests in flight are the gateway's.
pub(crate) struct InGateway {
    pub(crate) registry: Registry,
    /// `None` when the gateway's listener is off: then nothing is in flight.
    pub(crate) gateway: Option<Gateway>,
    /// The data plane's: once it has stopped, its requests have ended, and it no
    /// longer learns from the catalogue that an instance drains.
    pub(crate) stop: Stop,
}

impl Traffic for InGateway {
    fn idle(&self, service: ServiceName, id: InstanceId) -> Pending<'_, ()> {
        Box::pin(async move {
            let Some(gateway) = &self.gateway else { return };
            let revision = self.registry.current().revision;
            let idle = async {
                gateway.wait_catalog(revision).await;
                gateway.idle(&service, &id).await;
            };
            self.stop.unless(idle).await;
        })
    }
}
