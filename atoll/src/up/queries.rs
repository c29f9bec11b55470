//! Consul's prepared queries, for DNS.

use std::net::IpAddr;

use atoll_consul::QueryError;
use atoll_dns::{Found, Queries, QueryFailed, Running};

/// What the Consul front runs.
pub(crate) struct OfConsul(pub(crate) atoll_consul::Queries);

impl Queries for OfConsul {
    fn run<'a>(&'a self, name: &'a str, client: IpAddr) -> Running<'a> {
        Box::pin(async move {
            match self.0.run(name, client).await {
                Ok(run) => Ok(Some(Found {
                    instances: run.instances,
                    ttl: run.ttl,
                })),
                Err(QueryError::Unknown) => Ok(None),
                Err(QueryError::Failed(why)) => Err(QueryFailed(why)),
            }
        })
    }
}
