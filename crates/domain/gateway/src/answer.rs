//! What the gateway answers by itself: who is to blame, what is wrong, what to do.
//!
//! RFC 9457 problem details for programs, a page for people, and `Proxy-Status`
//! (RFC 9209) for those who read headers. Nothing a client sent is repeated
//! without being escaped.

use std::fmt::Write;

use http::StatusCode;

use crate::h1::Refusal;
use crate::metrics::Rejection;
use crate::record::Blame;

/// Why the gateway answered by itself or cut a response off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request's head is not HTTP, or is ambiguous.
    MalformedRequest,
    /// The request's body is not framed as announced.
    MalformedBody,
    /// The head is larger than allowed.
    HeadTooLarge,
    /// The target is longer than allowed.
    TargetTooLong,
    /// The body is larger than the route allows.
    BodyTooLarge,
    /// CONNECT.
    ConnectMethod,
    /// An HTTP version that is not spoken.
    HttpVersion,
    /// The head took too long to arrive.
    HeadTimeout,
    /// The body stopped arriving.
    BodyTimeout,
    /// No route takes the request.
    NoRoute,
    /// The route does not take the method.
    MethodNotAllowed,
    /// The path could mean another one to the upstream.
    BadPath,
    /// No instance of the service takes requests.
    NoEndpoint,
    /// No connection to an instance could be opened.
    ConnectFailed,
    /// Opening a connection took too long.
    ConnectTimeout,
    /// The instance closed the connection without a whole response.
    UpstreamClosed,
    /// The instance's response is not HTTP, or is ambiguous.
    UpstreamMalformed,
    /// The instance took too long to answer, or stopped answering.
    UpstreamTimeout,
    /// The whole request took longer than the route allows.
    RequestTimeout,
    /// The client went away; nobody is answered.
    ClientGone,
}

impl Reason {
    /// Status, blame, the word for logs and metrics, and the title.
    fn facts(self) -> (u16, Blame, &'static str, &'static str) {
        use Blame::*;
        match self {
            Self::MalformedRequest => {
                (400, Client, "malformed_request", "The request is malformed")
            }
            Self::MalformedBody => (
                400,
                Client,
                "malformed_body",
                "The request body is malformed",
            ),
            Self::BadPath => (400, Client, "bad_path", "The path is ambiguous"),
            Self::NoRoute => (404, Client, "no_route", "No route takes this request"),
            Self::MethodNotAllowed => (
                405,
                Client,
                "method_not_allowed",
                "The route does not take this method",
            ),
            Self::HeadTimeout => (
                408,
                Client,
                "head_timeout",
                "The request took too long to arrive",
            ),
            Self::BodyTimeout => (
                408,
                Client,
                "body_timeout",
                "The request body stopped arriving",
            ),
            Self::BodyTooLarge => (
                413,
                Client,
                "body_too_large",
                "The request body is too large",
            ),
            Self::TargetTooLong => (414, Client, "target_too_long", "The URL is too long"),
            Self::HeadTooLarge => (
                431,
                Client,
                "head_too_large",
                "The request headers are too large",
            ),
            Self::ClientGone => (499, Client, "client_gone", "The client went away"),
            Self::ConnectMethod => (501, Client, "connect_method", "CONNECT is not supported"),
            Self::HttpVersion => (
                505,
                Client,
                "http_version",
                "This HTTP version is not spoken here",
            ),
            Self::ConnectFailed => (
                502,
                Upstream,
                "connect_failed",
                "The service could not be reached",
            ),
            Self::UpstreamClosed => (
                502,
                Upstream,
                "upstream_closed",
                "The service closed the connection without answering",
            ),
            Self::UpstreamMalformed => (
                502,
                Upstream,
                "upstream_malformed",
                "The service's answer is malformed",
            ),
            Self::NoEndpoint => (
                503,
                Upstream,
                "no_endpoint",
                "No instance of the service takes requests",
            ),
            Self::ConnectTimeout => (
                504,
                Upstream,
                "connect_timeout",
                "The service could not be reached in time",
            ),
            Self::UpstreamTimeout => (
                504,
                Upstream,
                "upstream_timeout",
                "The service did not answer in time",
            ),
            Self::RequestTimeout => (
                504,
                Upstream,
                "request_timeout",
                "The request took too long",
            ),
        }
    }

