//! The authority of a request: a host and perhaps a port (RFC 9110 §7.2, RFC
//! 3986 §3.2).

/// Longest accepted authority: a DNS name of 253 bytes, a port, and some room.
const AUTHORITY_BYTES_MAX: usize = 300;

/// Length of the host within `authority` (brackets of IPv6 included), when the
/// whole is a host with or without a port.
pub(crate) fn host_len(authority: &[u8]) -> Option<usize> {
    if authority.is_empty() || authority.len() > AUTHORITY_BYTES_MAX {
        return None;
    }
    let host_len = if authority[0] == b'[' {
        let close = memchr::memchr(b']', authority)?;
        let inner = std::str::from_utf8(&authority[1..close]).ok()?;
        inner.parse::<std::net::Ipv6Addr>().ok()?;
        close + 1
    } else {
        authority
            .iter()
            .position(|byte| !is_reg_name_byte(*byte))
            .unwrap_or(authority.len())
    };
    let port_is_right = match &authority[host_len..] {
        [] => true,
        [b':', digits @ ..] => {
            digits.len() <= 5
                && digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits)
                    .is_ok_and(|text| text.is_empty() || text.parse::<u16>().is_ok())
        }
        _ => false,
    };
    (host_len > 0 && port_is_right).then_some(host_len)
}

/// RFC 3986's `reg-name` without percent-encoding, which no host needs and
/// which two parsers read differently.
fn is_reg_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}
