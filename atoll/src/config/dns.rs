//! `dns:`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use atoll_dns::{Domain, Settings};

use super::decode::{Context, Fields};
use super::keys;
use super::tree::Node;

/// Where name servers listen.
const NAME_SERVER_PORT: u16 = 53;
/// Recursors are asked one after the other, and a client waits for a few seconds.
const RECURSORS_MAX: usize = 8;
/// Domains, each of which is compared with each name.
const DOMAINS_MAX: usize = 16;
/// Longest name of a machine, so that it fits before any domain (Linux has 64).
const NODE_BYTES_MAX: usize = 128;

/// Which names are answered, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// What the names end in; never empty.
    pub domains: Vec<Domain>,
    /// How long an answer may be kept.
    pub ttl: Duration,
    /// Whether instances in `warning` are left out, too.
    pub only_passing: bool,
    /// Who is asked about all other names.
    pub recursors: Vec<SocketAddr>,
    /// Name of this machine, unless it is to be asked.
    pub node: Option<String>,
    /// Address of this machine, unless it is to be found out.
    pub address: Option<IpAddr>,
}

impl Default for Dns {
    fn default() -> Self {
        let usual = Settings::default();
        Self {
            domains: usual.domains,
            ttl: usual.ttl,
            only_passing: usual.only_passing,
            recursors: usual.recursors,
            node: None,
            address: None,
        }
    }
}

pub(crate) fn dns(cx: &Context<'_>, node: &Node) -> Option<Dns> {
    let fields = Fields::of(cx, node, &keys::DNS)?;
    let mut found = Dns::default();
    if let Some(node) = fields.get("domains") {
        let words = cx.texts(node);
        if !(1..=DOMAINS_MAX).contains(&words.len()) {
            cx.error(
                node.span,
                format!("from 1 to {DOMAINS_MAX} domains may stand here"),
            );
        }
        let domains = words.into_iter().filter_map(|word| {
            let domain = word.text.parse::<Domain>();
            cx.ok(word.span, domain.map_err(|error| error.to_string()))
        });
        found.domains = domains.collect();
    }
    if let Some(node) = fields.get("ttl") {
        found.ttl = cx.duration(node).unwrap_or_default();
        if found.ttl.subsec_nanos() != 0 {
            cx.error(node.span, "DNS counts in whole seconds");
        }
    }
    if let Some(only) = fields.get("only_passing").and_then(|node| cx.flag(node)) {
        found.only_passing = only;
    }
    if let Some(node) = fields.get("recursors") {
        let words = cx.texts(node).into_iter();
        let recursors = words.filter_map(|word| cx.ok(word.span, recursor(&word.text)));
        found.recursors = recursors.collect();
        if found.recursors.len() > RECURSORS_MAX {
            cx.error(node.span, format!("at most {RECURSORS_MAX} recursors"));
        }
    }
    if let Some(word) = fields.get("node").and_then(|node| cx.words(node)) {
        found.node = cx.ok(word.span, machine(&word.text));
    }
    if let Some(word) = fields.get("address").and_then(|node| cx.words(node)) {
        let address = word.text.parse::<IpAddr>().ok();
        let address = address.filter(|ip| !ip.is_unspecified());
        found.address = cx.ok(
            word.span,
            address.ok_or_else(|| format!("`{}` is not the IP address of a machine", word.text)),
        );
    }
    fields.finish();
    Some(found)
}

/// `IP` or `IP:PORT`, `[v6]:PORT`.
fn recursor(raw: &str) -> Result<SocketAddr, String> {
    let bare = raw.parse::<IpAddr>().ok();
    let bare = bare.map(|ip| SocketAddr::new(ip, NAME_SERVER_PORT));
    let found = bare.or_else(|| raw.parse::<SocketAddr>().ok());
    let usable = found.filter(|at| at.port() != 0 && !at.ip().is_unspecified());
    usable.ok_or_else(|| {
        format!(
            "`{raw}` is not a name server; write IP or IP:PORT, such as `9.9.9.9` or `[::1]:53`"
        )
    })
}

/// A name that can stand before `.node`: labels of what host names are made of.
pub(crate) fn machine(raw: &str) -> Result<String, String> {
    let well_formed = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    match raw.len() <= NODE_BYTES_MAX && raw.split('.').all(well_formed) {
        true => Ok(raw.to_ascii_lowercase()),
        false => Err(format!(
            "`{raw}` is not a name for a machine: use letters, digits, `-` and `_` between dots"
        )),
    }
}
