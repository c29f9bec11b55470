//! From one packet to what is done about it: the same for UDP and TCP.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::Catalog;
use atoll_runtime::{Clock, Random};
use domain::base::iana::{OptRcode, Rtype};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::addresses::Addresses;
use crate::name::DnsName;
use crate::queries::{Found, Queries, QueryFailed};
use crate::recursor::ask;
use crate::settings::Settings;
use crate::translate::{ALIASES_MAX, Outcome, View};
use crate::wire::{Query, Reply, Transport, Unanswerable};

/// An A record whose name is compressed (RFC 1035 §4.1.3): none is shorter.
const RECORD_BYTES_MIN: usize = 16;
/// How long a prepared query may run: clients ask again after some seconds.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// What answers are made of.
pub(crate) struct Front {
    pub(crate) settings: Settings,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) addresses: Addresses,
    pub(crate) clock: Clock,
    /// Who runs prepared queries, if anybody does.
    pub(crate) queries: Option<Arc<dyn Queries>>,
}

/// What is done about a packet.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Silent,
    /// This is sent back.
    Send(Vec<u8>),
    /// Others are asked.
    Ask(Box<Asking>),
}

/// Who is asked.
#[derive(Debug)]
pub(crate) enum Asking {
    /// Other servers.
    Recursors(Box<Elsewhere>),
    /// Whoever keeps prepared queries.
    Queries {
        query: Query,
        /// The prepared query's.
        name: String,
    },
}

/// What other servers are asked for.
#[derive(Debug)]
pub(crate) enum Elsewhere {
    /// All of it.
    Forward(Query),
    /// What stands behind the name that our answer ends with.
    Follow {
        query: Query,
        reply: Reply,
        target: DnsName,
        qtype: Rtype,
    },
}

impl Asking {
    /// What can be answered without waiting; `recursion` as [`Front::recursion`] says.
    pub(crate) fn at_once(&self, transport: Transport, recursion: bool) -> Vec<u8> {
        match self {
            Self::Recursors(elsewhere) => match &**elsewhere {
                Elsewhere::Follow { query, reply, .. } => query.answer(reply, transport, recursion),
                Elsewhere::Forward(query) => query.error(OptRcode::SERVFAIL, transport, recursion),
            },
            Self::Queries { query, .. } => query.error(OptRcode::SERVFAIL, transport, recursion),
        }
    }
}

impl Front {
    pub(crate) fn handle(&self, packet: &[u8], transport: Transport, random: &mut Random) -> Step {
        let recursion = self.recursion();
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Unanswerable::Silent) => return Step::Silent,
            Err(Unanswerable::Error(query, code)) => {
                return Step::Send(query.error(code, transport, recursion));
            }
        };
        let Some((name, qtype)) = query.question() else {
            return Step::Silent;
        };
        let catalog = Arc::clone(&self.catalog.borrow());
        let view = self.view(&catalog, &query, transport);
        let reply = match view.answer(name, qtype, random) {
            Outcome::Reply(reply) => reply,
            Outcome::Prepared(name) if self.queries.is_some() => {
                return Step::Ask(Box::new(Asking::Queries { query, name }));
            }
            Outcome::Prepared(_) => view.found(name, qtype, &[], random),
            Outcome::Elsewhere { .. } if recursion && query.recursion_desired() => {
                let elsewhere = Box::new(Elsewhere::Forward(query));
                return Step::Ask(Box::new(Asking::Recursors(elsewhere)));
            }
            Outcome::Elsewhere { otherwise } => {
                return Step::Send(query.error(OptRcode::from(otherwise), transport, recursion));
            }
        };
        match self.sent(&view, &query, reply, transport) {
            Ok(answer) => Step::Send(answer),
            Err(elsewhere) => Step::Ask(Box::new(Asking::Recursors(elsewhere))),
        }
    }

    fn view<'a>(
        &'a self,
        catalog: &'a Arc<Catalog>,
        query: &Query,
        transport: Transport,
    ) -> View<'a> {
        View {
            catalog,
            addresses: &self.addresses,
            settings: &self.settings,
            // RFC 1982 lets it wrap.
            serial: (self.clock.wall_unix_ms() / 1000) as u32,
            // One more, so that it is seen that not all fit.
            records_max: query.answer_bytes_max(transport) / RECORD_BYTES_MIN + 1,
            aliases_max: ALIASES_MAX,
            ttl: self.settings.ttl,
        }
    }

    /// The answer, or what other servers must be asked for first.
    fn sent(
        &self,
        view: &View<'_>,
        query: &Query,
        reply: Reply,
        transport: Transport,
    ) -> Result<Vec<u8>, Box<Elsewhere>> {
        let recursion = self.recursion();
        let asks = recursion && query.recursion_desired();
        let qtype = query.question().map(|(_, qtype)| qtype);
        let out = qtype.filter(|_| asks);
        match out.and_then(|qtype| Some((view.leads_out(&reply, qtype)?, qtype))) {
            None => Ok(query.answer(&reply, transport, recursion)),
            Some((target, qtype)) => Err(Box::new(Elsewhere::Follow {
                query: query.clone(),
                reply,
                target,
                qtype,
            })),
        }
    }

    /// The answer to `packet` once those were asked who must be.
    pub(crate) async fn later(
        &self,
        packet: &[u8],
        asking: &Asking,
        transport: Transport,
        client: IpAddr,
        random: &mut Random,
    ) -> Vec<u8> {
        let recursors = &self.settings.recursors;
        let (query, name) = match asking {
            Asking::Recursors(elsewhere) => {
                return ask(packet, elsewhere, transport, recursors, random).await;
            }
            Asking::Queries { query, name } => (query, name),
        };
        let Some(found) = self.run(name, client).await else {
            return query.error(OptRcode::SERVFAIL, transport, self.recursion());
        };
        match self.of_found(query, &found, transport, random) {
            Ok(answer) => answer,
            Err(elsewhere) => ask(packet, &elsewhere, transport, recursors, random).await,
        }
    }

    /// What a prepared query finds; `None` when that cannot be said.
    async fn run(&self, name: &str, client: IpAddr) -> Option<Found> {
        let running = self.queries.as_ref()?.run(name, client);
        match timeout(QUERY_TIMEOUT, running).await {
            Ok(Ok(found)) => Some(found.unwrap_or_default()),
            Ok(Err(QueryFailed(error))) => {
                tracing::debug!(query = name, %error, "prepared query failed");
                None
            }
            Err(_) => {
                tracing::debug!(query = name, "prepared query took too long");
                None
            }
        }
    }

    fn of_found(
        &self,
        query: &Query,
        found: &Found,
        transport: Transport,
        random: &mut Random,
    ) -> Result<Vec<u8>, Box<Elsewhere>> {
        let catalog = Arc::clone(&self.catalog.borrow());
        let mut view = self.view(&catalog, query, transport);
        view.ttl = found.ttl.unwrap_or(view.ttl);
        let reply = query.question().map(|(name, qtype)| {
            let instances = &found.instances;
            view.found(name, qtype, instances, random)
        });
        self.sent(&view, query, reply.unwrap_or_default(), transport)
    }

    /// Whether names that are not ours are looked up (RFC 1035 §4.1.1, RA).
    pub(crate) fn recursion(&self) -> bool {
        !self.settings.recursors.is_empty()
    }
}
