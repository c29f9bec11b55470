//! What is refused because two readers could take it differently, or because it is
//! more than the listener takes. None of it reaches an upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{World, always, config, echo, field, get};

/// Each of `requests` gets this status and this reason, closes the connection, and
/// is never seen by the upstream.
async fn refused(status: u16, reason: &str, requests: &[&str]) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let world = World::with(config(), move |conn| {
        counter.fetch_add(1, Ordering::SeqCst);
        echo(conn)
    })
    .await;
    for raw in requests {
        let mut client = world.connect().await;
        client.send(raw).await;
        let response = client.response().await;
        assert_eq!(response.status, status, "{raw:?}: {}", response.head);
        let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(problem["reason"], reason, "{raw:?}");
        assert_eq!(problem["blame"], "client", "{raw:?}");
        assert_eq!(problem["status"], status, "{raw:?}");
        assert_eq!(response.field("connection"), Some("close"), "{raw:?}");
        assert!(client.is_closed().await, "{raw:?}");
    }
    assert_eq!(
        seen.load(Ordering::SeqCst),
        0,
        "nothing reaches the upstream"
    );
}

/// A POST with these field lines and this body.
fn with(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

async fn malformed(requests: &[&str]) {
    refused(400, "malformed_request", requests).await;
}

#[tokio::test]
async fn both_length_headers_are_refused() {
    malformed(&[
        &with(
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        &with(
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "0\r\n\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn more_than_one_content_length_is_refused_alike_or_not() {
    malformed(&[
        &with("Content-Length: 4\r\nContent-Length: 5\r\n", "abcde"),
        &with("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"),
        &with("Content-Length: 4, 4\r\n", "abcd"),
    ])
    .await;
}

#[tokio::test]
async fn a_content_length_that_is_no_number_is_refused() {
    for length in [
        "+4",
        "-1",
        "0x4",
        "4 4",
        "",
        "99999999999999999999",
        "4\x0b",
    ] {
        malformed(&[&with(&format!("Content-Length: {length}\r\n"), "abcd")]).await;
    }
}

#[tokio::test]
async fn a_transfer_encoding_other_than_chunked_is_refused() {
    for coding in [
        "gzip",
        "chunked, chunked",
        "chunked, gzip",
        "identity",
        "xchunked",
        "",
    ] {
        malformed(&[&with(
            &format!("Transfer-Encoding: {coding}\r\n"),
            "0\r\n\r\n",
        )])
        .await;
    }
    malformed(&["POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]).await;
}

#[tokio::test]
async fn folded_lines_are_refused() {
    malformed(&[
        &with("X-A: b\r\n c\r\n", ""),
        &with("X-A: b\r\n\tc\r\n", ""),
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn bare_line_ends_are_refused() {
    malformed(&[
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX-A: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
    ])
    .await;
}

#[tokio::test]
async fn space_before_a_colon_is_refused() {
    malformed(&[
        &with("Content-Length : 4\r\n", "abcd"),
        &with("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"),
        &with(": b\r\n", ""),
        &with("X-A\r\n", ""),
    ])
    .await;
}

#[tokio::test]
async fn control_characters_in_a_value_are_refused() {
    malformed(&[&with("X-A: b\0c\r\n", ""), &with("X-A: b\x7fc\r\n", "")]).await;
}

#[tokio::test]
async fn a_malformed_request_line_is_refused() {
    malformed(&[
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET users HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn http_0_9_is_refused_at_once() {
    malformed(&["GET /\r\n", "GET / \r\n"]).await;
}

#[tokio::test]
async fn other_versions_are_refused_by_name() {
    refused(
        505,
        "http_version",
        &[
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn connect_is_refused() {
    refused(
        501,
        "connect_method",
        &["CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"],
    )
    .await;
}

#[tokio::test]
async fn a_host_must_be_there_once_and_be_a_host() {
    malformed(&[
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn malformed_chunks_are_refused() {
    let chunked = |body: &str| with("Transfer-Encoding: chunked\r\n", body);
    refused(
        400,
        "malformed_body",
        &[
            &chunked("x\r\n"),
            &chunked("0x3\r\nabc\r\n0\r\n\r\n"),
            &chunked("-3\r\nabc\r\n0\r\n\r\n"),
            &chunked("\r\nabc"),
            &chunked("3\nabc\r\n0\r\n\r\n"),
            &chunked("3 \r\nabc\r\n0\r\n\r\n"),
            &chunked("ffffffffffffffff\r\nabc"),
            &chunked("3;=b\r\nabc\r\n0\r\n\r\n"),
            &chunked("3;a=\"b\r\nabc\r\n0\r\n\r\n"),
            &chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(300))),
            &chunked("0\r\nX A: b\r\n\r\n"),
            &chunked("0\r\nno colon\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_chunk_that_is_malformed_after_a_good_one_is_refused() {
    let world = World::with(config(), echo).await;
    for body in [
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r\nzz\r\n",
    ] {
        let response = world
            .ask(&with("Transfer-Encoding: chunked\r\n", body))
            .await;
        assert_eq!(response.status, 400, "{body:?}");
        assert!(response.text().contains("malformed_body"), "{body:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_its_largest_field_named() {
    let mut config = config();
    config.limits.head_bytes_max = 4096;
    let world = World::with(config, echo).await;
    let large = format!("X-Large: {}\r\nX-Small: b\r\n", "a".repeat(4096));
    let response = world.ask(&get("/", &large)).await;
    assert_eq!(response.status, 431);
    assert!(response.text().contains("`X-Large`"), "{}", response.text());
    // Also while the head has not ended yet.
    let endless = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-Endless: {}",
        "a".repeat(5000)
    );
    let response = world.ask(&endless).await;
    assert_eq!(response.status, 431);
    assert!(response.text().contains("`X-Endless`"));
    let response = world
        .ask(&get("/", &format!("X-Fits: {}\r\n", "a".repeat(3900))))
        .await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn a_target_that_is_too_long_is_refused() {
    let mut config = config();
    config.limits.head_bytes_max = 4096;
    let world = World::with(config, echo).await;
    let response = world.ask(&get(&format!("/{}", "a".repeat(3000)), "")).await;
    assert_eq!(response.status, 414);
    let response = world.ask(&format!("GET /{}", "a".repeat(5000))).await;
    assert_eq!(response.status, 414);
}

#[tokio::test]
async fn too_many_fields_are_refused() {
    let mut config = config();
    config.limits.header_count_max = 70;
    let world = World::with(config, echo).await;
    let response = world.ask(&get("/", &"X-A: b\r\n".repeat(69))).await;
    assert_eq!(response.status, 200);
    let response = world.ask(&get("/", &"X-A: b\r\n".repeat(70))).await;
    assert_eq!(response.status, 431);
    assert!(response.text().contains("71 fields"), "{}", response.text());
}

#[tokio::test]
async fn a_body_over_the_routes_limit_is_refused_however_it_is_framed() {
    let mut config = config();
    config.routes[0].body_bytes_max = Some(10);
    let world = World::with(config, echo).await;
    let response = world
        .ask(&with("Content-Length: 10\r\n", "0123456789"))
        .await;
    assert_eq!(response.status, 200);
    // Announced: refused before a byte of it came.
    let response = world.ask(&with("Content-Length: 11\r\n", "")).await;
    assert_eq!(response.status, 413);
    let body = "6\r\n012345\r\n6\r\n678901\r\n0\r\n\r\n";
    let response = world
        .ask(&with("Transfer-Encoding: chunked\r\n", body))
        .await;
    assert_eq!(response.status, 413);
    assert!(response.text().contains("at most 10 bytes"));
}

#[tokio::test]
async fn what_follows_a_refused_request_is_never_served() {
    let world = World::with(config(), echo).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = world.connect().await;
    client
        .send(with(
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            &format!("0\r\n\r\n{smuggled}"),
        ))
        .await;
    assert_eq!(client.response().await.status, 400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_refusal_says_nothing_of_the_request_before() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    let before = "HEAD /before HTTP/1.1\r\nHost: a\r\nX-Request-Id: before\r\n\r\n";
    client.send(format!("{before}GET /after\r\n")).await;
    let response = client.response_to("HEAD").await;
    assert_eq!(response.field("x-request-id"), Some("before"));
    let refusal = client.response().await;
    assert_eq!(refusal.status, 400);
    assert_ne!(refusal.field("x-request-id"), Some("before"));
    // HEAD was the request before: this one has a body.
    assert!(refusal.text().contains("malformed_request"));
    assert!(!refusal.text().contains("/before"));
}

#[tokio::test]
async fn responses_that_could_be_taken_differently_are_not_passed_on() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
    ] {
        let world = World::with(config(), always(response)).await;
        let answer = world.ask(&get("/", "")).await;
        assert_eq!(answer.status, 502, "{response:?}");
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["reason"], "upstream_malformed", "{response:?}");
        assert_eq!(problem["blame"], "upstream", "{response:?}");
    }
}

#[tokio::test]
async fn bytes_after_a_response_never_reach_the_next_client() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\
                    Content-Length: 6\r\n\r\npoison";
    let world = World::with(config(), always(response)).await;
    for _ in 0..5 {
        let answer = world.ask(&get("/", "")).await;
        assert_eq!(answer.text(), "ok");
        assert_eq!(field(&answer.head, "content-length"), Some("2"));
    }
}
