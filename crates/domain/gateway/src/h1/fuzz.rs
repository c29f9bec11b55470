//! The door through which a fuzzer hands in strangers' bytes.

use super::request::RequestHead;
use super::scan::{Kind, Scan};
use super::{HeadLimits, Refusal, Version};

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 16 * 1024,
    fields_max: 100,
};

/// Reads `bytes` as the beginning of a connection and asserts what must hold
/// whatever they are: it does not panic; what is accepted reads the same when it
/// is written out again; and it makes no difference how the bytes were split.
///
/// # Panics
/// When one of these does not hold: a defect.
pub fn fuzz_request_head(bytes: &[u8]) {
    let whole = read(bytes, std::iter::once(bytes.len()));
    let dripped = read(bytes, 1..=bytes.len());
    assert_same(&whole, &dripped);
    if bytes.len() <= 256 {
        for split in 1..bytes.len() {
            let halves = read(bytes, [split, bytes.len()].into_iter());
            assert_same(&whole, &halves);
        }
    }
    if let Ok(Some(head)) = &whole {
        let written = write(head);
        let again = read(&written, std::iter::once(written.len()));
        match again {
            Ok(Some(again)) => assert_eq!(meaning(head), meaning(&again)),
            other => panic!("what was accepted is refused when written out: {other:?}"),
        }
    }
}

fn read(
    bytes: &[u8],
    arrivals: impl Iterator<Item = usize>,
) -> Result<Option<RequestHead>, Refusal> {
    let mut scan = Scan::default();
    for len in arrivals {
        if let Some(found) = scan.advance(Kind::Request, &bytes[..len], LIMITS)? {
            let mut head = RequestHead::default();
            head.parse(&bytes[found.start..found.end], LIMITS)?;
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn assert_same(a: &Result<Option<RequestHead>, Refusal>, b: &Result<Option<RequestHead>, Refusal>) {
    match (a, b) {
        (Ok(Some(a)), Ok(Some(b))) => assert_eq!(meaning(a), meaning(b)),
        (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
        _ => panic!("the split matters: {a:?} and {b:?}"),
    }
}

/// What a head means, as far as the rest of the gateway can see.
fn meaning(head: &RequestHead) -> impl PartialEq + std::fmt::Debug {
    let fields: Vec<(Vec<u8>, Vec<u8>)> = head
        .fields
        .iter()
        .filter(|field| field.kind != super::field::Known::Host)
        .map(|field| {
            (
                field.name.of(&head.bytes).to_vec(),
                field.value.of(&head.bytes).to_vec(),
            )
        })
        .collect();
    (
        (head.method.clone(), head.version, head.framing),
        (head.path().to_owned(), head.query().map(str::to_owned)),
        (head.authority().to_owned(), head.host().to_owned()),
        (head.options, head.expects_continue, head.takes_trailers),
        fields,
    )
}

fn write(head: &RequestHead) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.of(&head.bytes));
    out.extend_from_slice(match head.version {
        Version::Http10 => b" HTTP/1.0\r\n",
        Version::Http11 | Version::Http2 => b" HTTP/1.1\r\n",
    });
    if !head.authority().is_empty() {
        out.extend_from_slice(b"Host: ");
        out.extend_from_slice(head.authority().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for field in &head.fields {
        if field.kind == super::field::Known::Host {
            continue;
        }
        out.extend_from_slice(field.name.of(&head.bytes));
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value.of(&head.bytes));
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}
