//! Durations, sizes, shares and addresses as people write them, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use atoll_gateway::config::Cidr;

/// A hundred days: nothing here waits longer, and sums stay far from overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

const DURATION_HELP: &str = "write a duration such as `500ms`, `2s` or `1m30s`";
const SIZE_HELP: &str = "write a size such as `64k`, `10mb` or `8MiB`";

/// Compose's durations: `1h5m30s20ms`, units `us`, `ms`, `s`, `m`, `h` (and `d`).
pub(crate) fn duration(raw: &str) -> Result<Duration, String> {
    let refuse = || DURATION_HELP.to_owned();
    if raw == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = raw;
    if rest.is_empty() || rest.len() > 64 {
        return Err(refuse());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(refuse)?;
        let number = &rest[..digits];
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| digits + at);
        let unit_nanos: u128 = match &rest[digits..unit_end] {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(refuse()),
        };
        let nanos = decimal(number, unit_nanos).ok_or_else(refuse)?;
        let nanos = u64::try_from(nanos).map_err(|_| too_long())?;
        total = total
            .checked_add(Duration::from_nanos(nanos))
            .ok_or_else(too_long)?;
        rest = &rest[unit_end..];
    }
    match total > DURATION_MAX {
        true => Err(too_long()),
        false => Ok(total),
    }
}

fn too_long() -> String {
    "longer than 100 days".to_owned()
}

/// `number`, perhaps with a fraction, times `unit`, exactly.
fn decimal(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 15 || fraction.len() > 15 {
        return None;
    }
    let read = |digits: &str| match digits {
        "" => Some(0),
        digits => digits.parse::<u128>().ok(),
    };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(read(whole)? * unit + read(fraction)? * unit / scale)
}

/// As [`duration`] reads it.
pub(crate) fn shown_duration(duration: Duration) -> String {
    let units: [(u128, &str); 6] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (unit, name) in units {
        if left >= unit {
            text.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    match text.is_empty() {
        true => "0s".to_owned(),
        false => text,
    }
}

/// Compose's sizes, each step 1024: `b`, `k`/`kb`/`kib`, `m`, `g`, with any case.
pub(crate) fn size(raw: &str) -> Result<u64, String> {
    let refuse = || SIZE_HELP.to_owned();
    let digits = raw
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(raw.len());
    let unit: u128 = match raw[digits..].trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(refuse()),
    };
    let bytes = decimal(&raw[..digits], unit).ok_or_else(refuse)?;
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= 1 << 50 => Ok(bytes),
        Ok(_) | Err(_) => Err("larger than 1024 TiB".to_owned()),
    }
}

/// As [`size`] reads it.
pub(crate) fn shown_size(bytes: u64) -> String {
    let units: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in units {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// `20%` or `20`.
pub(crate) fn percent(raw: &str) -> Result<u32, String> {
    let number = raw.strip_suffix('%').unwrap_or(raw).trim_end();
    let percent = number.parse::<u32>().ok().filter(|&n| n <= 100);
    percent.ok_or_else(|| "write a share such as `20%`, at most `100%`".to_owned())
}

/// Where to listen: `8080`, `:8080`, `127.0.0.1:8080`, `localhost:80`, `[::1]:80`.
///
/// Without a host it is loopback, unlike Docker's `8080`: nothing is opened to
/// others by leaving something out.
pub(crate) fn listener(raw: &str) -> Result<SocketAddr, String> {
    let (host, port) = match raw.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", raw),
    };
    let host = match host {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        v6 if v6.starts_with('[') => {
            let inner = v6.trim_start_matches('[').trim_end_matches(']');
            let parsed = inner.parse::<Ipv6Addr>();
            IpAddr::V6(parsed.map_err(|_| format!("`{v6}` is not an IPv6 address"))?)
        }
        host => host
            .parse::<Ipv4Addr>()
            .map(IpAddr::V4)
            .map_err(|_| format!("`{host}` is not an IP address; write IP:PORT, such as `127.0.0.1:8080` or `[::1]:8080`"))?,
    };
    let port = port
        .parse::<u16>()
        .map_err(|_| format!("`{port}` is not a port: a number from 0 (any free one) to 65535"))?;
    Ok(SocketAddr::new(host, port))
}

/// `10.0.0.0/8`, or one address.
pub(crate) fn cidr(raw: &str) -> Result<Cidr, String> {
    let refuse = || format!("`{raw}` is not an address block such as `10.0.0.0/8` or `fd00::/8`");
    let (address, prefix) = match raw.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (raw, None),
    };
    let address: IpAddr = address.parse().map_err(|_| refuse())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        Some(prefix) => prefix.parse::<u8>().map_err(|_| refuse())?,
        None => most,
    };
    match prefix <= most {
        true => Ok(Cidr { address, prefix }),
        false => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_compose_does_and_written_alike() {
        let nanos = |raw: &str| duration(raw).map(|d| d.as_nanos());
        for (raw, expected) in [
            ("500ms", 500_000_000),
            ("2s", 2_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h5m30s20ms", 3_930_020_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("10us", 10_000),
            ("3ns", 3),
            ("0", 0),
            ("0s", 0),
            ("100d", 8_640_000_000_000_000),
        ] {
            assert_eq!(nanos(raw), Ok(expected), "{raw}");
            let again = shown_duration(Duration::from_nanos(u64::try_from(expected).unwrap()));
            assert_eq!(nanos(&again), Ok(expected), "{again}");
        }
        for raw in [
            "", "2", "s", "2 s", "-2s", "2x", "1.2.3s", "2s3", "101d", "1e3s", ".s",
        ] {
            assert!(duration(raw).is_err(), "{raw}");
        }
        assert!(duration(&"9".repeat(400)).is_err());
        assert!(duration(&format!("{}s", "9".repeat(60))).is_err());
    }

    #[test]
    fn sizes_are_read_in_steps_of_1024_and_written_alike() {
        for (raw, expected) in [
            ("64k", 64 << 10),
            ("10mb", 10 << 20),
            ("8MiB", 8 << 20),
            ("1.5g", 3 << 29),
            ("12", 12),
            ("12 B", 12),
            ("0", 0),
        ] {
            assert_eq!(size(raw), Ok(expected), "{raw}");
            assert_eq!(size(&shown_size(expected)), Ok(expected), "{raw}");
        }
        for raw in ["", "k", "-1", "1x", "1kbit", "2048t", "1..5k"] {
            assert!(size(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn a_listener_without_a_host_is_loopback() {
        for (raw, expected) in [
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("*:80", "0.0.0.0:80"),
            ("[::]:80", "[::]:80"),
        ] {
            assert_eq!(
                listener(raw).map(|at| at.to_string()),
                Ok(expected.to_owned())
            );
        }
        for raw in [
            "", "http", "70000", "::1:80", "host:80", "1.2.3:80", "[::1]", "-1",
        ] {
            assert!(listener(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn address_blocks_may_be_one_address() {
        let shown = |raw: &str| cidr(raw).map(|c| format!("{}/{}", c.address, c.prefix));
        assert_eq!(shown("10.0.0.0/8"), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(shown("10.0.0.1"), Ok("10.0.0.1/32".to_owned()));
        assert_eq!(shown("::1"), Ok("::1/128".to_owned()));
        for raw in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(shown(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn shares_are_percent_with_or_without_the_sign() {
        assert_eq!(percent("20%"), Ok(20));
        assert_eq!(percent("20"), Ok(20));
        assert_eq!(percent("100 %"), Ok(100));
        assert!(percent("101%").is_err() && percent("").is_err() && percent("1.5%").is_err());
    }
}
