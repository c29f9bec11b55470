//! How Consul writes things (reference: Consul's API documentation, "Features"):
//! keys without case, Go's durations, base64, the query string, and answers.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};

/// Why a request is refused: Consul answers with a status and plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }

    /// 400 with a text.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// What Consul has and we do not; SPEC.md says why.
    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        let text = format!("{what} is not supported by Atoll; see SPEC.md of its Consul front");
        Self::new(StatusCode::NOT_IMPLEMENTED, text)
    }

    /// The same with the reason.
    pub(crate) fn because(what: impl std::fmt::Display, why: &str) -> Self {
        let text = format!("{what} is not supported by Atoll: {why}");
        Self::new(StatusCode::NOT_IMPLEMENTED, text)
    }
}

/// What an endpoint answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// 200 without a body, as many of the agent's endpoints.
    Nothing,
    /// 404 without a body, as an absent key.
    Absent,
    /// JSON with a status.
    Json(StatusCode, Value),
    /// JSON that is written already.
    Written(Bytes),
    /// Plain text with a status.
    Text(StatusCode, String),
    /// The bytes of a key, which no browser may take for a page.
    Raw(Bytes),
}

impl Reply {
    pub(crate) fn json(value: impl Into<Value>) -> Self {
        Self::Json(StatusCode::OK, value.into())
    }

    pub(crate) fn into_response(self, pretty: bool) -> Response<Full<Bytes>> {
        let (status, kind, body) = match self {
            Self::Nothing => (StatusCode::OK, None, Bytes::new()),
            Self::Absent => (StatusCode::NOT_FOUND, None, Bytes::new()),
            Self::Json(status, value) => (
                status,
                Some("application/json"),
                json(&value, pretty).into(),
            ),
            Self::Written(bytes) => (StatusCode::OK, Some("application/json"), bytes),
            Self::Text(status, text) => (
                status,
                Some("text/plain; charset=utf-8"),
                text.into_bytes().into(),
            ),
            Self::Raw(bytes) => (StatusCode::OK, Some("text/plain"), bytes),
        };
        let raw = kind == Some("text/plain");
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if raw {
            let nosniff = HeaderValue::from_static("nosniff");
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
            let sandbox = HeaderValue::from_static("sandbox");
            headers.insert(header::CONTENT_SECURITY_POLICY, sandbox);
        }
        response
    }
}

pub(crate) fn json(value: &Value, pretty: bool) -> Vec<u8> {
    if !pretty {
        return value.to_string().into_bytes();
    }
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
    // Writing a value to memory cannot fail.
    drop(serde::Serialize::serialize(value, &mut writer));
    text.push(b'\n');
    text
}

/// A JSON object whose keys are matched as Consul does: without case, and with `_`
/// as py-consul writes them (`CheckID`, `checkid`, `check_id`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// The object in a request's body; an empty body is an empty object.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, Refusal> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::bad(format!("Request decode failed: {error}")))?;
        Self::of(value, "the body")
    }

    /// The object that `value` is; `what` is what an error calls it.
    pub(crate) fn of(value: Value, what: &str) -> Result<Self, Refusal> {
        match value {
            Value::Object(map) => {
                let folded = map.into_iter().map(|(key, value)| (fold(&key), value));
                Ok(Self(folded.collect()))
            }
            Value::Null => Ok(Self::default()),
            _ => Err(mistyped(what, "an object")),
        }
    }

    /// The value as it came, unless absent or null.
    pub(crate) fn raw(&self, key: &str) -> Option<&Value> {
        debug_assert_eq!(key, fold(key), "asked for as folded");
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even if null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<String, Refusal> {
        match self.raw(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(mistyped(key, "a string")),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, Refusal> {
        match self.raw(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(mistyped(key, "a boolean")),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, Refusal> {
        match self.raw(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(mistyped(key, "a number that is not negative")),
            },
        }
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, Refusal> {
        let Some(value) = self.raw(key) else {
            return Ok(Vec::new());
        };
        let wrong = || mistyped(key, "a list of strings");
        let list = value.as_array().ok_or_else(wrong)?;
        let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
        texts.collect::<Option<_>>().ok_or_else(wrong)
    }

    /// A map whose keys are the user's own.
    pub(crate) fn pairs(&self, key: &str) -> Result<Vec<(String, String)>, Refusal> {
        let Some(value) = self.raw(key) else {
            return Ok(Vec::new());
        };
        let wrong = || mistyped(key, "a map of strings");
        let map = value.as_object().ok_or_else(wrong)?;
        let pairs = map
            .iter()
            .map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        pairs.collect::<Option<_>>().ok_or_else(wrong)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, Refusal> {
        match self.raw(key) {
            None => Ok(None),
            Some(value) => Self::of(value.clone(), key).map(Some),
        }
    }

    pub(crate) fn objects(&self, key: &str) -> Result<Vec<Self>, Refusal> {
        match self.raw(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let objects = list.iter().filter(|value| !value.is_null());
                objects.map(|value| Self::of(value.clone(), key)).collect()
            }
            Some(_) => Err(mistyped(key, "a list of objects")),
        }
    }

    /// A Go duration, or nanoseconds as a number; `None` when absent or empty.
    pub(crate) fn duration(&self, key: &str) -> Result<Option<Duration>, Refusal> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => match duration(text) {
                Some(duration) => Ok(Some(duration)),
                None => Err(mistyped(key, "a duration like 10s")),
            },
            Some(value) => match value.as_u64() {
                Some(nanos) => Ok(Some(Duration::from_nanos(nanos))),
                None => Err(mistyped(key, "a duration like 10s")),
            },
        }
    }
}

fn fold(key: &str) -> String {
    let kept = key.chars().filter(|character| *character != '_');
    kept.map(|character| character.to_ascii_lowercase())
        .collect()
}

fn mistyped(key: &str, wanted: &str) -> Refusal {
    Refusal::bad(format!("Request decode failed: '{key}' must be {wanted}"))
}

/// Reads a duration as Go's `time.ParseDuration` does; negative ones are refused.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = rest.split_at(end.unwrap_or(rest.len()));
        total += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = after;
    }
    (!text.is_empty())
        .then(|| Duration::try_from_secs_f64(total).ok())
        .flatten()
}

