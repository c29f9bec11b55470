//! What every front that keeps strangers out compares in the same way.

use std::net::IpAddr;

/// Whether a secret is the one that is wanted, in a time that does not depend on where
/// the two differ.
pub fn same_secret(given: &[u8], wanted: &[u8]) -> bool {
    let differing = given
        .iter()
        .zip(wanted)
        .fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == wanted.len() && std::hint::black_box(differing) == 0
}

/// Whether a `Host` names this machine's loopback, with or without a port: `localhost`,
/// or an address of loopback. By DNS rebinding a web page can come with any other name.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_secret_is_the_same() {
        assert!(same_secret(b"abc", b"abc"));
        for given in ["", "ab", "abd", "xbc", "abcd"] {
            assert!(!same_secret(given.as_bytes(), b"abc"), "{given}");
        }
    }

    #[test]
    fn loopback_is_told_from_names_that_only_look_like_it() {
        for host in [
            "localhost",
            "LocalHost:80",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:80",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "localhost.example",
            "10.0.0.1:80",
            "[::2]",
            "127.0.0.1.example:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
