//! Keys of routes: `/users/{id}`, `GET /users`, `api.example.com/v1/{rest*}`.

use atoll_gateway::config::{Hostname, PathMatch, Segment};
use http::Method;

/// Longest path pattern, its groups' prefixes included.
pub(crate) const PATH_BYTES_MAX: usize = 1000;

/// What a route's key says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) method: Option<Method>,
    pub(crate) host: Option<Hostname>,
    /// With its `/`; empty when the key is only a host.
    pub(crate) path: String,
}

/// Takes a key apart.
pub(crate) fn route_key(raw: &str) -> Result<RouteKey, String> {
    let (method, rest) = match raw.split_once(' ') {
        Some((first, rest)) => (Some(method(first)?), rest.trim_start()),
        None => (None, raw),
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(slash);
    if host.is_empty() && path.is_empty() {
        return Err("a route's key is a path, such as `/users/{path*}`".to_owned());
    }
    let host = match host {
        "" => None,
        host => Some(hostname(host).map_err(|why| format!("{why} (a path begins with `/`)"))?),
    };
    Ok(RouteKey {
        method,
        host,
        path: path.to_owned(),
    })
}

/// A method; upper case, as it is compared with case.
pub(crate) fn method(raw: &str) -> Result<Method, String> {
    let upper = raw
        .bytes()
        .all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_');
    match Method::from_bytes(raw.as_bytes()) {
        Ok(method) if upper && raw.len() <= 32 => Ok(method),
        Ok(_) | Err(_) => Err(format!(
            "`{raw}` is not a method such as `GET`, in upper case"
        )),
    }
}

/// `example.com` or `*.example.com`.
pub(crate) fn hostname(raw: &str) -> Result<Hostname, String> {
    let lower = raw.to_ascii_lowercase();
    let (wild, host) = match lower.strip_prefix("*.") {
        Some(host) => (true, host),
        None => (false, &lower[..]),
    };
    if host.contains(':') {
        return Err(format!("the host `{raw}` may not have a port"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(format!(
            "`{raw}` is not a host such as `example.com` or `*.example.com`"
        ));
    }
    Ok(match wild {
        true => Hostname::Wildcard(host.to_owned()),
        false => Hostname::Exact(host.to_owned()),
    })
}

/// As [`hostname`] reads it.
pub(crate) fn shown_hostname(hostname: &Hostname) -> String {
    match hostname {
        Hostname::Exact(host) => host.clone(),
        Hostname::Wildcard(host) => format!("*.{host}"),
    }
}

/// A path pattern.
pub(crate) fn path(raw: &str) -> Result<PathMatch, String> {
    let Some(inner) = raw.strip_prefix('/') else {
        return Err(format!("a path begins with `/`: `/{raw}`"));
    };
    if raw.len() > PATH_BYTES_MAX {
        return Err(format!("a path may have at most {PATH_BYTES_MAX} bytes"));
    }
    let segments = match inner {
        "" => Vec::new(),
        inner => inner.split('/').map(segment).collect::<Result<_, _>>()?,
    };
    Ok(PathMatch {
        pattern: raw.to_owned(),
        segments,
    })
}

fn segment(raw: &str) -> Result<Segment, String> {
    if raw == "*" || raw == "**" {
        return Err(
            "`*` is written `{path*}`: any name, and a `*` for all that is left".to_owned(),
        );
    }
    if let Some(inner) = raw
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        let (name, rest) = match inner.strip_suffix('*') {
            Some(name) => (name, true),
            None => (inner, false),
        };
        let part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !begins || !name.bytes().all(part) {
            return Err(format!(
                "`{{{inner}}}` is not a parameter such as `{{id}}` or `{{path*}}`"
            ));
        }
        return Ok(match rest {
            true => Segment::Rest(name.to_owned()),
            false => Segment::Param(name.to_owned()),
        });
    }
    if raw.contains(['{', '}']) {
        return Err(format!(
            "`{raw}`: a parameter takes a whole segment, `/{{id}}/`"
        ));
    }
    if raw.contains(['?', '#', ' ', '\\']) || raw.chars().any(char::is_control) {
        return Err(format!(
            "`{raw}`: a path has no `?`, `#`, `\\`, space or control character; the query is matched under `matches`"
        ));
    }
    let text = decoded(raw)
        .ok_or_else(|| format!("`{raw}`: `%` takes two hexadecimal digits, together UTF-8 text"))?;
    let first = text.split(';').next().unwrap_or_default();
    if first == "." || first == ".." || text.contains('\0') {
        return Err(format!("`{raw}` would never match: such paths are refused"));
    }
    Ok(Segment::Literal(text))
}

fn decoded(raw: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// `path` below the prefix of a group.
pub(crate) fn below(prefix: &str, path: &str) -> String {
    match (prefix.trim_end_matches('/'), path) {
        ("", path) => path.to_owned(),
        (prefix, "/" | "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_path_perhaps_with_a_method_and_a_host() {
        for (raw, method, host, path) in [
            ("/users/{id}", None, None, "/users/{id}"),
            ("GET /users", Some("GET"), None, "/users"),
            ("api.example.com/v1", None, Some("api.example.com"), "/v1"),
            (
                "M-SEARCH *.Example.com/",
                Some("M-SEARCH"),
                Some("*.example.com"),
                "/",
            ),
            ("localhost", None, Some("localhost"), ""),
        ] {
            let key = route_key(raw).unwrap();
            assert_eq!(key.method.as_ref().map(Method::as_str), method, "{raw}");
            assert_eq!(
                key.host.as_ref().map(shown_hostname).as_deref(),
                host,
                "{raw}"
            );
            assert_eq!(key.path, path, "{raw}");
        }
        for raw in ["", "GET ", "get /a", "a b/c", "-.*.com/", "a..b/", "*./"] {
            assert!(route_key(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn patterns_are_segments_decoded() {
        use Segment::{Literal, Param, Rest};
        let literal = |text: &str| Literal(text.to_owned());
        for (raw, segments) in [
            ("/", vec![]),
            ("/a/b", vec![literal("a"), literal("b")]),
            ("/a/", vec![literal("a"), literal("")]),
            (
                "/a/{id}/{rest*}",
                vec![
                    literal("a"),
                    Param("id".to_owned()),
                    Rest("rest".to_owned()),
                ],
            ),
            ("/caf%C3%A9/a%2Fb", vec![literal("café"), literal("a/b")]),
            ("/...", vec![literal("...")]),
        ] {
            assert_eq!(path(raw).unwrap().segments, segments, "{raw}");
        }
        for raw in [
            "", "a", "/{}", "/{a b}", "/{a}b", "/*", "/..", "/.;x", "/%2e%2E", "/%", "/%ff",
            "/a?b", "/%00",
        ] {
            assert!(path(raw).is_err(), "{raw}");
        }
        assert!(path(&format!("/{}", "a".repeat(1000))).is_err());
    }

    #[test]
    fn a_group_stands_before_its_routes() {
        assert_eq!(below("/api", "/users"), "/api/users");
        assert_eq!(below("/api/", "/users"), "/api/users");
        assert_eq!(below("/api", "/"), "/api");
        assert_eq!(below("", "/"), "/");
        assert_eq!(below("/", "/users"), "/users");
    }
}
