//! Who may ask: against DNS rebinding (a page whose name was pointed at us),
//! cross-site requests (a page that posts to us), and for the admin token.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};

use crate::problem::Problem;
use crate::{Console, Settings};

/// Lets a request through or answers with the reason.
pub(crate) async fn guard(
    State(console): State<Console>,
    request: Request,
    next: Next,
) -> Response {
    let from = request.uri().authority().map(Authority::as_str);
    match allow(&console.settings, request.method(), from, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn allow(
    settings: &Settings,
    method: &Method,
    authority: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    match (&settings.token, bearer(headers)) {
        // Whoever shows the token is no stranger's page, which cannot know it.
        (Some(token), Some(given)) if same(token, given) => return Ok(()),
        (Some(_), Some(_)) => return Err(Problem::unauthorized("the token is not the right one")),
        (Some(_), None) if !reads => {
            return Err(Problem::unauthorized(
                "changes need the admin token: `Authorization: Bearer TOKEN`",
            ));
        }
        (Some(_), None) | (None, _) => {}
    }
    let host = match authority {
        Some(authority) => Some(authority),
        None => headers.get(HOST).and_then(|host| host.to_str().ok()),
    };
    let Some(host) = host.filter(|host| is_ours(settings, host)) else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            format!(
                "the host `{}` is not known here; ask by IP address or `localhost`, or add the name to `console.hosts`",
                host.unwrap_or_default()
            ),
        ));
    };
    if !reads && is_cross_site(host, headers) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "pages of other sites may not change anything here",
        ));
    }
    Ok(())
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that does not tell how much of it was right.
fn same(token: &str, given: &str) -> bool {
    let differences = token
        .bytes()
        .zip(given.bytes())
        .fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    token.len() == given.len() && differences == 0
}

/// A rebound name is never an IP address, so these need no list.
fn is_ours(settings: &Settings, authority: &str) -> bool {
    let Ok(authority) = authority.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let name = plain.trim_end_matches('.').to_ascii_lowercase();
    plain.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || settings
            .hosts
            .iter()
            .any(|ours| ours.eq_ignore_ascii_case(&name))
}

/// Browsers send `Origin` with every request that changes something; programs do not.
fn is_cross_site(host: &str, headers: &HeaderMap) -> bool {
    if headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "same-origin" && site != "none")
    {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let site = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    !site.is_some_and(|(_, site)| site.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn settings(token: Option<&str>) -> Settings {
        Settings {
            token: token.map(str::to_owned),
            hosts: vec!["atoll.internal".to_owned()],
        }
    }

    /// The status of the refusal, 0 for none.
    fn check(token: Option<&str>, method: &Method, lines: &[(&'static str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        match allow(&settings(token), method, None, &headers) {
            Ok(()) => 0,
            Err(problem) => problem.status.as_u16(),
        }
    }

    #[test]
    fn only_names_of_ours_and_addresses_are_hosts() {
        for host in [
            "127.0.0.1:7070",
            "[::1]:7070",
            "10.0.0.5",
            "localhost:7070",
            "LocalHost",
            "shop.localhost:1",
            "Atoll.Internal:7070",
        ] {
            assert_eq!(check(None, &Method::GET, &[("host", host)]), 0, "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "",
        ] {
            assert_eq!(check(None, &Method::GET, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(check(None, &Method::GET, &[]), 403);
    }

    #[test]
    fn pages_of_other_sites_may_not_change_anything() {
        let host = ("host", "localhost:7070");
        let post = |origin| check(None, &Method::POST, &[host, ("origin", origin)]);
        assert_eq!(post("http://localhost:7070"), 0);
        assert_eq!(post("http://localhost:3000"), 403);
        assert_eq!(post("https://evil.example"), 403);
        assert_eq!(post("null"), 403);
        assert_eq!(
            check(None, &Method::POST, &[host]),
            0,
            "programs send no origin"
        );
        let fetched = |site| check(None, &Method::DELETE, &[host, ("sec-fetch-site", site)]);
        assert_eq!(fetched("same-origin"), 0);
        assert_eq!(fetched("cross-site"), 403);
        assert_eq!(fetched("same-site"), 403);
    }

    #[test]
    fn with_a_token_set_changes_need_it_and_it_opens_every_name() {
        let host = ("host", "localhost");
        let token = Some("s3cret");
        assert_eq!(check(token, &Method::GET, &[host]), 0);
        assert_eq!(check(token, &Method::PUT, &[host]), 401);
        for wrong in [
            "Bearer s3cre",
            "Bearer s3cret1",
            "Bearer ",
            "Basic s3cret",
            "Bearer S3CRET",
        ] {
            assert_eq!(
                check(token, &Method::PUT, &[host, ("authorization", wrong)]),
                401,
                "{wrong}"
            );
        }
        for right in ["Bearer s3cret", "bearer  s3cret"] {
            let lines = [("host", "any.example"), ("authorization", right)];
            assert_eq!(check(token, &Method::PUT, &lines), 0, "{right}");
        }
        assert_eq!(check(token, &Method::GET, &[("host", "any.example")]), 403);
    }
}
