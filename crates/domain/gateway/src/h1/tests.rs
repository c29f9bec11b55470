//! The codec against heads and bodies that others have got wrong.

use super::body::Body;
use super::chunked::Chunked;
use super::request::RequestHead;
use super::response::ResponseHead;
use super::scan::{Kind, Scan};
use super::{Framing, HeadLimits, Refusal, fuzz_request_head};
use crate::buffer::Buffers;

const LIMITS: HeadLimits = HeadLimits {
    bytes_max: 4096,
    fields_max: 80,
};

fn request(raw: &str) -> Result<RequestHead, Refusal> {
    let found = Scan::default()
        .advance(Kind::Request, raw.as_bytes(), LIMITS)?
        .unwrap_or_else(|| panic!("no end of head in {raw:?}"));
    let mut head = RequestHead::default();
    head.parse(&raw.as_bytes()[found.start..found.end], LIMITS)?;
    Ok(head)
}

fn response(raw: &str) -> Result<ResponseHead, Refusal> {
    let found = Scan::default()
        .advance(Kind::Response, raw.as_bytes(), LIMITS)?
        .unwrap_or_else(|| panic!("no end of head in {raw:?}"));
    let mut head = ResponseHead::default();
    head.parse(&raw.as_bytes()[found.start..found.end], &http::Method::GET)?;
    Ok(head)
}

#[track_caller]
fn malformed(raw: &str) {
    match request(raw) {
        Err(Refusal::Malformed(_)) => {}
        other => panic!("{raw:?} gave {other:?}"),
    }
}

/// A request with these field lines.
fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn framing_that_two_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding:\r\n",
    ] {
        malformed(&with(fields));
    }
    malformed("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn lines_and_fields_that_break_the_grammar_are_refused() {
    for fields in [
        "A: b\r\n folded\r\n",
        "A: b\r\n\tfolded\r\n",
        "A: b\n",
        "A: b\nC: d\r\n",
        "A: b\rC: d\r\n",
        "A : b\r\n",
        "A\t: b\r\n",
        " A: b\r\n",
        ": b\r\n",
        "A\r\n",
        "A b: c\r\n",
        "A(b): c\r\n",
        "\u{e4}: c\r\n",
        "A: b\0c\r\n",
        "A: b\u{1}c\r\n",
        "A: b\u{7f}c\r\n",
    ] {
        malformed(&with(fields));
    }
}

#[test]
fn request_lines_that_break_the_grammar_are_refused() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTQ/1.1",
        "G(T / HTTP/1.1",
        "GET a HTTP/1.1",
        "GET a.example:80 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
        "GET /a\u{1}b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "GET http://user@a/ HTTP/1.1",
    ] {
        malformed(&format!("{line}\r\nHost: a\r\n\r\n"));
    }
    assert_eq!(
        request("GET / HTTP/2.0\r\nHost: a\r\n\r\n").unwrap_err(),
        Refusal::Version
    );
    assert_eq!(
        request("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err(),
        Refusal::Connect
    );
}

