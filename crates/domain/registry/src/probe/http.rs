//! HTTP checks: a plain `GET`, or any request, over TLS if need be, along redirects.

use std::fmt::Write as _;
use std::time::Duration;

use atoll_model::{Address, HttpRequest, Tls};
use atoll_net::client::{Request, Response};
use atoll_net::url::Url;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, COOKIE, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{Asker, in_words, late};
use crate::Outcome;
use crate::record::OUTPUT_BYTES_MAX;

const AGENT: HeaderValue = HeaderValue::from_static("Atoll-Health/0.1");

/// Redirects that are followed, as Go's client and so Consul follows them.
const REDIRECTS_MAX: usize = 10;

/// For a request whose time is limited by whoever sends it.
const TIMEOUT_OUTSIDE: Duration = Duration::from_secs(366 * 24 * 3600);

/// `GET path`, and nothing more.
pub(super) async fn get(address: &Address, path: &str, timeout: Duration) -> (Outcome, String) {
    let mut request = Request::new(Method::GET, address, path);
    request.headers = usual_headers();
    request.timeout = timeout;
    request.body_bytes_max = OUTPUT_BYTES_MAX;
    request.cut = true;
    match request.send().await {
        Ok(response) => judge(&response, &Method::GET, path),
        Err(error) => (Outcome::Fail, format!("GET {path}: {error}")),
    }
}

/// Any request; the time limit covers all redirects.
pub(super) async fn request(
    asker: &Asker,
    address: &Address,
    request: &HttpRequest,
    timeout: Duration,
) -> (Outcome, String) {
    let HttpRequest { method, path, .. } = request;
    match tokio::time::timeout(timeout, follow(asker, address, request)).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(reason)) => (Outcome::Fail, format!("{method} {path}: {reason}")),
        Err(_) => {
            let late = late(address, timeout);
            (Outcome::Fail, format!("{method} {path}: {late}"))
        }
    }
}

/// The request that is to be sent next.
struct Step {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    tls: Option<Tls>,
}

async fn follow(
    asker: &Asker,
    address: &Address,
    asked: &HttpRequest,
) -> Result<(Outcome, String), String> {
    let mut step = Step {
        method: Method::from_bytes(asked.method.as_bytes()).map_err(in_words)?,
        url: Url {
            secure: asked.tls.is_some(),
            address: address.clone(),
            path: asked.path.clone(),
        },
        headers: headers_of(asked)?,
        body: Bytes::from(asked.body.clone()),
        tls: asked.tls.clone(),
    };
    for followed in 0..=REDIRECTS_MAX {
        let response = step.send(asker).await?;
        let location = response.headers.get(LOCATION);
        let location = location.filter(|_| asked.redirects && is_redirect(response.status));
        let Some(location) = location else {
            let path = match followed {
                0 => step.url.path,
                _ => step.url.to_string(),
            };
            return Ok(judge(&response, &step.method, &path));
        };
        let location = location.to_str().map_err(in_words)?;
        let next = step.url.join(location).map_err(in_words)?;
        step.turn(next, response.status, asked.tls.as_ref());
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

impl Step {
    async fn send(&self, asker: &Asker) -> Result<Response, String> {
        let address = &self.url.address;
        let mut request = Request::new(self.method.clone(), address, &self.url.path);
        request.headers = self.headers.clone();
        if !request.headers.contains_key(HOST) {
            let host = HeaderValue::try_from(self.url.host()).map_err(in_words)?;
            request.headers.insert(HOST, host);
        }
        request.body = self.body.clone();
        request.timeout = TIMEOUT_OUTSIDE;
        request.body_bytes_max = OUTPUT_BYTES_MAX;
        request.cut = true;
        request.tls = asker.tls(self.tls.as_ref(), address, None).await?;
        request.send().await.map_err(in_words)
    }

    /// Turns to where a redirect leads, as Go's client does: what is to be seen elsewhere
    /// is got from there, and what is secret stays with whom it was meant for.
    fn turn(&mut self, next: Url, status: StatusCode, given: Option<&Tls>) {
        if matches!(status.as_u16(), 301..=303) && self.method != Method::HEAD {
            self.method = Method::GET;
            self.body = Bytes::new();
        }
        let same_host = next.address.host() == self.url.address.host();
        self.headers.remove(HOST);
        if !same_host {
            for secret in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                self.headers.remove(secret);
            }
        }
        self.tls = next.secure.then(|| Tls {
            name: given.and_then(|tls| tls.name.clone()).filter(|_| same_host),
            // Whoever did not speak TLS to begin with did not say to look away either.
            verify: given.is_none_or(|tls| tls.verify),
        });
        self.url = next;
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn usual_headers() -> HeaderMap {
    let accept = HeaderValue::from_static("*/*");
    HeaderMap::from_iter([(USER_AGENT, AGENT), (ACCEPT, accept)])
}

fn headers_of(asked: &HttpRequest) -> Result<HeaderMap, String> {
    // What is given takes the place of what is usual, and may stand there twice.
    let mut given = HeaderMap::new();
    for (name, value) in &asked.headers {
        let name = HeaderName::try_from(name).map_err(in_words)?;
        given.append(name, HeaderValue::try_from(value).map_err(in_words)?);
    }
    let mut headers = usual_headers();
    headers.extend(given);
    Ok(headers)
}

/// Consul's rule, and what is said of it.
fn judge(response: &Response, method: &Method, path: &str) -> (Outcome, String) {
    let status = response.status;
    let outcome = match status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Warn,
        status if status.is_success() => Outcome::Pass,
        _ => Outcome::Fail,
    };
    let mut output = format!("{method} {path}: {status}");
    let body = String::from_utf8_lossy(&response.body);
    if !body.trim().is_empty() {
        // Writing to a string cannot fail.
        write!(output, ": {}", body.trim()).unwrap_or_default();
    }
    (outcome, output)
}
