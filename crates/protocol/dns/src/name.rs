//! What a name asks for (Consul's `dns.go`; registry names by kind).
//!
//! The kind is the last of the known words, counted from the right, so that tags and
//! node names may hold dots; what stands right of it is the data centre.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::name::ToLabelIter;
use domain::base::{Name, Rtype};

use crate::settings::{Domain, Settings};

/// A name on the wire.
pub(crate) type DnsName = Name<Vec<u8>>;

/// What a name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// One of our domains itself.
    Apex,
    /// Instances of a service.
    Service(ServiceQuery),
    /// What the prepared query of this name or id finds.
    Query(String),
    /// This machine, or another that nobody knows.
    Node(String),
    /// An address written as a name.
    Address(IpAddr),
    /// Who has this address.
    Reverse(IpAddr),
    /// Nothing by itself, but names stand below it (RFC 8020: it exists).
    Between,
    /// Nothing.
    Nothing,
}

/// A service by its labels: `TAGS.NAME.service`, or RFC 2782's `_NAME._TAG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceQuery {
    /// Tags and name, the leftmost first; never empty.
    labels: Vec<String>,
    /// What RFC 2782 has in the protocol's place.
    tag: Option<String>,
}

impl ServiceQuery {
    /// How it may be meant: a service's name with the tag that stands before it.
    /// Consul's names have no dots, so its reading comes first; ours may have.
    pub(crate) fn readings(&self) -> impl Iterator<Item = (String, Option<String>)> {
        let splits = (0..self.labels.len()).rev();
        splits.map(|at| {
            let tags = (at > 0).then(|| self.labels[..at].join("."));
            (self.labels[at..].join("."), self.tag.clone().or(tags))
        })
    }
}

/// Where in our names a question stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// The domain that was asked; answers stay in it.
    pub(crate) domain: &'a Domain,
    pub(crate) asked: Asked,
}

/// What `name` asks for; `None` when it is not ours to answer.
pub(crate) fn place<'a>(name: &DnsName, qtype: Rtype, settings: &'a Settings) -> Option<Place<'a>> {
    // Nobody's labels are anything but text; what is not matches nothing.
    let labels: Vec<String> = name
        .iter_labels()
        .filter(|label| !label.is_root())
        .map(|label| String::from_utf8_lossy(label.as_slice()).to_ascii_lowercase())
        .collect();
    if let Some(address) = reverse(&labels) {
        return Some(Place {
            domain: settings.domains.first()?,
            asked: Asked::Reverse(address),
        });
    }
    let ours = settings.domains.iter().filter(|domain| {
        let suffix = domain.labels();
        labels.len() >= suffix.len() && labels[labels.len() - suffix.len()..] == *suffix
    });
    // `service.example` and `example` may both be ours.
    let domain = ours.max_by_key(|domain| domain.labels().len())?;
    let inner = &labels[..labels.len() - domain.labels().len()];
    Some(Place {
        domain,
        asked: asked(inner, qtype, &settings.datacenter),
    })
}

fn asked(labels: &[String], qtype: Rtype, datacenter: &str) -> Asked {
    if labels.is_empty() {
        return Asked::Apex;
    }
    for (at, label) in labels.iter().enumerate().rev() {
        let (left, right) = (&labels[..at], &labels[at + 1..]);
        let kind = match &label[..] {
            "service" => service,
            "node" => node,
            "addr" => address,
            "query" => query,
            "connect" | "virtual" | "ingress" => |_: &[String]| Asked::Nothing,
            underscored if qtype == Rtype::SRV && underscored.starts_with('_') => {
                // Consul lets `.service` be left out of RFC 2782's names.
                return match here(right, datacenter) {
                    true => service(&labels[..=at]),
                    false => Asked::Nothing,
                };
            }
            _ => continue,
        };
        return match (here(right, datacenter), left.is_empty()) {
            (false, _) => Asked::Nothing,
            (true, true) => Asked::Between,
            (true, false) => kind(left),
        };
    }
    match here(labels, datacenter) {
        true => Asked::Between,
        false => Asked::Nothing,
    }
}