#[test]
fn hosts_must_be_there_once_and_be_hosts() {
    malformed("GET / HTTP/1.1\r\n\r\n");
    malformed("GET http://a/ HTTP/1.1\r\n\r\n");
    for host in [
        "", "a b", "a, b", "a/b", "a@b", "a:b", "a:99999", "a:1:2", "[::1", "::1", "[g]", "a?b",
        "\u{e4}",
    ] {
        malformed(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    malformed("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n");
    for (host, alone) in [
        ("a.example", "a.example"),
        ("a:80", "a"),
        ("[::1]:80", "[::1]"),
        ("a:", "a"),
    ] {
        let head = request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap();
        assert_eq!((head.authority(), head.host()), (host, alone));
    }
    assert!(request("GET / HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn the_absolute_form_gives_host_and_path() {
    let head = request("GET http://b.example:81/p?q=1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(head.authority(), "b.example:81");
    assert_eq!((head.path(), head.query()), ("/p", Some("q=1")));
    let head = request("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((head.path(), head.query()), ("/", Some("q")));
    let head = request("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((head.path(), head.query()), ("/", None));
}

#[test]
fn two_empty_lines_before_a_request_are_tolerated_and_three_are_not() {
    assert!(request("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    malformed("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    malformed("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn heads_beyond_the_limits_say_what_is_large() {
    let long = "x".repeat(5000);
    assert_eq!(
        request(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap_err(),
        Refusal::TargetTooLong
    );
    assert_eq!(
        request(&format!("GET / HTTP/1.1\r\nA: b\r\nCookie: {long}\r\n\r\n")).unwrap_err(),
        Refusal::HeadTooLarge("`Cookie` with 5009 bytes".to_owned())
    );
    let many = "A: b\r\n".repeat(81);
    match request(&with(&many)) {
        Err(Refusal::HeadTooLarge(what)) => assert!(what.starts_with("82 fields"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(request(&with(&"A: b\r\n".repeat(79))).is_ok());
}

#[test]
fn an_early_end_is_told_at_once() {
    // An HTTP/0.9 client sends no more than this line.
    let scan = |raw: &[u8]| Scan::default().advance(Kind::Request, raw, LIMITS);
    assert!(scan(b"GET /\r\n").is_err());
    assert!(scan(b"GET / HTTP/1.1\r\nHost: a\n").is_err());
    assert_eq!(scan(b"GET / HTTP/1.1\r\nHost"), Ok(None));
}

#[test]
fn responses_are_read_as_strictly() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "A : b\r\n",
        "A: b\r\n c\r\n",
        "A: b\n",
    ] {
        let raw = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        assert!(response(&raw).is_err(), "{raw:?}");
    }
    assert!(response("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    assert!(response("HTTP/1.1 20 OK\r\n\r\n").is_err());
    assert!(response("HTTP/1.1 999 OK\r\n\r\n").is_err());
    let head = response("HTTP/1.1 200\r\n\r\n").unwrap();
    assert_eq!((head.framing, head.keeps_alive), (Framing::Close, false));
}

/// Content and trailers of a chunked body that arrives in pieces of `step` bytes.
fn unchunk(raw: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let mut chunked = Chunked::default();
    let mut content = Vec::new();
    for piece in raw.chunks(step) {
        let mut bytes = piece.to_vec();
        let len = bytes.len();
        let done = chunked.decode(&mut bytes, 0, 0, len)?;
        content.extend_from_slice(&bytes[..done.produced]);
    }
    if chunked.is_done() {
        Ok((content, chunked.trailers().to_vec()))
    } else {
        Err("not done")
    }
}

#[test]
fn chunks_are_joined_however_they_arrive() {
    let raw = b"4\r\nWiki\r\n6;a=\"x\\\"y\";b\r\npedia \r\n0E\r\nin \r\n\r\nchunks.\r\n000\r\nA: b\r\n\r\n";
    for step in 1..raw.len() {
        let (content, trailers) = unchunk(raw, step).unwrap();
        assert_eq!(content, b"Wikipedia in \r\n\r\nchunks.");
        assert_eq!(trailers, b"A: b\r\n");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(400));
    let many_extensions = "1;abcdefgh\r\nx\r\n".repeat(4000);
    let long_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(2000));
    for raw in [
        "\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\rx\r\n0\r\n\r\n",
        "1;\r\nx\r\n0\r\n\r\n",
        "1;a=\r\nx\r\n0\r\n\r\n",
        "1;a\nx\r\n0\r\n\r\n",
        "1;a=\"b\r\nx\r\n0\r\n\r\n",
        "1 ;a\r\nx\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "0\r\nA\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\rc\r\n\r\n",
        "0\r\n\n",
        &long_extension,
        &many_extensions,
        &long_trailers,
    ] {
        for step in [1, 7, raw.len()] {
            assert!(unchunk(raw.as_bytes(), step).is_err(), "{raw:?}");
        }
    }
}

#[test]
fn a_short_body_can_be_sent_again_and_a_long_one_not() {
    let buffers = Buffers::default();
    for (length, again) in [(60_000, true), (200_000, false)] {
        let mut body = Body::default();
        body.begin(Framing::Length(length), None, 0, 0).unwrap();
        let mut seen = 0;
        while !body.is_read() {
            let room = body.room(|| buffers.lend());
            let count = room.len().min(20_000).min(length as usize - seen);
            room[..count].fill(b'x');
            body.filled(count).unwrap();
            seen += body.content().len();
            body.advance();
        }
        assert_eq!(seen, length as usize);
        assert_eq!(body.rewind(), again);
        assert_eq!(body.content().len(), if again { seen } else { 0 });
    }
}

/// Seeds shared with the fuzz target.
fn seeds() -> Vec<Vec<u8>> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../fuzz/corpus/request_head"
    );
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<_> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(seeds.len() >= 10, "the corpus is missing");
    seeds
}

#[test]
fn mutated_heads_keep_the_invariants() {
    let mut random = atoll_runtime::Random::from_seed(7);
    let seeds = seeds();
    let alphabet = b"\r\n\t :,;\0/?#*%\"aZ09-\x7f\xff";
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len());
            let byte = alphabet[random.below(alphabet.len())];
            match random.below(4) {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => {
                    let other = &seeds[random.below(seeds.len())];
                    let from = random.below(other.len());
                    let to = (from + random.below(30)).min(other.len());
                    bytes.splice(at..at, other[from..to].iter().copied());
                }
            }
            if bytes.is_empty() {
                bytes.push(b'\r');
            }
        }
        bytes.truncate(600);
        fuzz_request_head(&bytes);
    }
}