    /// Who must act.
    pub fn blame(self) -> Blame {
        self.facts().1
    }

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.facts().2
    }

    pub(crate) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.facts().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The counter of what is refused without asking an upstream.
    pub(crate) fn rejection(self) -> Option<Rejection> {
        match self {
            Self::MalformedRequest
            | Self::MalformedBody
            | Self::ConnectMethod
            | Self::HttpVersion => Some(Rejection::BadRequest),
            Self::BadPath => Some(Rejection::BadPath),
            Self::NoRoute => Some(Rejection::NoRoute),
            Self::MethodNotAllowed => Some(Rejection::MethodNotAllowed),
            Self::HeadTimeout => Some(Rejection::HeadTimeout),
            Self::BodyTimeout => Some(Rejection::BodyTimeout),
            Self::BodyTooLarge => Some(Rejection::BodyTooLarge),
            Self::HeadTooLarge | Self::TargetTooLong => Some(Rejection::HeadTooLarge),
            Self::NoEndpoint => Some(Rejection::NoEndpoint),
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamClosed
            | Self::UpstreamMalformed
            | Self::UpstreamTimeout
            | Self::RequestTimeout
            | Self::ClientGone => None,
        }
    }

    /// RFC 9209 §2.3's error type.
    fn proxy_status(self) -> &'static str {
        match self {
            Self::NoEndpoint => "destination_unavailable",
            Self::NoRoute => "destination_not_found",
            Self::ConnectFailed => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::UpstreamClosed => "connection_terminated",
            Self::UpstreamMalformed => "http_protocol_error",
            Self::UpstreamTimeout | Self::RequestTimeout => "http_response_timeout",
            Self::MethodNotAllowed => "http_request_denied",
            Self::MalformedRequest
            | Self::MalformedBody
            | Self::BadPath
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::TargetTooLong
            | Self::HeadTooLarge
            | Self::ClientGone
            | Self::ConnectMethod
            | Self::HttpVersion => "http_request_error",
        }
    }
}

/// Why a request failed, and whether it may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// For a person; may quote what the client sent.
    pub(crate) detail: String,
    pub(crate) retry: RetrySafety,
    /// For `Allow`.
    pub(crate) allow: Vec<http::Method>,
}

/// Whether sending the request again can do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetrySafety {
    /// Nobody can have acted on it.
    NeverSent,
    /// Somebody may have; no byte of a response came.
    IfIdempotent,
    /// Somebody has, and began a short response; none of it was passed on.
    IfSafe,
    /// It would be of no use, or a response had begun.
    Never,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            retry: RetrySafety::Never,
            allow: Vec::new(),
        }
    }

    pub(crate) fn retry(mut self, retry: RetrySafety) -> Self {
        self.retry = retry;
        self
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(what) => Self::new(Reason::MalformedRequest, what),
            Refusal::HeadTooLarge(what) => Self::new(Reason::HeadTooLarge, what),
            Refusal::TargetTooLong => Self::new(
                Reason::TargetTooLong,
                "the request target takes more than half of what a head may have",
            ),
            Refusal::Connect => Self::new(Reason::ConnectMethod, "this is a gateway, not a tunnel"),
            Refusal::Version => Self::new(
                Reason::HttpVersion,
                "use HTTP/1.0, HTTP/1.1, or HTTP/2 with prior knowledge",
            ),
        }
    }
}

/// A response made here.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The answer to a failed request for `instance` (its path).
    pub(crate) fn to(
        failure: &Failure,
        via: &str,
        instance: &str,
        request_id: &str,
        wants_html: bool,
    ) -> Self {
        let (status, blame, word, title) = failure.reason.facts();
        let mut fields = vec![(
            "proxy-status",
            format!(
                "{via}; error={}; details={}",
                failure.reason.proxy_status(),
                quoted(&failure.detail)
            ),
        )];
        if failure.reason == Reason::NoEndpoint {
            fields.push(("retry-after", "1".to_owned()));
        }
        if failure.reason == Reason::MethodNotAllowed {
            let allow: Vec<_> = failure.allow.iter().map(http::Method::as_str).collect();
            fields.push(("allow", allow.join(", ")));
        }
        let body = if wants_html {
            fields.push(("content-type", "text/html; charset=utf-8".to_owned()));
            page(status, title, &failure.detail, blame, word, request_id)
        } else {
            fields.push(("content-type", "application/problem+json".to_owned()));
            problem(
                status,
                title,
                &failure.detail,
                blame,
                word,
                request_id,
                instance,
            )
        };
        fields.push(("cache-control", "no-store".to_owned()));
        Self {
            status: failure.reason.status(),
            fields,
            body,
        }
    }

    /// `OPTIONS *`: what the gateway itself can do.
    pub(crate) fn options() -> Self {
        let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        Self {
            status: StatusCode::OK,
            fields: vec![("allow", methods.to_owned())],
            body: String::new(),
        }
    }
}

