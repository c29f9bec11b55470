//! Who may ask.
//!
//! With a token every request needs it. Without one the listener is on loopback, and the
//! danger is a web page: by DNS rebinding it could read keys, by a form it could write.
//! So `Host` must be a name of this machine's loopback, and a browser's `Origin`, when
//! there is one, the same. Consul's clients send no `Origin`.

use atoll_net::guard::{is_loopback, same_secret};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};

use crate::wire::{Query, Refusal};

pub(crate) fn check(
    token: Option<&str>,
    query: &Query,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let refused = match token {
        Some(token) => token_refused(token, query, headers),
        None => stranger_refused(headers),
    };
    match refused {
        None => Ok(()),
        Some(text) => Err(Refusal::new(StatusCode::FORBIDDEN, text)),
    }
}

/// The token that a request brings, from all places where Consul takes one, in its
/// order; empty without one.
pub(crate) fn given<'a>(query: &'a Query, headers: &'a HeaderMap) -> &'a str {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    });
    let places = [query.get("token"), header("x-consul-token"), bearer];
    let mut given = places.into_iter().flatten();
    given.find(|token| !token.is_empty()).unwrap_or_default()
}

fn token_refused(token: &str, query: &Query, headers: &HeaderMap) -> Option<&'static str> {
    match given(query, headers) {
        "" => Some("Permission denied: Atoll's admin_token is needed as the token"),
        given if same_secret(given.as_bytes(), token.as_bytes()) => None,
        _ => Some("ACL not found"),
    }
}

fn stranger_refused(headers: &HeaderMap) -> Option<&'static str> {
    // HTTP/1.0 knows no `Host`, and no browser speaks it.
    let host = headers.get(HOST)?.to_str().unwrap_or_default();
    if !is_loopback(host) {
        return Some(
            "Permission denied: without a token only requests to localhost are answered; let listen.consul leave loopback and set admin_token",
        );
    }
    let origin = headers.get(ORIGIN)?.to_str().unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    (authority != Some(host))
        .then_some("Permission denied: requests of other web pages are refused")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// The first words of the refusal; empty when there is none.
    fn refused(token: Option<&str>, query: &str, headers: &[(&str, &str)]) -> String {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        match check(token, &Query::parse(query), &headers.collect()) {
            Ok(()) => String::new(),
            Err(refusal) => {
                assert_eq!(refusal.status, 403);
                refusal.text
            }
        }
    }

    #[test]
    fn without_a_token_web_pages_and_strangers_are_kept_out() {
        for host in [
            "localhost:8500",
            "127.0.0.1:8500",
            "127.0.0.1",
            "[::1]:8500",
        ] {
            assert_eq!(refused(None, "", &[("host", host)]), "", "{host}");
            let own = [("host", host), ("origin", &format!("http://{host}")[..])];
            assert_eq!(refused(None, "", &own), "", "{host}");
            let other = [("host", host), ("origin", "https://evil.example")];
            assert!(refused(None, "", &other).contains("web pages"), "{host}");
        }
        let rebound = refused(None, "", &[("host", "evil.example:8500")]);
        assert!(rebound.contains("localhost"));
        assert_eq!(refused(None, "", &[]), "");
    }

    #[test]
    fn a_token_is_taken_wherever_consul_takes_it() {
        let token = Some("s3cret");
        let host = ("host", "consul.example:8500");
        assert_eq!(refused(token, "token=s3cret", &[host]), "");
        assert_eq!(
            refused(token, "", &[host, ("x-consul-token", "s3cret")]),
            ""
        );
        assert_eq!(
            refused(token, "", &[host, ("authorization", "bearer s3cret")]),
            ""
        );
        assert!(refused(token, "", &[host]).contains("admin_token"));
        for wrong in ["s3cre", "s3cret2", "x"] {
            let told = refused(token, "", &[host, ("x-consul-token", wrong)]);
            assert_eq!(told, "ACL not found");
        }
        let basic = [host, ("authorization", "Basic s3cret")];
        assert!(refused(token, "", &basic).contains("admin_token"));
    }
}
