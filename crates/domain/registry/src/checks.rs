//! What a check must be like to be run: all that could never work, or could hurt whoever
//! runs it, is refused with the registration.

use std::time::Duration;

use atoll_model::{Check, HttpRequest, Probe, Tls};
use http::{HeaderName, HeaderValue, Method};

use crate::RegistryError;
use crate::registration::DURATION_MAX;

/// Shortest pause between two checks: less would be load, not care.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Bytes of a check's path.
const PATH_BYTES_MAX: usize = 2048;
/// Bytes of a check's name: an instance's id and a few words.
const NAME_BYTES_MAX: usize = 512;
/// Bytes of a check's headers and body, or of its program's arguments. The registry holds
/// them for each instance.
const TEXT_BYTES_MAX: usize = 8192;

/// What a check says that would run a program where that is not allowed.
pub(crate) const FORBIDDEN: &str = "checks that run programs are not allowed; `registry: { script_checks: true }` in the config file allows them";

/// What could never work is refused before it changes anything.
pub(crate) fn validate(check: &Check) -> Result<(), RegistryError> {
    validate_probe(&check.probe)?;
    if check.name.len() > NAME_BYTES_MAX {
        return refuse(
            "checks.name",
            format!("at most {NAME_BYTES_MAX} bytes, not {}", check.name.len()),
        );
    }
    for (field, value) in [
        ("checks.interval", check.interval),
        ("checks.start_interval", check.start_interval),
        ("checks.timeout", check.timeout),
    ] {
        within(field, value)?;
    }
    for (field, value) in [
        ("checks.ttl", check.probe.ttl()),
        ("checks.deregister_after", check.deregister_after),
    ] {
        value.map_or(Ok(()), |value| within(field, value))?;
    }
    Ok(())
}

fn refuse(field: &'static str, reason: String) -> Result<(), RegistryError> {
    Err(RegistryError::Invalid { field, reason })
}

fn within(field: &'static str, value: Duration) -> Result<(), RegistryError> {
    if value < INTERVAL_MIN || value > DURATION_MAX {
        let least = INTERVAL_MIN.as_millis();
        return refuse(field, format!("between {least} ms and 366 days"));
    }
    Ok(())
}

fn validate_probe(probe: &Probe) -> Result<(), RegistryError> {
    match probe {
        Probe::Http { path } => validate_path(path),
        Probe::Request(request) => validate_request(request),
        Probe::Tls(tls) => validate_tls(tls),
        Probe::Grpc { service, tls } => {
            bounded("checks.grpc", service.len())?;
            tls.as_ref().map_or(Ok(()), validate_tls)
        }
        Probe::H2Ping { tls } => tls.as_ref().map_or(Ok(()), validate_tls),
        Probe::Script { args } => {
            if args.first().is_none_or(String::is_empty) {
                return refuse("checks.script", "names no program".to_owned());
            }
            if args.iter().any(|arg| arg.contains('\0')) {
                return refuse("checks.script", "no argument may hold a NUL".to_owned());
            }
            bounded("checks.script", args.iter().map(String::len).sum())
        }
        Probe::Tcp | Probe::Udp | Probe::Alias(_) | Probe::Told { .. } => Ok(()),
    }
}

fn validate_path(path: &str) -> Result<(), RegistryError> {
    if !path.starts_with('/') || path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return refuse(
            "checks.http.path",
            format!("`{path}` must begin with `/` and hold no spaces"),
        );
    }
    if path.len() > PATH_BYTES_MAX {
        return refuse(
            "checks.http.path",
            format!("at most {PATH_BYTES_MAX} bytes, not {}", path.len()),
        );
    }
    Ok(())
}

fn validate_request(request: &HttpRequest) -> Result<(), RegistryError> {
    validate_path(&request.path)?;
    if Method::from_bytes(request.method.as_bytes()).is_err() {
        let reason = format!("`{}` is no method", request.method);
        return refuse("checks.http.method", reason);
    }
    let mut bytes = request.body.len();
    for (name, value) in &request.headers {
        if HeaderName::try_from(name).is_err() {
            let reason = format!("`{name}` is no header's name");
            return refuse("checks.http.headers", reason);
        }
        if HeaderValue::try_from(value).is_err() {
            // The value may be a secret.
            let reason = format!("the value of `{name}` cannot be sent");
            return refuse("checks.http.headers", reason);
        }
        bytes += name.len() + value.len();
    }
    bounded("checks.http", bytes)?;
    request.tls.as_ref().map_or(Ok(()), validate_tls)
}

fn validate_tls(tls: &Tls) -> Result<(), RegistryError> {
    bounded("checks.tls.name", tls.name.as_ref().map_or(0, String::len))
}

fn bounded(field: &'static str, bytes: usize) -> Result<(), RegistryError> {
    if bytes > TEXT_BYTES_MAX {
        let reason = format!("at most {TEXT_BYTES_MAX} bytes, not {bytes}");
        return refuse(field, reason);
    }
    Ok(())
}
