//! What the catalogue answers to a question: pure, given what random numbers it asks for.
//!
//! Only instances that may take requests are named. Nothing here knows how much fits
//! into a message; `wire.rs` cuts.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Catalog, Health, Instance};
use atoll_runtime::Random;
use domain::base::Rtype;
use domain::base::iana::Rcode;

use crate::addresses::Addresses;
use crate::name::{Asked, DnsName, Place, ServiceQuery, address_name, joined, place};
use crate::settings::{Domain, Settings};
use crate::wire::{Data, Record, Reply};

/// Names that lead to names, followed within our own domains; Consul's limit.
pub(crate) const ALIASES_MAX: usize = 3;
/// Records that are added for a name that an SRV record leads to.
const BEHIND_TARGET_MAX: usize = 8;
/// Such names that are looked up for one answer: each may be a service of any size.
const TARGETS_FOLLOWED_MAX: usize = 32;
/// Services that one address is said to belong to.
const REVERSE_NAMES_MAX: usize = 32;

/// What an answer is made of.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) catalog: &'a Arc<Catalog>,
    /// Which services are where.
    pub(crate) addresses: &'a Addresses,
    pub(crate) settings: &'a Settings,
    /// The zone's serial number (RFC 1035 §3.3.13).
    pub(crate) serial: u32,
    /// Records beyond which none fits.
    pub(crate) records_max: usize,
    /// Names that may still lead to others.
    pub(crate) aliases_max: usize,
    /// How long the answer may be kept.
    pub(crate) ttl: Duration,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reply(Reply),
    /// Not ours: recursors are asked; `otherwise`, when there are none.
    Elsewhere {
        otherwise: Rcode,
    },
    /// A prepared query must be run first; see [`View::found`].
    Prepared(String),
}

