//! Answers compressed for those who take that (RFC 9110 §8.4.1.3), as Consul does.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;

/// Less is in one packet anyway.
const BYTES_MIN: usize = 1024;
/// Compressing more would keep other clients waiting for tens of milliseconds.
const BYTES_MAX: usize = 4 << 20;

/// Whether a client takes gzip.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        // A weight of 0 is a refusal (RFC 9110 §12.4.2).
        let refused = weight
            .trim()
            .parse::<f32>()
            .is_ok_and(|weight| weight <= 0.0);
        matches!(name.trim(), "gzip" | "x-gzip" | "*") && !refused
    })
}

/// `response` compressed, when that is worth it.
pub(crate) async fn packed(response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if !(BYTES_MIN..=BYTES_MAX).contains(&bytes) {
        return response;
    }
    let (mut head, mut body) = response.into_parts();
    // It is one frame, and in memory.
    let frame = body.frame().await;
    let frame = frame.and_then(|frame| frame.ok()?.into_data().ok());
    let whole = frame.unwrap_or_default();
    let Some(zipped) = zipped(&whole) else {
        return Response::from_parts(head, Full::new(whole));
    };
    let gzip = HeaderValue::from_static("gzip");
    head.headers.insert(CONTENT_ENCODING, gzip);
    let vary = HeaderValue::from_static("Accept-Encoding");
    head.headers.insert(VARY, vary);
    Response::from_parts(head, Full::new(zipped))
}

fn zipped(bytes: &[u8]) -> Option<Bytes> {
    let room = Vec::with_capacity(bytes.len() / 4);
    let mut encoder = GzEncoder::new(room, Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn gzip_is_for_those_who_name_it() {
        let takes = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            accepted(&[(ACCEPT_ENCODING, value)].into_iter().collect())
        };
        for value in [
            "gzip",
            "gzip, deflate, br",
            "deflate;q=0.5, gzip;q=0.1",
            "*",
            "x-gzip",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "br, gzip; q=0.000", "zip"] {
            assert!(!takes(value), "{value}");
        }
        assert!(!accepted(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn short_answers_stay_and_long_ones_are_undone_by_gunzip() {
        for (bytes, packs) in [
            (0, false),
            (1023, false),
            (1024, true),
            ((4 << 20) + 1, false),
        ] {
            let plain = "a".repeat(bytes);
            let response = packed(Response::new(Full::new(plain.clone().into()))).await;
            let gzip = response.headers().get(CONTENT_ENCODING).is_some();
            assert_eq!(gzip, packs, "{bytes}");
            let whole = response.into_body().frame().await;
            let whole = whole.map(|frame| frame.unwrap().into_data().unwrap());
            let whole = whole.unwrap_or_default();
            let mut text = String::new();
            match packs {
                true => GzDecoder::new(&whole[..])
                    .read_to_string(&mut text)
                    .map(drop)
                    .unwrap(),
                false => text.push_str(std::str::from_utf8(&whole).unwrap()),
            }
            assert!(text == plain, "{bytes}");
        }
    }
}