/// Writes a duration as Go's `Duration.String` does, down to milliseconds.
pub(crate) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return if millis == 0 {
            "0s".to_owned()
        } else {
            format!("{millis}ms")
        };
    }
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let fraction = format!("{rest:03}");
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{dot}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{dot}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{dot}{fraction}s"),
    }
}

/// The query string, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |raw| String::from_utf8_lossy(&percent_decoded(raw, true)).into_owned();
            (text(key), text(value))
        });
        Self(pairs.collect())
    }

    /// Whether a flag is there: `?stale`, `?stale=1` and `?stale=` are alike.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// All of it but what says how long to wait, in which form to answer, and who asks:
    /// those who say the same are answered the same.
    pub(crate) fn question(&self) -> String {
        let told = |key: &str| !matches!(key, "index" | "wait" | "hash" | "token");
        let pairs = self.0.iter().filter(|(key, _)| told(key));
        let pairs = pairs.map(|(key, value)| format!("&{key:?}={value:?}"));
        pairs.collect()
    }

    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        let pairs = self.0.iter().filter(move |(name, _)| name == key);
        pairs.map(|(_, value)| &value[..])
    }
}

/// Undoes percent-encoding; what is not encoded well stands for itself.
pub(crate) fn percent_decoded(raw: &str, plus_is_space: bool) -> Vec<u8> {
    let mut bytes = raw.bytes();
    let mut decoded = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match byte {
            b'+' if plus_is_space => decoded.push(b' '),
            b'%' => match (hex(ahead.next()), hex(ahead.next())) {
                (Some(high), Some(low)) => {
                    decoded.push((high * 16 + low) as u8);
                    bytes = ahead;
                }
                _ => decoded.push(b'%'),
            },
            _ => decoded.push(byte),
        }
    }
    decoded
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 §4).
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= group.len() {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Undoes [`base64`]; `None` when it is none.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let text = text
        .strip_suffix("==")
        .or(text.strip_suffix('='))
        .unwrap_or(text);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for character in text.bytes() {
        let six = ALPHABET.iter().position(|known| *known == character)?;
        bits = bits << 6 | six as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("2h0m0.25s", 7_200_250),
            ("250ms", 250),
            ("0", 0),
            ("0s", 0),
        ] {
            let read = duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(millis), "{text}");
            assert_eq!(duration(&go_duration(read)), Some(read), "{text}");
        }
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "1d",
            "1s2",
            "1e3s",
            "999999999999999999999h",
        ] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(go_duration(Duration::from_millis(90_500)), "1m30.5s");
    }

    #[test]
    fn keys_are_found_in_every_spelling_and_types_are_checked() {
        let body = br#"{"CheckID":"a","lock_delay":"20s","lockDelay2":5,"TAGS":["x"],"n":1.5}"#;
        let fields = Fields::of_body(body).unwrap();
        assert_eq!(fields.text("checkid").unwrap(), "a");
        let delay = fields.duration("lockdelay").unwrap();
        assert_eq!(delay, Some(Duration::from_secs(20)));
        assert_eq!(fields.texts("tags").unwrap(), ["x"]);
        assert!(fields.text("tags").is_err());
        assert!(fields.number("n").is_err());
        assert_eq!(Fields::of_body(b" ").unwrap(), Fields::default());
        assert!(Fields::of_body(b"[]").is_err());
        assert!(Fields::of_body(b"{").is_err());
    }

    #[test]
    fn a_query_is_decoded_and_flags_need_no_value() {
        let query = Query::parse("stale&tag=a%2Fb&tag=c+d&wait=5s&x=%zz");
        assert!(query.has("stale"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert_eq!(query.get("x"), Some("%zz"));
        assert!(!query.has("consistent"));
    }

    proptest! {
        #[test]
        fn base64_is_undone(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }

        #[test]
        fn nothing_that_is_sent_makes_reading_panic(text in ".*") {
            duration(&text);
            from_base64(&text);
            Query::parse(&text);
            drop(Fields::of_body(text.as_bytes()));
        }
    }
}
