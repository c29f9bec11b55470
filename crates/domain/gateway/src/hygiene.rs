//! What of a message may cross the gateway: hop-by-hop fields stay behind (RFC 9110
//! §7.6.1), `Via` and the forwarding fields are added, framing is ours.
//!
//! Heads are written straight from the received bytes; no map is made of them.
//! Nothing here does I/O.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::HeaderName;

use crate::config::{Cidr, HeaderEdit};
use crate::h1::field::{Field, Known, list, nominated};
use crate::h1::request::RequestHead;
use crate::h1::response::ResponseHead;
use crate::h1::{Framing, Version};
use crate::trace::Identity;

/// The other end of a client connection, with the texts that each request needs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// For `X-Forwarded-For`.
    ip_text: Box<str>,
    /// For `Forwarded` (RFC 7239 §6: IPv6 is quoted and bracketed).
    node_text: Box<str>,
    /// The port that the client came to.
    pub(crate) port: u16,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, port: u16) -> Self {
        // Clients of a dual-stack listener show as `::ffff:10.0.0.1`.
        let ip = address.ip().to_canonical();
        let ip_text = ip.to_string();
        let node_text = match ip {
            IpAddr::V4(_) => ip_text.clone(),
            IpAddr::V6(_) => format!("\"[{ip_text}]\""),
        };
        Self {
            ip,
            ip_text: ip_text.into(),
            node_text: node_text.into(),
            port,
        }
    }
}

/// Whether `ip` lies in one of `blocks`.
pub(crate) fn is_trusted(blocks: &[Cidr], ip: IpAddr) -> bool {
    blocks.iter().any(|block| contains(*block, ip))
}

fn contains(block: Cidr, ip: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let ignored = width.saturating_sub(u32::from(block.prefix));
        ignored >= 128 || (a ^ b) >> ignored == 0
    };
    match (block.address, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// The client that trusted proxies report: of `X-Forwarded-For`, or else of
/// `Forwarded`, the last address that is not itself a trusted proxy.
pub(crate) fn client_ip(head: &RequestHead, peer: IpAddr, trusted: &[Cidr]) -> IpAddr {
    if trusted.is_empty() || !is_trusted(trusted, peer) {
        return peer;
    }
    let hops: Vec<Option<IpAddr>> = if head.values(Known::ForwardedFor).next().is_some() {
        head.values(Known::ForwardedFor)
            .flat_map(list)
            .map(parse_node)
            .collect()
    } else {
        head.values(Known::Forwarded)
            .flat_map(list)
            .map(forwarded_for)
            .collect()
    };
    let mut client = peer;
    for hop in hops.into_iter().rev() {
        // What cannot be read ends what can be believed.
        let Some(ip) = hop else { break };
        client = ip;
        if !is_trusted(trusted, ip) {
            break;
        }
    }
    client
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    element
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .find(|pair| {
            pair.get(..4)
                .is_some_and(|name| name.eq_ignore_ascii_case(b"for="))
        })
        .and_then(|pair| parse_node(&pair[4..]))
}

/// An address, perhaps quoted, bracketed or with a port.
fn parse_node(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?.trim_matches('"');
    let ip = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?.parse().ok()?,
        None => text
            .parse()
            .ok()
            .or_else(|| text.rsplit_once(':')?.0.parse().ok())?,
    };
    Some(IpAddr::to_canonical(&ip))
}

/// What is needed to write a request for an upstream.
pub(crate) struct Outgoing<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) peer: &'a Peer,
    /// The peer's forwarding fields are believed.
    pub(crate) trusted: bool,
    pub(crate) target: Cow<'a, str>,
    pub(crate) identity: &'a Identity,
    pub(crate) via: &'a str,
    pub(crate) edit: &'a HeaderEdit,
    pub(crate) framing: Framing,
    /// The client asks for another protocol, and may get it.
    pub(crate) upgrade: bool,
}

