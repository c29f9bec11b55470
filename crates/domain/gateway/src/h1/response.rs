//! What a response head means: RFC 9112 §4 and §6.3. Read as strictly as a
//! request: an upstream that frames ambiguously poisons its connection.

use std::mem::MaybeUninit;

use http::{Method, StatusCode};

use super::field::{ConnectionOptions, Field, Known, Span, classify, content_length};
use super::{Framing, Refusal, Version};

/// Most fields of a response; generous, since upstreams are ours.
const FIELDS_MAX: usize = 256;
/// Fields that are parsed without a larger array.
const FIELDS_INLINE: usize = 64;

/// A response's head, pointing into the bytes that it was read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseHead {
    pub(crate) fields: Vec<Field>,
    pub(crate) status: StatusCode,
    pub(crate) framing: Framing,
    /// As given, also where there is no body (HEAD, 304).
    pub(crate) length: Option<u64>,
    pub(crate) options: ConnectionOptions,
    /// The connection may carry another request.
    pub(crate) keeps_alive: bool,
}

impl ResponseHead {
    /// Reads a whole head as `Scan` found it; `method` is that of the request.
    ///
    /// # Errors
    /// When the head is malformed or its framing ambiguous.
    pub(crate) fn parse(&mut self, head: &[u8], method: &Method) -> Result<(), Refusal> {
        self.fields.clear();
        let mut inline = [const { MaybeUninit::uninit() }; FIELDS_INLINE];
        let mut spilled;
        let config = httparse::ParserConfig::default();
        let mut response = httparse::Response::new(&mut []);
        let mut parsed =
            config.parse_response_with_uninit_headers(&mut response, head, &mut inline);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            spilled = vec![MaybeUninit::uninit(); FIELDS_MAX];
            response = httparse::Response::new(&mut []);
            parsed = config.parse_response_with_uninit_headers(&mut response, head, &mut spilled);
        }
        match parsed {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Ok(_) => return Err(Refusal::Malformed("the head ends where it should not")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::HeadTooLarge("too many fields".to_owned()));
            }
            Err(_) => return Err(Refusal::Malformed("the head is not HTTP/1")),
        }
        self.status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| status.as_u16() < 600)
            .ok_or(Refusal::Malformed("the status is not one of HTTP's"))?;
        let version = match response.version {
            Some(1) => Version::Http11,
            _ => Version::Http10,
        };
        self.options = ConnectionOptions::default();
        self.length = None;
        let mut chunked = false;
        for header in &*response.headers {
            let kind = classify(header.name.as_bytes());
            match kind {
                Known::ContentLength => {
                    let bytes = content_length(header.value)
                        .ok_or(Refusal::Malformed("Content-Length is not one number"))?;
                    if self.length.replace(bytes).is_some() {
                        return Err(Refusal::Malformed("there are two Content-Length fields"));
                    }
                }
                Known::TransferEncoding => {
                    if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::Malformed("Transfer-Encoding is not just chunked"));
                    }
                    chunked = true;
                }
                Known::Connection => self.options.add(header.value),
                _ => {}
            }
            self.fields.push(Field {
                name: Span::within(head, header.name.as_bytes()),
                value: Span::within(head, header.value),
                kind,
            });
        }
        self.frame(version, chunked, method)
    }

    fn frame(&mut self, version: Version, chunked: bool, method: &Method) -> Result<(), Refusal> {
        if chunked && (self.length.is_some() || version == Version::Http10) {
            return Err(Refusal::Malformed("the framing is ambiguous"));
        }
        let status = self.status.as_u16();
        let bodiless = status < 200 || status == 204 || status == 304 || method == Method::HEAD;
        self.framing = match (bodiless, chunked, self.length) {
            (true, ..) | (false, false, Some(0)) => Framing::None,
            (false, true, _) => Framing::Chunked,
            (false, false, Some(length)) => Framing::Length(length),
            (false, false, None) => Framing::Close,
        };
        self.keeps_alive = self.framing != Framing::Close
            && !self.options.close
            && (version == Version::Http11 || self.options.keep_alive);
        Ok(())
    }
}
