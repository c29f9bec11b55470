//! What is asked and how it is answered: the head of a request, formats by `Accept`
//! and `Content-Type`, gzip both ways.

use std::io::{Read, Write};

use atoll_model::{Fault, FaultKind};
use atoll_net::body::{BodyError, read_or_refuse};
use atoll_registry::RegistryError;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use http_body::Body;
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::wire::{self, Format, Shape, Unreadable};

/// Largest body, before and after gzip. A registration has a kilobyte; a batch of a
/// peer has at most 250 of them.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Less is not worth compressing.
const GZIP_BYTES_MIN: usize = 512;

/// A request with its body.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// The parts of the path, decoded, without empty ones.
    pub(crate) path: Vec<String>,
    query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer before it is written.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A status and nothing else.
    Bare(StatusCode),
    /// A status and a text for a person.
    Said(StatusCode, String),
    /// A document with the name of its root.
    Document(StatusCode, &'static str, Value),
    /// JSON as it is, whatever was asked for.
    Json(Value),
    /// The same, written already.
    JsonText(Vec<u8>),
    /// All of it, written already.
    Written(Written),
}

/// An answer as it goes out. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) status: StatusCode,
    /// Its Content-Type; none without a body.
    kind: Option<&'static str>,
    zipped: bool,
    body: Bytes,
}

impl Ask {
    /// A request whose body is not read yet.
    pub(crate) fn new(head: http::request::Parts) -> Self {
        Self {
            method: head.method,
            path: parts(&head.uri),
            query: pairs(head.uri.query().unwrap_or_default()),
            headers: head.headers,
            body: Bytes::new(),
        }
    }

    /// Reads the body to its end, within the limits.
    pub(crate) async fn read<B>(&mut self, body: B) -> Result<(), Answer>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = read_or_refuse(body, BODY_BYTES_MAX).await;
        let body = body.map_err(|error| match error {
            BodyError::TooLarge { .. } => {
                Answer::Said(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            BodyError::Broken(_) => Answer::Said(StatusCode::BAD_REQUEST, error.to_string()),
        })?;
        self.body = if holds(&self.headers, CONTENT_ENCODING, "gzip") {
            unzipped(&body)?
        } else {
            body
        };
        Ok(())
    }

    /// The first value of a query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| &value[..])
    }

    /// All query parameters, in their order.
    pub(crate) fn queries(&self) -> &[(String, String)] {
        &self.query
    }

    /// The format and extent that the answer should have: JSON only where `Accept`
    /// names it (`ApplicationsResource`).
    pub(crate) fn shape(&self) -> Shape {
        let format = if holds(&self.headers, ACCEPT, "json") {
            Format::Json
        } else {
            Format::Xml
        };
        let accept = self.headers.get("x-eureka-accept");
        let compact = accept.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"compact"));
        Shape { format, compact }
    }

    /// The body's tree and its format.
    pub(crate) fn document(&self) -> Result<(Format, Value), Answer> {
        let format = if holds(&self.headers, CONTENT_TYPE, "json") {
            Format::Json
        } else if holds(&self.headers, CONTENT_TYPE, "xml") {
            Format::Xml
        } else {
            let said = "send application/json or application/xml".to_owned();
            return Err(Answer::Said(StatusCode::UNSUPPORTED_MEDIA_TYPE, said));
        };
        let document = wire::parse(format, &self.body)?;
        Ok((format, document))
    }

    /// Whether the answer may be zipped.
    pub(crate) fn takes_gzip(&self) -> bool {
        holds(&self.headers, ACCEPT_ENCODING, "gzip")
    }

    /// The answer in the format that was asked for.
    pub(crate) fn written(&self, answer: Answer) -> Written {
        let shape = self.shape();
        let (status, kind, body) = match answer {
            Answer::Written(written) => return written,
            Answer::Bare(status) => {
                return Written {
                    status,
                    kind: None,
                    zipped: false,
                    body: Bytes::new(),
                };
            }
            Answer::Said(status, said) => (status, "text/plain; charset=utf-8", said.into_bytes()),
            Answer::Document(status, root, value) => {
                let body = wire::write(shape.format, root, value);
                let kind = match shape.format {
                    Format::Json => "application/json",
                    Format::Xml => "application/xml",
                };
                (status, kind, body)
            }
            Answer::Json(value) => (StatusCode::OK, "application/json", value.to_string().into()),
            Answer::JsonText(body) => (StatusCode::OK, "application/json", body),
        };
        let zip = body.len() >= GZIP_BYTES_MIN && self.takes_gzip();
        let zipped = zip.then(|| zipped(&body)).flatten();
        Written {
            status,
            kind: Some(kind),
            zipped: zipped.is_some(),
            body: zipped.unwrap_or(body).into(),
        }
    }

    /// Writes the answer in the format that was asked for.
    pub(crate) fn respond(&self, answer: Answer) -> Response<Full<Bytes>> {
        let written = self.written(answer);
        let mut response = Response::new(Full::new(written.body));
        *response.status_mut() = written.status;
        let headers = response.headers_mut();
        if let Some(kind) = written.kind {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
        }
        if written.zipped {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl From<Unreadable> for Answer {
    fn from(unreadable: Unreadable) -> Self {
        Self::Said(StatusCode::BAD_REQUEST, unreadable.0)
    }
}

/// The table from fault to status (`SPEC.md`, Errors). 404 makes a client register
/// again, so nothing else may be one; what may pass makes it try the next server.
impl From<RegistryError> for Answer {
    fn from(error: RegistryError) -> Self {
        let fault = Fault::from(error);
        let status = match fault.kind {
            FaultKind::NotFound => return Self::Bare(StatusCode::NOT_FOUND),
            FaultKind::Invalid => StatusCode::BAD_REQUEST,
            FaultKind::Conflict => StatusCode::CONFLICT,
            FaultKind::Exhausted | FaultKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            FaultKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::Said(status, fault.message)
    }
}

/// Whether a header contains a word, which is all that Eureka looks for.
pub(crate) fn holds(headers: &HeaderMap, name: http::HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        value.contains(word)
    })
}

fn parts(uri: &Uri) -> Vec<String> {
    let parts = uri.path().split('/').filter(|part| !part.is_empty());
    parts.map(decoded).collect()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A form's `+` is a space (as Jersey reads it).
        (
            decoded(&key.replace('+', " ")),
            decoded(&value.replace('+', " ")),
        )
    });
    pairs.collect()
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}

fn unzipped(body: &[u8]) -> Result<Bytes, Answer> {
    let mut plain = Vec::new();
    let limit = BODY_BYTES_MAX as u64 + 1;
    let read = MultiGzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut plain);
    if read.is_err() {
        let said = "the body is not gzip as it says".to_owned();
        return Err(Answer::Said(StatusCode::BAD_REQUEST, said));
    }
    if plain.len() > BODY_BYTES_MAX {
        let said = format!("the body has more than {BODY_BYTES_MAX} bytes without gzip");
        return Err(Answer::Said(StatusCode::PAYLOAD_TOO_LARGE, said));
    }
    Ok(plain.into())
}

fn zipped(body: &[u8]) -> Option<Vec<u8>> {
    // Fast: it is done for each fetch, on a control thread.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}