fn problem(
    status: u16,
    title: &str,
    detail: &str,
    blame: Blame,
    word: &str,
    request_id: &str,
    instance: &str,
) -> String {
    let mut out = String::with_capacity(300);
    out.push_str("{\"type\":\"urn:atoll:problem:");
    out.push_str(word);
    out.push('"');
    let members = [
        ("title", title),
        ("detail", detail),
        ("instance", instance),
        ("request_id", request_id),
        ("blame", blame.as_str()),
        ("reason", word),
    ];
    for (name, value) in members {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        push_json(&mut out, value);
        if name == "title" {
            out.push_str(",\"status\":");
            out.push_str(itoa::Buffer::new().format(status));
        }
    }
    out.push_str("}\n");
    out
}

/// `text` as a JSON string (RFC 8259 §7).
fn push_json(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // `<` cannot begin a tag where somebody shows JSON as HTML.
            '<' | '>' | '&' | '\u{7f}'.. => push_escape(out, character),
            control if control < ' ' => push_escape(out, control),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn push_escape(out: &mut String, character: char) {
    let mut units = [0; 2];
    for unit in character.encode_utf16(&mut units) {
        // Writing to a `String` cannot fail.
        write!(out, "\\u{unit:04x}").unwrap_or_default();
    }
}

fn page(
    status: u16,
    title: &str,
    detail: &str,
    blame: Blame,
    word: &str,
    request_id: &str,
) -> String {
    let who = match blame {
        Blame::Client => "The request has to change.",
        Blame::Upstream => "The service behind this gateway has to recover.",
        Blame::Gateway => "The gateway has to be mended.",
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}\
         code{{background:#8882;padding:.1em .3em}}</style></head>\n\
         <body><h1>{status} {title}</h1><p>{detail}</p><p>{who}</p>\n\
         <p>Reason <code>{word}</code>, request <code>{id}</code></p></body></html>\n",
        detail = escape_html(detail),
        id = escape_html(request_id),
    )
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A structured field's string (RFC 9651 §3.3.3): printable ASCII only.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars().take(200) {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// Whether a person with a browser asks: `text/html` before JSON or anything.
pub(crate) fn prefers_html(accept: Option<&[u8]>) -> bool {
    let Some(accept) = accept else { return false };
    let place = |kind: &[u8]| {
        crate::h1::field::list(accept).position(|member| {
            let kind_len = member
                .iter()
                .position(|byte| *byte == b';')
                .unwrap_or(member.len());
            member[..kind_len].trim_ascii().eq_ignore_ascii_case(kind)
        })
    };
    match (place(b"text/html"), place(b"application/json")) {
        (Some(html), Some(json)) => html < json,
        (html, _) => html.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sent_is_escaped_everywhere() {
        let failure = Failure::new(Reason::NoRoute, "no route for `\"<script>\u{1}é`");
        let json = Answer::to(&failure, "atoll", "/<b>\"", "id", false);
        assert!(
            json.body
                .contains(r#""detail":"no route for `\"\u003cscript\u003e\u0001\u00e9`""#)
        );
        assert!(json.body.contains(r#""instance":"/\u003cb\u003e\"""#));
        let html = Answer::to(&failure, "atoll", "/", "id", true);
        assert!(html.body.contains("&lt;script&gt;") && !html.body.contains("<script"));
        assert!(json.fields[0].1.is_ascii());
    }

    #[test]
    fn browsers_get_pages_and_programs_get_json() {
        assert!(prefers_html(Some(
            b"text/html,application/xhtml+xml,*/*;q=0.8"
        )));
        assert!(!prefers_html(Some(b"application/json, text/html")));
        assert!(!prefers_html(Some(b"*/*")));
        assert!(!prefers_html(None));
    }
}
