//! What a request head means: RFC 9112 §3, with every ambiguity refused.
//!
//! A [`RequestHead`] owns its bytes and points into them, so that the gateway can
//! pass fields on without making a map of them. An HTTP/2 request is written into
//! the same form (`h2.rs`), which is what the rest of the gateway reads.

use std::mem::MaybeUninit;

use http::Method;

use super::field::{ConnectionOptions, Field, Known, Span, classify, content_length};
use super::host::host_len;
use super::{Framing, HeadLimits, Refusal, Version};

/// Fields that are parsed without an allocation.
const FIELDS_INLINE: usize = 64;

/// A request's head, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestHead {
    /// The head as it came (HTTP/1), or as it was written (HTTP/2).
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Field>,
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Path and query, or `*`.
    pub(crate) target: Span,
    pub(crate) path: Span,
    pub(crate) query: Option<Span>,
    /// Host and port, from the absolute target or from `Host`; empty only in HTTP/1.0.
    pub(crate) authority: Span,
    pub(crate) host: Span,
    pub(crate) framing: Framing,
    pub(crate) options: ConnectionOptions,
    /// The client will not send the body before it is told to.
    pub(crate) expects_continue: bool,
    /// `TE` holds `trailers`.
    pub(crate) takes_trailers: bool,
}

impl RequestHead {
    pub(crate) fn clear(&mut self) {
        let (mut bytes, mut fields) = (
            std::mem::take(&mut self.bytes),
            std::mem::take(&mut self.fields),
        );
        bytes.clear();
        fields.clear();
        *self = Self {
            bytes,
            fields,
            ..Self::default()
        };
    }

    /// Reads a whole head, from the first byte of its request line to its empty
    /// line, as `Scan` found it.
    ///
    /// # Errors
    /// When the head is malformed or ambiguous. What is in `self` is then of no use.
    pub(crate) fn parse(&mut self, head: &[u8], limits: HeadLimits) -> Result<(), Refusal> {
        self.clear();
        self.bytes.extend_from_slice(head);
        let Self { bytes, fields, .. } = self;
        let mut inline = [const { MaybeUninit::uninit() }; FIELDS_INLINE];
        let mut spilled;
        let mut request = httparse::Request::new(&mut []);
        let mut parsed = request.parse_with_uninit_headers(bytes, &mut inline);
        if parsed == Err(httparse::Error::TooManyHeaders) && limits.fields_max > FIELDS_INLINE {
            spilled = vec![MaybeUninit::uninit(); limits.fields_max];
            request = httparse::Request::new(&mut []);
            parsed = request.parse_with_uninit_headers(bytes, &mut spilled);
        }
        match parsed {
            Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
            Ok(_) => return Err(Refusal::Malformed("the head ends where it should not")),
            Err(error) => return Err(refusal(error, bytes)),
        }
        if request.headers.len() > limits.fields_max {
            return Err(refusal(httparse::Error::TooManyHeaders, bytes));
        }
        self.version = match request.version {
            Some(1) => Version::Http11,
            _ => Version::Http10,
        };
        let method = request.method.unwrap_or_default().as_bytes();
        self.method = Method::from_bytes(method)
            .map_err(|_| Refusal::Malformed("the method is not a token"))?;
        let target = Span::within(bytes, request.path.unwrap_or_default().as_bytes());
        for header in &*request.headers {
            fields.push(Field {
                name: Span::within(bytes, header.name.as_bytes()),
                value: Span::within(bytes, header.value),
                kind: classify(header.name.as_bytes()),
            });
        }
        let absolute = self.read_target(target)?;
        self.read_fields(absolute)
    }

    pub(crate) fn path(&self) -> &str {
        self.path.text(&self.bytes)
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.map(|query| query.text(&self.bytes))
    }

    pub(crate) fn host(&self) -> &str {
        self.host.text(&self.bytes)
    }

    pub(crate) fn authority(&self) -> &str {
        self.authority.text(&self.bytes)
    }

