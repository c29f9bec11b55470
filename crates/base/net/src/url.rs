//! `http://` and `https://` URLs, as far as a client needs them: whom to ask, how, and
//! for what. A user's name in one is refused; headers are the place for secrets.

use std::fmt;
use std::str::FromStr;

use atoll_model::Address;

/// Bytes of a URL: what servers take at most in a request line.
const BYTES_MAX: usize = 8192;

/// Where something is to be had over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Over TLS.
    pub secure: bool,
    /// The host and the port, which is the scheme's when none was given.
    pub address: Address,
    /// Path and query; begins with `/`.
    pub path: String,
}

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no URL that can be asked for: {reason}")]
pub struct UrlError {
    given: String,
    reason: String,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(given: &str) -> Result<Self, UrlError> {
        let refuse = |reason: &dyn fmt::Display| UrlError {
            given: given.chars().take(200).collect(),
            reason: reason.to_string(),
        };
        if given.len() > BYTES_MAX {
            return Err(refuse(&format_args!(
                "it has more than {BYTES_MAX} characters"
            )));
        }
        if !given.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text = "it may hold visible ASCII only; encode the rest as %XX";
            return Err(refuse(&text));
        }
        let (scheme, rest) = given
            .split_once("://")
            .ok_or_else(|| refuse(&"it begins with neither http:// nor https://"))?;
        let secure = match &scheme.to_ascii_lowercase()[..] {
            "http" => false,
            "https" => true,
            _ => return Err(refuse(&"it begins with neither http:// nor https://")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        if host.contains('@') {
            let reason = "a name or password has no place in it; use an Authorization header";
            // Whoever reads of it is not to read the password.
            return Err(UrlError {
                given: format!("{scheme}://…@…"),
                reason: reason.to_owned(),
            });
        }
        let address = address(host, usual_port(secure)).map_err(|error| refuse(&error))?;
        let path = without_fragment(path);
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self {
            secure,
            address,
            path,
        })
    }
}

impl Url {
    /// The host as it stands in a `Host` header: without the scheme's own port.
    pub fn host(&self) -> String {
        if self.address.port() != usual_port(self.secure) {
            return self.address.to_string();
        }
        let host = self.address.host();
        if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        }
    }

    /// Where a `Location` leads that was given here (RFC 3986 §5.2).
    ///
    /// # Errors
    /// When it leads nowhere that can be asked.
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        let scheme = if self.secure { "https" } else { "http" };
        if let Some(rest) = location.strip_prefix("//") {
            return format!("{scheme}://{rest}").parse();
        }
        let colon = location.find(':');
        if colon.is_some_and(|at| !location[..at].contains(['/', '?', '#'])) {
            return location.parse();
        }
        let location = without_fragment(location);
        let (mut path, mut query) = split(location);
        let (own_path, own_query) = split(&self.path);
        let joined;
        if path.is_empty() {
            path = own_path;
            query = query.or(own_query);
        } else if !path.starts_with('/') {
            let directory = own_path.rfind('/').map_or("/", |at| &own_path[..=at]);
            joined = format!("{directory}{path}");
            path = &joined;
        }
        let path = without_dots(path);
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let host = self.host();
        format!("{scheme}://{host}{path}{query}").parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host(), self.path)
    }
}

fn usual_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn address(host: &str, port: u16) -> Result<Address, atoll_model::AddressError> {
    host.parse::<Address>().or_else(|error| {
        // A host without a port, be it an IPv6 address in brackets.
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let bare = bare.or((!host.contains(':')).then_some(host));
        bare.ok_or(error).and_then(|host| Address::new(host, port))
    })
}

fn without_fragment(text: &str) -> &str {
    text.split('#').next().unwrap_or_default()
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    }
}

/// RFC 3986 §5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => {
                kept.push(part);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_written() {
        for (given, written) in [
            ("http://a", "http://a/"),
            ("HTTPS://A:8443/x?y=1#z", "https://a:8443/x?y=1"),
            ("http://a:80/x", "http://a/x"),
            ("https://[::1]?q", "https://[::1]/?q"),
            ("http://[::1]:81/", "http://[::1]:81/"),
        ] {
            assert_eq!(given.parse::<Url>().unwrap().to_string(), written);
        }
        for (wrong, why) in [
            ("ftp://a/", "neither http"),
            ("a/b", "neither http"),
            ("http://a/ b", "visible ASCII"),
            ("http://u:p@a/", "Authorization"),
            ("http://:80/", "host"),
            ("http://a:0/", "port"),
        ] {
            let error = wrong.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_location_is_taken_from_where_it_was_given() {
        // RFC 3986 §5.4, as far as HTTP goes.
        let base: Url = "http://a/b/c/d;p?q".parse().unwrap();
        for (location, leads) in [
            ("g", "http://a/b/c/g"),
            ("./g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g:81", "http://g:81/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y#s", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../../../g", "http://a/g"),
            ("https://b/x", "https://b/x"),
            ("g?a:b", "http://a/b/c/g?a:b"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), leads);
        }
        assert!(base.join("mailto:x").is_err());
    }
}
