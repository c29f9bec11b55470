//! `gateway:` and `listen:`. `dns:` is in `dns.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use atoll_gateway::config::{AccessLog, Cidr, Limits, LogFormat};

use super::Listen;
use super::decode::{Context, Fields};
use super::keys;
use super::policy::Policies;
use super::source::Span;
use super::tree::{Node, Value};
use super::value;

const GATEWAY_PORT: u16 = 8080;
const CONSOLE_PORT: u16 = 7070;
const DNS_PORT: u16 = 8600;
/// Eureka's own.
const EUREKA_PORT: u16 = 8761;
const CONSUL_PORT: u16 = 8500;

/// A head must hold at least a browser's cookies' worth of names, and is kept in
/// memory whole.
const HEAD_BYTES: std::ops::RangeInclusive<u64> = 1024..=16 * 1024 * 1024;

/// `gateway:`, policies apart.
#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) trusted_proxies: Vec<Cidr>,
    pub(crate) access_log: AccessLog,
    pub(crate) limits: Limits,
    pub(crate) per_client_given: bool,
    pub(crate) drain: Option<Duration>,
    pub(crate) policies: Policies,
}

pub(crate) fn gateway(cx: &Context<'_>, node: &Node) -> Option<Gateway> {
    let fields = Fields::of(cx, node, &keys::GATEWAY)?;
    let mut found = Gateway {
        drain: fields.get("drain").and_then(|node| cx.duration(node)),
        policies: Policies::decode(cx, &fields),
        ..Gateway::default()
    };
    if let Some(node) = fields.get("trusted_proxies") {
        let words = cx.texts(node).into_iter();
        let blocks = words.filter_map(|word| cx.ok(word.span, value::cidr(&word.text)));
        found.trusted_proxies = blocks.collect();
    }
    if let Some(node) = fields.get("access_log") {
        found.access_log = access_log(cx, node).unwrap_or_default();
    }
    if let Some(limits) = fields
        .get("limits")
        .and_then(|node| Fields::of(cx, node, &keys::LIMITS))
    {
        found.per_client_given = limits.get("connections_per_client").is_some();
        found.limits = self::limits(cx, &limits);
        limits.finish();
    }
    fields.finish();
    Some(found)
}

fn access_log(cx: &Context<'_>, node: &Node) -> Option<AccessLog> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(AccessLog {
            format: log_format(cx, node)?,
            path: None,
        });
    }
    let fields = Fields::of(cx, node, &keys::ACCESS_LOG)?;
    let format = fields.get("format").map(|node| log_format(cx, node));
    let path = fields.get("path").map(|node| cx.words(node));
    fields.finish();
    Some(AccessLog {
        format: format.unwrap_or(Some(LogFormat::Text))?,
        path: match path {
            Some(word) => Some(cx.path(&word?.text)),
            None => None,
        },
    })
}

fn log_format(cx: &Context<'_>, node: &Node) -> Option<LogFormat> {
    Some(match cx.choice(node, &["off", "text", "json"])? {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        _ => LogFormat::Off,
    })
}

fn limits(cx: &Context<'_>, fields: &Fields<'_>) -> Limits {
    let usual = Limits::default();
    let pause = |name, usual| {
        let found = fields.get(name).and_then(|node| cx.pause(node));
        found.unwrap_or(usual)
    };
    let head = fields.get("head_size").and_then(|node| {
        let bytes = cx.size(node)?;
        if !HEAD_BYTES.contains(&bytes) {
            cx.error(node.span, "a head may have from 1KiB to 16MiB");
        }
        usize::try_from(bytes).ok()
    });
    Limits {
        head_bytes_max: head.unwrap_or(usual.head_bytes_max),
        header_count_max: fields
            .count(cx, "header_count")
            .unwrap_or(usual.header_count_max),
        connections_max: fields
            .count(cx, "connections")
            .unwrap_or(usual.connections_max),
        connections_per_client_max: fields
            .count(cx, "connections_per_client")
            .unwrap_or(usual.connections_per_client_max),
        head_timeout: pause("head_timeout", usual.head_timeout),
        idle_timeout: pause("idle_timeout", usual.idle_timeout),
        body_progress_timeout: pause("body_progress_timeout", usual.body_progress_timeout),
        h2_streams_max: fields
            .count(cx, "h2_streams")
            .unwrap_or(usual.h2_streams_max),
    }
}

/// Where to listen, and the places of the addresses that leave loopback.
pub(crate) fn listen(cx: &Context<'_>, node: Option<&Node>) -> (Listen, Vec<Span>) {
    let mut listen = Listen {
        gateway: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, GATEWAY_PORT))),
        console: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, CONSOLE_PORT))),
        dns: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))),
        eureka: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, EUREKA_PORT))),
        consul: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, CONSUL_PORT))),
    };
    let mut open = Vec::new();
    let Some(fields) = node.and_then(|node| Fields::of(cx, node, &keys::LISTEN)) else {
        return (listen, open);
    };
    for (name, place) in [
        ("gateway", &mut listen.gateway),
        ("console", &mut listen.console),
        ("dns", &mut listen.dns),
        ("eureka", &mut listen.eureka),
        ("consul", &mut listen.consul),
    ] {
        let Some(word) = fields.get(name).and_then(|node| cx.words(node)) else {
            continue;
        };
        if matches!(&word.text[..], "off" | "false") {
            *place = None;
            continue;
        }
        if let Some(address) = cx.ok(word.span, value::listener(&word.text)) {
            *place = Some(address);
            // Names change nothing, and resolvers have no token to show.
            if !address.ip().is_loopback() && name != "dns" {
                open.push(word.span);
            }
        }
    }
    let all = listen.by_key();
    for (at, (later, address)) in all.iter().enumerate() {
        let clash = all[..at]
            .iter()
            .find(|(_, other)| share_a_port(*other, *address));
        let Some((earlier, _)) = clash else { continue };
        let place = fields.entry(later).or_else(|| fields.entry(earlier));
        if let (Some(entry), Some(address)) = (place, address) {
            let port = address.port();
            let message = format!("`{earlier}` and `{later}` cannot both have port {port}");
            cx.error(entry.node.span, message);
        }
    }
    fields.finish();
    (listen, open)
}

/// Whether two listeners could not both be opened.
fn share_a_port(one: Option<SocketAddr>, other: Option<SocketAddr>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}