    /// The first value of the field that is called `name`.
    pub(crate) fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|field| {
                field
                    .name
                    .of(&self.bytes)
                    .eq_ignore_ascii_case(name.as_bytes())
            })
            .map(|field| field.value.of(&self.bytes))
    }

    /// The values of all fields of `kind`, in order.
    pub(crate) fn values(&self, kind: Known) -> impl Iterator<Item = &[u8]> {
        self.fields
            .iter()
            .filter(move |field| field.kind == kind)
            .map(|field| field.value.of(&self.bytes))
    }

    /// Whether the connection may be used again after the response.
    pub(crate) fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http11 => !self.options.close,
            Version::Http10 => self.options.keep_alive && !self.options.close,
            Version::Http2 => true,
        }
    }

    /// Reads the four forms of RFC 9112 §3.2; true for the absolute one.
    fn read_target(&mut self, target: Span) -> Result<bool, Refusal> {
        let text = target.of(&self.bytes);
        if text.iter().any(|byte| !(0x21..=0x7e).contains(byte)) {
            return Err(Refusal::Malformed("the target holds a byte beyond ASCII"));
        }
        if text.contains(&b'#') {
            return Err(Refusal::Malformed("the target holds a fragment"));
        }
        if self.method == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        if text.first() == Some(&b'/') {
            self.set_path(target);
            return Ok(false);
        }
        if text == b"*" {
            if self.method != Method::OPTIONS {
                return Err(Refusal::Malformed("only OPTIONS may ask for `*`"));
            }
            self.set_path(target);
            return Ok(false);
        }
        let scheme_len = [&b"http://"[..], b"https://"]
            .iter()
            .find(|scheme| {
                text.get(..scheme.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            })
            .map(|scheme| scheme.len())
            .ok_or(Refusal::Malformed("the target is neither a path nor a URL"))?;
        let rest = &text[scheme_len..];
        let authority_len = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?'))
            .unwrap_or(rest.len());
        let authority_start = target.start() + scheme_len;
        let path_start = authority_start + authority_len;
        let authority = Span::new(authority_start, path_start);
        self.set_authority(authority)?;
        let path = Span::new(path_start, target.end());
        if self.bytes.get(path_start) == Some(&b'/') && path_start < target.end() {
            self.set_path(path);
        } else {
            // `http://host` and `http://host?q` ask for `/` and `/?q`, for which
            // the head has no bytes: append them.
            let start = self.bytes.len();
            self.bytes.push(b'/');
            self.bytes.extend_from_within(path_start..target.end());
            self.set_path(Span::new(start, self.bytes.len()));
        }
        Ok(true)
    }

    /// Points at path and query within `target`.
    pub(crate) fn set_path(&mut self, target: Span) {
        self.target = target;
        match memchr::memchr(b'?', target.of(&self.bytes)) {
            Some(mark) => {
                let mark = target.start() + mark;
                self.path = Span::new(target.start(), mark);
                self.query = Some(Span::new(mark + 1, target.end()));
            }
            None => {
                self.path = target;
                self.query = None;
            }
        }
    }

    /// Points at host and port, if they are well-formed.
    pub(crate) fn set_authority(&mut self, authority: Span) -> Result<(), Refusal> {
        let len = host_len(authority.of(&self.bytes))
            .ok_or(Refusal::Malformed("the host is not a host"))?;
        self.authority = authority;
        self.host = Span::new(authority.start(), authority.start() + len);
        Ok(())
    }

    fn read_fields(&mut self, absolute: bool) -> Result<(), Refusal> {
        let mut host = None;
        let mut length = None;
        let mut chunked = false;
        let http11 = self.version == Version::Http11;
        for field in &self.fields {
            let value = field.value.of(&self.bytes);
            match field.kind {
                Known::Host => {
                    if host.replace(field.value).is_some() {
                        return Err(Refusal::Malformed("there are two Host fields"));
                    }
                    if host_len(value).is_none() {
                        return Err(Refusal::Malformed("the host is not a host"));
                    }
                }
                Known::ContentLength => {
                    let bytes = content_length(value)
                        .ok_or(Refusal::Malformed("Content-Length is not one number"))?;
                    if length.replace(bytes).is_some() {
                        return Err(Refusal::Malformed("there are two Content-Length fields"));
                    }
                }
                Known::TransferEncoding => {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::Malformed("Transfer-Encoding is not just chunked"));
                    }
                    chunked = true;
                }
                Known::Connection => self.options.add(value),
                Known::Expect => {
                    self.expects_continue |= http11 && value.eq_ignore_ascii_case(b"100-continue");
                }
                Known::Te => {
                    self.takes_trailers |= super::field::list(value)
                        .any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
                }
                _ => {}
            }
        }
        match host {
            // RFC 9112 §3.2.2: the absolute target's authority replaces `Host`.
            _ if absolute && (host.is_some() || !http11) => {}
            Some(host) => self.set_authority(host)?,
            None if http11 => return Err(Refusal::Malformed("there is no Host field")),
            None => {}
        }
        self.framing = match (chunked, length) {
            (true, Some(_)) => {
                return Err(Refusal::Malformed(
                    "both Content-Length and Transfer-Encoding are given",
                ));
            }
            (true, None) if !http11 => {
                return Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"));
            }
            (true, None) => Framing::Chunked,
            (false, Some(0) | None) => Framing::None,
            (false, Some(length)) => Framing::Length(length),
        };
        Ok(())
    }
}

fn refusal(error: httparse::Error, head: &[u8]) -> Refusal {
    use httparse::Error;
    Refusal::Malformed(match error {
        Error::HeaderName => "a field name is not a token followed by a colon",
        Error::HeaderValue => "a field value holds a control character",
        Error::NewLine => "a line does not end in CR LF",
        Error::Token => "the request line holds a byte that it may not",
        Error::Version => "the request line has no HTTP version",
        Error::Status => "the status is not three digits",
        Error::TooManyHeaders => {
            let fields = memchr::memchr_iter(b'\n', head).count().saturating_sub(2);
            return Refusal::HeadTooLarge(format!(
                "{fields} fields; the largest is {}",
                super::scan::largest_field(head)
            ));
        }
    })
}