/// Whether what stands right of the kind is this data centre: nothing, `DC`, or `DC.dc`.
fn here(right: &[String], datacenter: &str) -> bool {
    match right {
        [] => true,
        [dc] => dc.eq_ignore_ascii_case(datacenter),
        [dc, kind] => kind == "dc" && dc.eq_ignore_ascii_case(datacenter),
        _ => false,
    }
}

fn service(left: &[String]) -> Asked {
    let query = |labels, tag| Asked::Service(ServiceQuery { labels, tag });
    match left {
        // Stands between `_web._tcp.service` and `service`.
        [one] if one.starts_with('_') => Asked::Between,
        [name, proto] if name.starts_with('_') && proto.starts_with('_') => {
            // `tcp` selects by nothing; `udp` and all others are tags.
            let tag = Some(proto[1..].to_owned()).filter(|tag| tag != "tcp" && !tag.is_empty());
            query(vec![name[1..].to_owned()], tag)
        }
        [] => Asked::Between,
        labels => query(labels.to_vec(), None),
    }
}

/// `NAME.query`, or as RFC 2782 has it: `_NAME._tcp.query`. Names may have dots.
fn query(left: &[String]) -> Asked {
    let name = match left {
        [name @ .., proto] if !name.is_empty() && proto.starts_with('_') => {
            let joined = name.join(".");
            joined.strip_prefix('_').map(str::to_owned)
        }
        _ => None,
    };
    Asked::Query(name.unwrap_or_else(|| left.join(".")))
}

fn node(left: &[String]) -> Asked {
    Asked::Node(left.join("."))
}

/// 8 or 32 hexadecimal digits (Consul's `encodeIPAsFqdn`).
fn address(left: &[String]) -> Asked {
    let [hex] = left else {
        return Asked::Nothing;
    };
    // `from_str_radix` takes a sign, too.
    if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Asked::Nothing;
    }
    let ip = match hex.len() {
        8 => u32::from_str_radix(hex, 16).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        32 => u128::from_str_radix(hex, 16).map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        _ => return Asked::Nothing,
    };
    ip.map_or(Asked::Nothing, Asked::Address)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for (RFC 1035
/// §3.5, RFC 3596 §2.5); `None` when it stands for none, or for a network.
fn reverse(labels: &[String]) -> Option<IpAddr> {
    let (zone, digits) = match labels {
        [digits @ .., zone, arpa] if arpa == "arpa" => (&zone[..], digits),
        _ => return None,
    };
    match (zone, digits.len()) {
        ("in-addr", 4) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().zip(digits.iter().rev()) {
                // As it is written: `01` and `+1` are other names.
                *octet = label
                    .parse::<u8>()
                    .ok()
                    .filter(|n| n.to_string() == *label)?;
            }
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        ("ip6", 32) => {
            let mut bits = 0_u128;
            for label in digits.iter().rev() {
                let mut chars = label.chars();
                let (digit, None) = (chars.next()?.to_digit(16)?, chars.next()) else {
                    return None;
                };
                bits = bits << 4 | u128::from(digit);
            }
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
        _ => None,
    }
}

/// A name of these labels; each may hold dots. `None` when it would be too long.
pub(crate) fn joined<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<DnsName> {
    let mut name = domain::base::name::NameBuilder::new_vec();
    for label in labels.into_iter().flat_map(|label| label.split('.')) {
        if label.is_empty() {
            return None;
        }
        name.append_label(label.as_bytes()).ok()?;
    }
    name.into_name().ok()
}

/// `HEX.addr.DC.DOMAIN`, which [`place`] reads.
pub(crate) fn address_name(ip: IpAddr, domain: &Domain, datacenter: &str) -> Option<DnsName> {
    let hex = match ip {
        IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    let domain = domain.labels().iter().map(|label| &label[..]);
    joined([&hex[..], "addr", datacenter].into_iter().chain(domain))
}
