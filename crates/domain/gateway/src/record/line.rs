//! One line of the access log.
//!
//! Whatever a client sent is escaped, so that it can neither begin a line of its own
//! nor steer a terminal (CWE-117).

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;

use super::Record;

/// Appends words for a person, ending with a newline:
/// `2026-01-02T03:04:05.678Z 10.0.0.1 GET shop.example /users/7 200 3.214ms users
/// users-1 id=4f1c attempts=2`.
pub fn text(record: &Record, line: &mut String) {
    time(record.at, line);
    write_to(line, format_args!(" {} ", record.client_ip));
    for word in [record.method.as_str(), &record.host, &record.path] {
        word_of_text(word, line);
        line.push(' ');
    }
    let ms = record.duration.as_secs_f64() * 1e3;
    write_to(line, format_args!("{} {ms:.3}ms ", record.status));
    word_of_text(route(record), line);
    line.push(' ');
    word_of_text(
        record.endpoint.as_ref().map_or("", |at| at.id.as_str()),
        line,
    );
    line.push_str(" id=");
    word_of_text(&record.request_id, line);
    if record.attempts > 1 {
        write_to(line, format_args!(" attempts={}", record.attempts));
    }
    if let Some(trace) = record.trace_id {
        write_to(line, format_args!(" trace={trace:032x}"));
    }
    if let Some(blame) = record.blame {
        write_to(line, format_args!(" blame={}", blame.as_str()));
    }
    if let Some(reason) = record.reason {
        write_to(line, format_args!(" reason={reason}"));
    }
    line.push('\n');
}

/// Appends one JSON object, ending with a newline. Fields that a request has not are
/// left out.
pub fn json(record: &Record, line: &mut String) {
    line.push_str("{\"time\":\"");
    time(record.at, line);
    write_to(
        line,
        format_args!("\",\"client_ip\":\"{}\"", record.client_ip),
    );
    let version = match record.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    string_field("http_version", version, line);
    string_field("method", record.method.as_str(), line);
    string_field("host", &record.host, line);
    string_field("path", &record.path, line);
    let seconds = record.duration.as_secs_f64();
    write_to(
        line,
        format_args!(
            ",\"status\":{},\"duration_s\":{seconds:.6},\"bytes_in\":{},\"bytes_out\":{},\"attempts\":{}",
            record.status, record.bytes_in, record.bytes_out, record.attempts
        ),
    );
    if record.route.is_some() {
        string_field("route", route(record), line);
    }
    if let Some(endpoint) = &record.endpoint {
        string_field("service", endpoint.service.as_str(), line);
        string_field("instance", endpoint.id.as_str(), line);
        write_to(line, format_args!(",\"address\":\"{}\"", endpoint.address));
    }
    string_field("request_id", &record.request_id, line);
    if let Some(trace) = record.trace_id {
        write_to(line, format_args!(",\"trace_id\":\"{trace:032x}\""));
    }
    if let Some(blame) = record.blame {
        string_field("blame", blame.as_str(), line);
    }
    if let Some(reason) = record.reason {
        string_field("reason", reason, line);
    }
    line.push_str("}\n");
}

fn route(record: &Record) -> &str {
    record.route.as_ref().map_or("", |route| &route.name)
}

fn write_to(line: &mut String, text: std::fmt::Arguments<'_>) {
    line.write_fmt(text).expect("a String takes all text");
}

fn string_field(name: &str, value: &str, line: &mut String) {
    write_to(line, format_args!(",\"{name}\":\""));
    for character in value.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            unsafe_in_line if is_unsafe(unsafe_in_line) => escape(unsafe_in_line, line),
            _ => line.push(character),
        }
    }
    line.push('"');
}

/// A word holds no space, so that a line can be split; an empty one is `-`.
fn word_of_text(word: &str, line: &mut String) {
    if word.is_empty() {
        line.push('-');
    }
    for character in word.chars() {
        match character {
            '\\' => line.push_str("\\\\"),
            unsafe_in_line if is_unsafe(unsafe_in_line) || unsafe_in_line.is_whitespace() => {
                escape(unsafe_in_line, line);
            }
            _ => line.push(character),
        }
    }
}

/// C0 and C1 controls, DEL; the separators that some viewers break lines at; marks
/// that turn the direction of what follows.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// As JSON writes it. All that is escaped lies in the basic plane.
fn escape(character: char, line: &mut String) {
    write_to(line, format_args!("\\u{:04x}", u32::from(character)));
}

/// RFC 3339 in UTC to the millisecond.
fn time(at: SystemTime, line: &mut String) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let ms = since.subsec_millis();
    write_to(
        line,
        format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"),
    );
}

/// Year, month and day of a day after 1970-01-01 (Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}
