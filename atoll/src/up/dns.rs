//! What the file leaves to the machine: its name and its address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use atoll_dns::Settings;
use atoll_store::{Op, OpReply, Store, StoreError, Test, Txn};

use crate::config::{Dns, machine};

/// The key of [`node_of_all`].
const NODE: &str = "atoll/node";

/// The settings of DNS that listens on `listener`.
pub(crate) fn settings(dns: &Dns, listener: IpAddr) -> Settings {
    let usual = Settings::default();
    let meta = ("atoll-version", env!("CARGO_PKG_VERSION"));
    let meta = [meta].map(|(key, value)| (key.to_owned(), value.to_owned()));
    Settings {
        domains: dns.domains.clone(),
        node: dns.node.clone().or_else(host_name).unwrap_or(usual.node),
        node_address: dns.address.unwrap_or_else(|| address(listener)),
        node_meta: meta.into(),
        ttl: dns.ttl,
        only_passing: dns.only_passing,
        recursors: dns.recursors.clone(),
        datacenter: usual.datacenter,
    }
}

/// The name of the node that all who share `store` are: that of the first of them, so
/// that what is registered with one is on the same node for whoever asks another.
///
/// # Errors
/// The store's.
pub(crate) async fn node_of_all(store: &Store) -> Result<String, StoreError> {
    let own = host_name().unwrap_or(Settings::default().node);
    let first = Txn::of([Op::put(NODE, &own[..])])
        .when(NODE, Test::Missing)
        .or_else([Op::Get(NODE.into())]);
    let kept = match store.commit(first).await?.replies.pop() {
        Some(OpReply::Got(mut items)) => items.pop(),
        _ => None,
    };
    Ok(kept.map_or(own, |kept| {
        String::from_utf8_lossy(kept.value.as_bytes()).into_owned()
    }))
}

/// This machine's name, when names can have it in them.
fn host_name() -> Option<String> {
    let system = rustix::system::uname();
    machine(system.nodename().to_str().ok()?).ok()
}

/// Where this machine is reached by those who reach `listener`.
fn address(listener: IpAddr) -> IpAddr {
    if !listener.is_unspecified() {
        return listener;
    }
    by_default_route(listener).unwrap_or(match listener {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    })
}

/// The address that the system would send from; nothing is sent. The other side is one
/// that stands in documents only (RFC 5737, RFC 3849).
fn by_default_route(listener: IpAddr) -> Option<IpAddr> {
    let nobody: IpAddr = match listener {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((listener, 0)).ok()?;
    socket.connect((nobody, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