impl View<'_> {
    /// The answer to a question.
    pub(crate) fn answer(&self, name: &DnsName, qtype: Rtype, random: &mut Random) -> Outcome {
        let Some(Place { domain, asked }) = place(name, qtype, self.settings) else {
            return Outcome::Elsewhere {
                otherwise: Rcode::REFUSED,
            };
        };
        let found = match asked {
            Asked::Reverse(ip) => return self.reverse(name, qtype, ip),
            Asked::Apex => Some(self.apex(name, qtype, domain)),
            Asked::Between => Some(Reply::default()),
            Asked::Nothing => None,
            Asked::Address(ip) => Some(self.address(name, qtype, ip)),
            Asked::Node(node) => self.node(name, qtype, &node),
            Asked::Query(query) => return Outcome::Prepared(query),
            Asked::Service(query) => {
                let fit = self.instances(&query);
                self.named(name, qtype, fit, domain, random)
            }
        };
        Outcome::Reply(self.finished(found, domain))
    }

    /// The answer to a question for what a prepared query found.
    pub(crate) fn found(
        &self,
        name: &DnsName,
        qtype: Rtype,
        instances: &[Arc<Instance>],
        random: &mut Random,
    ) -> Reply {
        let Some(Place { domain, .. }) = place(name, qtype, self.settings) else {
            return Reply::default();
        };
        let fit = instances.iter().map(Arc::as_ref);
        let fit = fit.filter(|instance| instance.weight > 0).collect();
        let found = self.named(name, qtype, fit, domain, random);
        self.finished(found, domain)
    }

    fn finished(&self, found: Option<Reply>, domain: &Domain) -> Reply {
        let exists = found.is_some();
        let mut reply = found.unwrap_or_default();
        reply.authoritative = true;
        if !exists {
            reply.rcode = Rcode::NXDOMAIN;
        }
        if reply.answers.is_empty() {
            // RFC 2308 §2: says for how long it may be believed.
            reply.authority.extend(self.soa(domain));
        }
        reply
    }

    /// The name outside of our domains that an answer ends with, if it does.
    pub(crate) fn leads_out(&self, reply: &Reply, qtype: Rtype) -> Option<DnsName> {
        let Data::Cname(target) = &reply.answers.last()?.data else {
            return None;
        };
        let wanted = matches!(qtype, Rtype::A | Rtype::AAAA);
        let out = wanted && place(target, qtype, self.settings).is_none();
        out.then(|| target.clone())
    }

    fn apex(&self, name: &DnsName, qtype: Rtype, domain: &Domain) -> Reply {
        let mut reply = Reply::default();
        if matches!(qtype, Rtype::SOA | Rtype::ANY) {
            reply.answers.extend(self.soa(domain).map(|soa| Record {
                owner: name.clone(),
                ..soa
            }));
        }
        if matches!(qtype, Rtype::NS | Rtype::ANY) {
            let settings = self.settings;
            let node = [&settings.node[..], "node", &settings.datacenter];
            if let Some(host) = joined(node.into_iter().chain(labels(domain))) {
                let glue = self.of_address(&host, settings.node_address);
                reply.additional.push((reply.answers.len(), glue));
                reply.answers.push(self.record(name, Data::Ns(host)));
            }
        }
        reply
    }

    fn address(&self, name: &DnsName, qtype: Rtype, ip: IpAddr) -> Reply {
        let mut reply = Reply::default();
        let record = self.of_address(name, ip);
        match fits(qtype, ip) {
            true => reply.answers.push(record),
            // As Consul does: whoever asks for SRV gets it all the same.
            false => reply.additional.push((0, record)),
        }
        reply
    }

    fn node(&self, name: &DnsName, qtype: Rtype, node: &str) -> Option<Reply> {
        let settings = self.settings;
        if !node.eq_ignore_ascii_case(&settings.node) {
            return None;
        }
        let mut reply = Reply::default();
        if fits(qtype, settings.node_address) {
            reply.answers = vec![self.of_address(name, settings.node_address)];
        }
        if matches!(qtype, Rtype::TXT | Rtype::ANY) {
            for (key, value) in &settings.node_meta {
                // Consul's way to give a value that is not a pair.
                let text = match key.to_ascii_lowercase().starts_with("rfc1035-") {
                    true => value.clone(),
                    false => format!("{key}={value}"),
                };
                reply.answers.push(self.record(name, Data::Txt(text)));
            }
        }
        Some(reply)
    }

    /// `fit` by name; `None` when there is nobody.
    fn named(
        &self,
        name: &DnsName,
        qtype: Rtype,
        fit: Vec<&Instance>,
        domain: &Domain,
        random: &mut Random,
    ) -> Option<Reply> {
        if fit.is_empty() {
            return None;
        }
        Some(match qtype {
            Rtype::SRV => self.srv(name, fit, domain, random),
            _ => self.addresses(name, qtype, fit, random),
        })
    }

    /// Instances that may be named in an answer.
    fn instances(&self, query: &ServiceQuery) -> Vec<&Instance> {
        let mut readings = query.readings().map(|(name, tag)| {
            let known = self.catalog.instances(&name);
            (known, tag)
        });
        let found = readings.find(|(known, _)| !known.is_empty());
        let (known, tag) = found.unwrap_or_default();
        let may_be_named = |instance: &&Instance| {
            let healthy = match self.settings.only_passing {
                true => instance.health == Health::Passing,
                false => instance.health.takes_requests(),
            };
            let tagged = tag.as_deref().is_none_or(|tag| {
                let mut tags = instance.tags.iter();
                tags.any(|one| one.eq_ignore_ascii_case(tag))
            });
            healthy && tagged && instance.weight > 0
        };
        known.iter().map(Arc::as_ref).filter(may_be_named).collect()
    }

    fn addresses(
        &self,
        name: &DnsName,
        qtype: Rtype,
        instances: Vec<&Instance>,
        random: &mut Random,
    ) -> Reply {
        let mut seen = BTreeSet::new();
        let mut alias = None;
        let mut reply = Reply::default();
        for instance in shuffled(instances, random) {
            let Some(socket) = instance.address.socket() else {
                alias = alias.or(Some(instance.address.host()));
                continue;
            };
            let first = seen.insert(socket.ip());
            if first && fits(qtype, socket.ip()) {
                reply.answers.push(self.of_address(name, socket.ip()));
                if reply.answers.len() >= self.records_max {
                    break;
                }
            }
        }
        // An alias stands for all that a name has (RFC 1034 §3.6.2), so it is given
        // only where there is nothing else, and only one.
        if seen.is_empty()
            && let Some(host) = alias.and_then(|host| joined([host]))
        {
            let behind = self.behind(&host, qtype, random);
            reply.answers.push(self.record(name, Data::Cname(host)));
            for record in behind {
                // Names that lead to each other would be told again and again.
                let alias = matches!(record.data, Data::Cname(_));
                if !(alias && reply.answers.contains(&record)) {
                    reply.answers.push(record);
                }
            }
        }
        reply
    }

    fn srv(
        &self,
        name: &DnsName,
        instances: Vec<&Instance>,
        domain: &Domain,
        random: &mut Random,
    ) -> Reply {
        let mut seen = BTreeSet::new();
        let mut glued = BTreeSet::new();
        let mut reply = Reply::default();
        let mut fork = random.fork();
        for instance in shuffled(instances, random) {
            if !seen.insert((instance.address.host(), instance.address.port())) {
                continue;
            }
            let socket = instance.address.socket();
            let target = match socket {
                Some(at) => address_name(at.ip(), domain, &self.settings.datacenter),
                None => joined([instance.address.host()]),
            };
            let Some(target) = target else {
                continue;
            };
            let of = reply.answers.len();
            match socket {
                _ if !glued.insert(instance.address.host()) => {}
                Some(at) => {
                    let glue = self.of_address(&target, at.ip());
                    reply.additional.push((of, glue));
                }
                None if of >= TARGETS_FOLLOWED_MAX => {}
                None => {
                    let behind = self.behind(&target, Rtype::ANY, &mut fork);
                    let behind = behind.take(BEHIND_TARGET_MAX);
                    reply.additional.extend(behind.map(|record| (of, record)));
                }
            }
            let data = Data::Srv {
                weight: instance.weight,
                port: instance.address.port(),
                target,
            };
            reply.answers.push(self.record(name, data));
            if reply.answers.len() >= self.records_max {
                break;
            }
        }
        reply
    }

    /// What our own domains say of a name that an answer leads to.
    fn behind(
        &self,
        host: &DnsName,
        qtype: Rtype,
        random: &mut Random,
    ) -> impl Iterator<Item = Record> + use<> {
        let found = self.aliases_max.checked_sub(1).map(|aliases_max| {
            let inner = View {
                aliases_max,
                ..*self
            };
            inner.answer(host, qtype, random)
        });
        let found = match found {
            Some(Outcome::Reply(reply)) => Some(reply.answers),
            // A host that is a prepared query's name is not looked up.
            Some(Outcome::Elsewhere { .. } | Outcome::Prepared(_)) | None => None,
        };
        found.into_iter().flatten()
    }

    /// Names of an address: this machine's first, then the services there, fit or not.
    fn reverse(&self, name: &DnsName, qtype: Rtype, ip: IpAddr) -> Outcome {
        let settings = self.settings;
        let mut reply = Reply {
            authoritative: true,
            ..Reply::default()
        };
        if let (Rtype::PTR | Rtype::ANY, Some(domain)) = (qtype, settings.domains.first()) {
            let here = ip == settings.node_address;
            let node = [&settings.node[..], "node", &settings.datacenter];
            let node = here.then(|| joined(node.into_iter().chain(labels(domain))));
            let services = self.addresses.services(self.catalog, ip, REVERSE_NAMES_MAX);
            let services = services.iter().map(|service| {
                joined(
                    [service.as_str(), "service"]
                        .into_iter()
                        .chain(labels(domain)),
                )
            });
            let names = node.into_iter().chain(services).flatten();
            reply.answers = names.map(|of| self.record(name, Data::Ptr(of))).collect();
        }
        match reply.answers.is_empty() {
            true => Outcome::Elsewhere {
                otherwise: match qtype {
                    Rtype::PTR | Rtype::ANY => Rcode::NXDOMAIN,
                    // Not for us to say what else there is.
                    _ => Rcode::REFUSED,
                },
            },
            false => Outcome::Reply(reply),
        }
    }

    fn soa(&self, domain: &Domain) -> Option<Record> {
        let named = |word: &'static str| joined([word].into_iter().chain(labels(domain)));
        Some(Record {
            owner: joined(labels(domain))?,
            // How long "there is no such name" may be kept: not at all.
            ttl_s: 0,
            data: Data::Soa {
                primary: named("ns")?,
                contact: named("hostmaster")?,
                serial: self.serial,
            },
        })
    }

    fn of_address(&self, owner: &DnsName, ip: IpAddr) -> Record {
        let data = match ip {
            IpAddr::V4(ip) => Data::A(ip),
            IpAddr::V6(ip) => Data::Aaaa(ip),
        };
        self.record(owner, data)
    }

    fn record(&self, owner: &DnsName, data: Data) -> Record {
        Record {
            owner: owner.clone(),
            ttl_s: self.ttl.as_secs().try_into().unwrap_or(u32::MAX),
            data,
        }
    }
}

fn labels(domain: &Domain) -> impl Iterator<Item = &str> {
    domain.labels().iter().map(|label| &label[..])
}

/// Whether a question of this type wants this address.
fn fits(qtype: Rtype, ip: IpAddr) -> bool {
    match qtype {
        Rtype::A => ip.is_ipv4(),
        Rtype::AAAA => ip.is_ipv6(),
        Rtype::ANY => true,
        _ => false,
    }
}

/// `items` in random order; costs only what is taken (Fisher and Yates, one at a time).
fn shuffled<'a, T>(
    mut items: Vec<T>,
    random: &'a mut Random,
) -> impl Iterator<Item = T> + use<'a, T> {
    std::iter::from_fn(move || {
        let left = items.len();
        (left > 0).then(|| items.swap_remove(random.below(left)))
    })
}
