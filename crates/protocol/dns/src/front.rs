//! From one packet to what is done about it: the same for UDP and TCP.

use std::sync::Arc;

use atoll_model::Catalog;
use atoll_runtime::{Clock, Random};
use domain::base::iana::{OptRcode, Rtype};
use tokio::sync::watch;

use crate::name::DnsName;
use crate::settings::Settings;
use crate::translate::{ALIASES_MAX, Outcome, View};
use crate::wire::{Query, Reply, Transport, Unanswerable};

/// An A record whose name is compressed (RFC 1035 §4.1.3): none is shorter.
const RECORD_BYTES_MIN: usize = 16;

/// What answers are made of.
pub(crate) struct Front {
    pub(crate) settings: Settings,
    pub(crate) catalog: watch::Receiver<Arc<Catalog>>,
    pub(crate) clock: Clock,
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

/// What others are asked for.
#[derive(Debug)]
pub(crate) enum Asking {
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
    /// What can be answered without waiting.
    pub(crate) fn at_once(&self, transport: Transport) -> Vec<u8> {
        match self {
            Self::Forward(query) => query.error(OptRcode::SERVFAIL, transport, true),
            Self::Follow { query, reply, .. } => query.answer(reply, transport, true),
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
        let view = View {
            catalog: &catalog,
            settings: &self.settings,
            // RFC 1982 lets it wrap.
            serial: (self.clock.wall_unix_ms() / 1000) as u32,
            // One more, so that it is seen that not all fit.
            records_max: query.answer_bytes_max(transport) / RECORD_BYTES_MIN + 1,
            aliases_max: ALIASES_MAX,
        };
        match view.answer(name, qtype, random) {
            Outcome::Reply(reply) => {
                let asks = recursion && query.recursion_desired();
                match view.leads_out(&reply, qtype).filter(|_| asks) {
                    None => Step::Send(query.answer(&reply, transport, recursion)),
                    Some(target) => Step::Ask(Box::new(Asking::Follow {
                        query,
                        reply,
                        target,
                        qtype,
                    })),
                }
            }
            Outcome::Elsewhere { .. } if recursion && query.recursion_desired() => {
                Step::Ask(Box::new(Asking::Forward(query)))
            }
            Outcome::Elsewhere { otherwise } => {
                Step::Send(query.error(OptRcode::from(otherwise), transport, recursion))
            }
        }
    }

    /// Whether names that are not ours are looked up (RFC 1035 §4.1.1, RA).
    pub(crate) fn recursion(&self) -> bool {
        !self.settings.recursors.is_empty()
    }
}
