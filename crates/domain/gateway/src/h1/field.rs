//! Field lines as ranges into the bytes of their head, and the names that the
//! gateway treats in some special way.

/// A range of a head's bytes. Heads are far below 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && u32::try_from(end).is_ok());
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub(crate) fn within(whole: &[u8], part: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        if part.is_empty() || start > whole.len() {
            return Self::default();
        }
        Self::new(start, start + part.len())
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    pub(crate) fn text(self, bytes: &[u8]) -> &str {
        // Only ever made over bytes that were checked to be ASCII.
        std::str::from_utf8(self.of(bytes)).unwrap_or_default()
    }

    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    pub(crate) fn end(self) -> usize {
        self.end as usize
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) name: Span,
    pub(crate) value: Span,
    pub(crate) kind: Known,
}

/// Names with a meaning to the gateway; `Other` is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Upgrade,
    Expect,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`,
    /// `Proxy-Authorization`, `HTTP2-Settings`: for one hop only.
    Hop,
    Forwarded,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    ForwardedPort,
    RequestId,
    TraceParent,
    TraceState,
    MaxForwards,
    /// Fields that `Connection` may not nominate away: an upstream that misses
    /// them would answer as if somebody else had asked.
    Protected,
}

/// What the name means, without regard to case.
pub(crate) fn classify(name: &[u8]) -> Known {
    use Known::*;
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 if is("te") => Te,
        3 if is("via") => Protected,
        4 if is("host") => Host,
        4 if is("date") => Protected,
        6 if is("expect") => Expect,
        6 if is("cookie") || is("accept") || is("origin") => Protected,
        7 if is("upgrade") => Upgrade,
        9 if is("forwarded") => Forwarded,
        10 if is("connection") => Connection,
        10 if is("keep-alive") => Hop,
        10 if is("tracestate") => TraceState,
        10 if is("set-cookie") => Protected,
        11 if is("traceparent") => TraceParent,
        12 if is("max-forwards") => MaxForwards,
        12 if is("x-request-id") => RequestId,
        12 if is("content-type") => Protected,
        13 if is("authorization") || is("cache-control") => Protected,
        14 if is("content-length") => ContentLength,
        14 if is("http2-settings") => Hop,
        15 if is("x-forwarded-for") => ForwardedFor,
        16 if is("x-forwarded-host") => ForwardedHost,
        16 if is("x-forwarded-port") => ForwardedPort,
        16 if is("proxy-connection") => Hop,
        16 if is("content-encoding") => Protected,
        17 if is("x-forwarded-proto") => ForwardedProto,
        17 if is("transfer-encoding") => TransferEncoding,
        18 if is("proxy-authenticate") => Hop,
        19 if is("proxy-authorization") => Hop,
        _ => Other,
    }
}

/// The members of a comma-separated list, without the space around them and
/// without empty ones (RFC 9110 §5.6.1.2).
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// What the `Connection` fields of a head say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    /// Other names are nominated and must be taken away.
    pub(crate) nominates: bool,
}

impl ConnectionOptions {
    pub(crate) fn add(&mut self, value: &[u8]) {
        for option in list(value) {
            let is = |known: &str| option.eq_ignore_ascii_case(known.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.keep_alive = true;
            } else if is("upgrade") {
                self.upgrade = true;
            } else if !is("te") {
                self.nominates = true;
            }
        }
    }
}

/// Whether a `Connection` field among `fields` nominates `name`.
pub(crate) fn nominated(bytes: &[u8], fields: &[Field], name: &[u8]) -> bool {
    fields
        .iter()
        .filter(|field| field.kind == Known::Connection)
        .flat_map(|field| list(field.value.of(bytes)))
        .any(|option| option.eq_ignore_ascii_case(name))
}

/// A `Content-Length` as RFC 9110 §8.6 has it: digits only, and not more than a
/// `u64` holds.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, byte| match byte {
        b'0'..=b'9' => Some(sum * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `value` may be a field value: no control but tab.
pub(crate) fn is_field_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
}