impl Outgoing<'_> {
    /// Writes the head for an HTTP/1.1 upstream.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let head = self.head;
        out.extend_from_slice(head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        // A request without Host is no HTTP/1.1: only replaced, never removed.
        if !self
            .edit
            .set
            .iter()
            .any(|(name, _)| name == http::header::HOST)
        {
            push(out, b"host", head.authority().as_bytes());
        }
        for field in &head.fields {
            if self.passes(field) {
                push_field(out, &head.bytes, field);
            }
        }
        self.write_hop_fields(out);
        self.write_forwarding(out);
        self.write_identity(out);
        self.own(out, "via", |out| {
            out.extend_from_slice(match head.version {
                Version::Http10 => b"1.0 ",
                Version::Http11 => b"1.1 ",
                Version::Http2 => b"2.0 ",
            });
            out.extend_from_slice(self.via.as_bytes());
        });
        write_edit(self.edit, |name, value| {
            push(out, name.as_str().as_bytes(), value)
        });
        out.extend_from_slice(b"\r\n");
    }

    fn passes(&self, field: &Field) -> bool {
        let bytes = &self.head.bytes;
        let passes = match field.kind {
            Known::Host
            | Known::Connection
            | Known::TransferEncoding
            | Known::ContentLength
            | Known::Te
            | Known::Upgrade
            | Known::Hop
            | Known::Forwarded
            | Known::ForwardedFor
            | Known::RequestId
            | Known::TraceParent
            | Known::MaxForwards => false,
            Known::ForwardedProto | Known::ForwardedHost | Known::ForwardedPort => self.trusted,
            Known::TraceState => self.identity.parent_id.is_some(),
            Known::Expect => self.head.expects_continue,
            Known::Protected => true,
            Known::Other => {
                !self.head.options.nominates
                    || !nominated(bytes, &self.head.fields, field.name.of(bytes))
            }
        };
        passes && !edits_bytes(self.edit, field.name.of(bytes))
    }

    fn write_hop_fields(&self, out: &mut Vec<u8>) {
        match self.framing {
            Framing::Length(length) => {
                push(
                    out,
                    b"content-length",
                    itoa::Buffer::new().format(length).as_bytes(),
                );
            }
            Framing::Chunked => push(out, b"transfer-encoding", b"chunked"),
            // An empty body is announced where one is usual (RFC 9110 §8.6).
            Framing::None if self.announces_empty_body() => push(out, b"content-length", b"0"),
            Framing::None | Framing::Close => {}
        }
        match (self.upgrade, self.head.takes_trailers) {
            (true, _) => {
                out.extend_from_slice(b"connection: upgrade\r\n");
                for value in self.head.values(Known::Upgrade) {
                    push(out, b"upgrade", value);
                }
            }
            (false, true) => out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n"),
            (false, false) => {}
        }
        if let Some(hops) = max_forwards(self.head) {
            push(
                out,
                b"max-forwards",
                itoa::Buffer::new()
                    .format(hops.saturating_sub(1))
                    .as_bytes(),
            );
        }
    }

    fn announces_empty_body(&self) -> bool {
        use http::Method;
        matches!(self.head.method, Method::POST | Method::PUT | Method::PATCH)
            || self.head.values(Known::ContentLength).next().is_some()
    }

    fn write_forwarding(&self, out: &mut Vec<u8>) {
        let (head, peer) = (self.head, self.peer);
        let host = head.authority();
        self.own(out, "x-forwarded-for", |out| {
            self.extend(out, Known::ForwardedFor);
            out.extend_from_slice(peer.ip_text.as_bytes());
        });
        let given = |kind| self.trusted && head.values(kind).next().is_some();
        if !given(Known::ForwardedProto) {
            self.own(out, "x-forwarded-proto", |out| {
                out.extend_from_slice(b"http")
            });
        }
        if !given(Known::ForwardedHost) {
            self.own(out, "x-forwarded-host", |out| {
                out.extend_from_slice(host.as_bytes());
            });
        }
        if !given(Known::ForwardedPort) {
            self.own(out, "x-forwarded-port", |out| {
                out.extend_from_slice(itoa::Buffer::new().format(peer.port).as_bytes());
            });
        }
        self.own(out, "forwarded", |out| {
            self.extend(out, Known::Forwarded);
            out.extend_from_slice(b"for=");
            out.extend_from_slice(peer.node_text.as_bytes());
            if !host.is_empty() {
                // A checked authority holds neither quote nor backslash.
                out.extend_from_slice(b";host=\"");
                out.extend_from_slice(host.as_bytes());
                out.push(b'"');
            }
            out.extend_from_slice(b";proto=http");
        });
    }

    /// What a trusted proxy sent comes first.
    fn extend(&self, out: &mut Vec<u8>, kind: Known) {
        if self.trusted {
            for value in self.head.values(kind).filter(|value| !value.is_empty()) {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
        }
    }

    fn write_identity(&self, out: &mut Vec<u8>) {
        self.own(out, "x-request-id", |out| {
            out.extend_from_slice(self.identity.request_id().as_bytes());
        });
        self.own(out, "traceparent", |out| self.identity.write_parent(out));
    }

    /// A field of the gateway's own, unless the route has one or takes it away.
    fn own(&self, out: &mut Vec<u8>, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        if edits(self.edit, name) {
            return;
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        value(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// `Max-Forwards` where it has a meaning (RFC 9110 §7.6.2).
pub(crate) fn max_forwards(head: &RequestHead) -> Option<u64> {
    if !matches!(head.method, http::Method::OPTIONS | http::Method::TRACE) {
        return None;
    }
    crate::h1::field::content_length(head.values(Known::MaxForwards).next()?)
}

/// Hands every field of a response that may cross to `put`, and the gateway's own.
/// Framing and `Connection` are the codec's business.
pub(crate) fn response_fields<'a>(
    head: &'a ResponseHead,
    bytes: &'a [u8],
    edit: &'a HeaderEdit,
    via: &'a str,
    request_id: &'a str,
    mut put: impl FnMut(&'a [u8], &'a [u8]),
) {
    for field in &head.fields {
        let name = field.name.of(bytes);
        let passes = match field.kind {
            Known::Connection
            | Known::TransferEncoding
            | Known::ContentLength
            | Known::Upgrade
            | Known::Hop
            | Known::Te
            | Known::RequestId => false,
            Known::Other => !head.options.nominates || !nominated(bytes, &head.fields, name),
            Known::Host
            | Known::Expect
            | Known::Forwarded
            | Known::ForwardedFor
            | Known::ForwardedProto
            | Known::ForwardedHost
            | Known::ForwardedPort
            | Known::TraceParent
            | Known::TraceState
            | Known::MaxForwards
            | Known::Protected => true,
        };
        if passes && !edits_bytes(edit, name) {
            put(name, field.value.of(bytes));
        }
    }
    if !edits(edit, "via") {
        put(b"via", via.as_bytes());
    }
    if !edits(edit, "x-request-id") {
        put(b"x-request-id", request_id.as_bytes());
    }
    write_edit(edit, |name, value| put(name.as_str().as_bytes(), value));
}

/// Writes the fields of an interim response that may cross.
pub(crate) fn interim_fields<'a>(
    head: &'a ResponseHead,
    bytes: &'a [u8],
    mut put: impl FnMut(&'a [u8], &'a [u8]),
) {
    for field in &head.fields {
        if matches!(field.kind, Known::Other | Known::Protected) {
            put(field.name.of(bytes), field.value.of(bytes));
        }
    }
}

pub(crate) fn push(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Name and value as they came, in one copy: they lie beside each other.
fn push_field(out: &mut Vec<u8>, bytes: &[u8], field: &Field) {
    push(out, field.name.of(bytes), field.value.of(bytes));
}

/// The route replaces or removes the field.
fn edits(edit: &HeaderEdit, name: &str) -> bool {
    edits_bytes(edit, name.as_bytes())
}

fn edits_bytes(edit: &HeaderEdit, name: &[u8]) -> bool {
    if edit.set.is_empty() && edit.remove.is_empty() {
        return false;
    }
    let is = |other: &HeaderName| other.as_str().as_bytes().eq_ignore_ascii_case(name);
    edit.remove.iter().any(is) || edit.set.iter().any(|(other, _)| is(other))
}

/// What the route sets and adds, except what frames the message.
fn write_edit<'a>(edit: &'a HeaderEdit, mut put: impl FnMut(&'a HeaderName, &'a [u8])) {
    use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
    for (name, value) in edit.set.iter().chain(&edit.add) {
        if ![CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE].contains(name) {
            put(name, value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        let (address, prefix) = text.split_once('/').unwrap();
        Cidr {
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
        }
    }

    fn client(trusted: &[&str], fields: &str) -> String {
        let trusted: Vec<_> = trusted.iter().map(|text| cidr(text)).collect();
        let raw = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let limits = crate::h1::HeadLimits {
            bytes_max: 4096,
            fields_max: 50,
        };
        head.parse(raw.as_bytes(), limits).unwrap();
        client_ip(&head, "10.0.0.9".parse().unwrap(), &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let fields = "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.2\r\n";
        assert_eq!(client(&[], fields), "10.0.0.9");
        assert_eq!(client(&["192.168.0.0/16"], fields), "10.0.0.9");
        assert_eq!(client(&["10.0.0.0/8"], fields), "1.2.3.4");
        assert_eq!(client(&["0.0.0.0/0"], fields), "6.6.6.6");
        let unreadable = "X-Forwarded-For: 1.2.3.4, unknown, 10.0.0.2\r\n";
        assert_eq!(client(&["10.0.0.0/8"], unreadable), "10.0.0.2");
    }

    #[test]
    fn forwarded_is_read_where_the_older_field_is_missing() {
        let fields = "Forwarded: for=\"[2001:db8::1]:47\";proto=https, for=10.0.0.2\r\n";
        assert_eq!(client(&["10.0.0.0/8"], fields), "2001:db8::1");
        assert_eq!(
            client(&["10.0.0.0/8"], "Forwarded: For=1.2.3.4:99\r\n"),
            "1.2.3.4"
        );
    }
}
