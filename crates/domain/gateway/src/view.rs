//! What the router and the balancer may ask of a request, whichever codec read it.
//!
//! They ask for no more than this, so that `explain` can answer for a request that
//! nobody sent.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method};

/// A request's head, as the router sees it. Every method is cheap.
pub trait RequestView {
    /// The method.
    fn method(&self) -> &Method;
    /// The authority without port, any case; empty when there was none.
    fn host(&self) -> &str;
    /// The path as sent, still percent-encoded, without query.
    fn path(&self) -> &str;
    /// The query as sent, without `?`.
    fn query(&self) -> Option<&str>;
    /// Path and query as sent, in one piece: `/users?page=2`.
    fn path_and_query(&self) -> &str;
    /// The first value of a header.
    fn header(&self, name: &HeaderName) -> Option<&[u8]>;
    /// The client, after trusted proxies.
    fn client_ip(&self) -> IpAddr;
}

/// A request in plain fields: for `explain`, tests and benchmarks.
#[derive(Clone, Debug)]
pub struct PlainRequest {
    /// The method.
    pub method: Method,
    /// The authority without port.
    pub host: String,
    /// Path and query: `/users?page=2`.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The client.
    pub client_ip: IpAddr,
}

impl PlainRequest {
    /// A request from 127.0.0.1 without headers.
    pub fn new(method: Method, host: &str, target: &str) -> Self {
        Self {
            method,
            host: host.to_owned(),
            target: target.to_owned(),
            headers: HeaderMap::new(),
            client_ip: IpAddr::from([127, 0, 0, 1]),
        }
    }
}

impl RequestView for PlainRequest {
    fn method(&self) -> &Method {
        &self.method
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&self.target[..], |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    fn path_and_query(&self) -> &str {
        &self.target
    }

    fn header(&self, name: &HeaderName) -> Option<&[u8]> {
        self.headers.get(name).map(http::HeaderValue::as_bytes)
    }

    fn client_ip(&self) -> IpAddr {
        self.client_ip
    }
}
