//! Bodies: how they are framed on both sides, and that large ones pass without
//! being held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{Conn, World, always, config, eventually, field, get};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n";
    let world = World::with(config(), always(response)).await;
    let mut client = world.connect().await;
    for _ in 0..3 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let response = client.response_to("HEAD").await;
        assert_eq!(response.field("content-length"), Some("1234"));
    }
}

#[tokio::test]
async fn statuses_without_a_body_have_none() {
    for (response, length) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", None),
        (
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\n\r\n",
            Some("9"),
        ),
    ] {
        let world = World::with(config(), always(response)).await;
        let mut client = world.connect().await;
        for _ in 0..2 {
            client.send(get("/", "")).await;
            let answer = client.response().await;
            assert_eq!(answer.field("content-length"), length, "{}", answer.head);
            assert_eq!(answer.field("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_is_framed_anew() {
    let serve = |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.send(get("/", "")).await;
        let response = client.response().await;
        assert_eq!(response.field("transfer-encoding"), Some("chunked"));
        assert_eq!(response.text(), "until the end");
    }
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let world = World::with(config(), always(response)).await;
    let mut client = world.connect().await;
    client
        .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(field(&head, "transfer-encoding"), None);
    assert_eq!(field(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await, b"hello");
}

#[tokio::test]
async fn a_cut_off_response_is_cut_off_for_the_client_too() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let serve = move |mut conn: Conn| async move {
            conn.head().await;
            conn.send(response).await;
        };
        let world = World::with(config(), serve).await;
        let mut client = world.connect().await;
        client.send(get("/", "")).await;
        let head = client.head().await.unwrap();
        let rest = String::from_utf8(client.rest().await).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "));
        assert!(
            rest.contains("half") && !rest.contains("0\r\n\r\n"),
            "{rest:?}"
        );
    }
}

#[tokio::test]
async fn a_response_cut_off_after_its_head_is_never_an_empty_reply() {
    let serve = |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
            .await;
    };
    let world = World::with(config(), serve).await;
    for _ in 0..50 {
        let mut client = world.connect().await;
        client.send(get("/", "Connection: close\r\n")).await;
        let head = client.head().await.expect("a head, whichever");
        let rest = client.rest().await;
        // As the end was seen before or after the head was passed on.
        if head.starts_with("HTTP/1.1 200 ") {
            assert!(rest.is_empty());
        } else {
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            assert!(String::from_utf8(rest).unwrap().contains("upstream_closed"));
        }
    }
}

#[tokio::test]
async fn interim_responses_pass() {
    let response = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
                    HTTP/1.1 102 Processing\r\nConnection: x\r\n\r\n\
                    HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let world = World::with(config(), always(response)).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.send(get("/", "")).await;
        let hints = client.response().await;
        assert_eq!(hints.status, 103);
        assert_eq!(hints.field("link"), Some("</a.css>; rel=preload"));
        let processing = client.response().await;
        assert_eq!(
            (processing.status, processing.field("connection")),
            (102, None)
        );
        assert_eq!(client.response().await.text(), "ok");
    }
    // HTTP/1.0 has none.
    let response = world.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status, response.text()), (200, "ok"));
}

const EXPECT: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[tokio::test]
async fn a_body_is_sent_when_the_upstream_says_continue() {
    let serve = |mut conn: Conn| async move {
        while let Some(head) = conn.head().await {
            assert_eq!(field(&head, "expect"), Some("100-continue"));
            conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = conn.body(&head).await;
            assert_eq!(body, b"hello");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.send(EXPECT).await;
        assert_eq!(client.response().await.status, 100);
        client.send("hello").await;
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, "ok"));
        assert_eq!(response.field("connection"), None, "it stays open");
    }
}

#[tokio::test]
async fn a_final_answer_instead_of_continue_passes_at_once() {
    let serve = |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
            .await;
        conn.rest().await;
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    client.send(EXPECT).await;
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (417, "no"));
    // Whether the body follows cannot be told, so that nothing else may.
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_upstream_that_never_says_continue_is_to_blame() {
    let mut config = config();
    config.routes[0].timeouts.response_head = Duration::from_millis(50);
    let world = World::with(config, |mut conn: Conn| async move {
        conn.rest().await;
    })
    .await;
    let response = world.ask(EXPECT).await;
    assert_eq!(response.status, 504);
    assert!(response.text().contains("\"blame\":\"upstream\""));
}

#[tokio::test]
async fn after_continue_it_is_the_client_that_is_waited_for() {
    let mut config = config();
    config.routes[0].timeouts.response_head = Duration::from_millis(100);
    config.limits.body_progress_timeout = Duration::from_millis(400);
    let world = World::with(config, |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        conn.rest().await;
    })
    .await;
    let mut client = world.connect().await;
    client.send(EXPECT).await;
    assert_eq!(client.response().await.status, 100);
    let response = client.response().await;
    assert_eq!(response.status, 408);
    assert!(response.text().contains("\"blame\":\"client\""));
}

#[tokio::test]
async fn a_response_may_overtake_the_request() {
    let serve = |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno")
            .await;
        conn.rest().await;
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst")
        .await;
    let response = client.response().await;
    assert_eq!((response.status, response.text()), (413, "no"));
    assert!(
        client.is_closed().await,
        "what is left of the body is not a request"
    );
}

#[tokio::test]
async fn trailers_of_a_request_pass_unless_they_frame_route_or_authenticate() {
    let serve = |mut conn: Conn| async move {
        conn.head().await;
        let (body, trailers) = conn.chunks().await;
        assert_eq!(body, b"hello");
        let length = trailers.len();
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{trailers}"
        ))
        .await;
    };
    let world = World::with(config(), serve).await;
    let raw = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
               5\r\nhello\r\n0\r\nX-Sum: 1\r\nAuthorization: x\r\nHost: evil\r\n\
               Content-Length: 9\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n";
    assert_eq!(world.ask(raw).await.text(), "X-Sum: 1\r\n");
}

#[tokio::test]
async fn chunks_arrive_as_they_are_sent_not_when_all_are_there() {
    let serve = |mut conn: Conn| async move {
        let head = conn.head().await.unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        loop {
            let size = conn.line().await;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let piece = conn.take(size + 2).await;
            conn.send(format!("{size:x}\r\n")).await;
            conn.send(piece).await;
            if size == 0 {
                return;
            }
        }
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "the head does not wait for the body"
    );
    for word in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{word}\r\n", word.len())).await;
        assert_eq!(client.line().await, format!("{:x}\r\n", word.len()));
        assert_eq!(
            client.take(word.len() + 2).await,
            format!("{word}\r\n").as_bytes()
        );
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.take(5).await, b"0\r\n\r\n");
}

/// Bytes of `count`, each piece different from the one before.
async fn send_many(conn: &mut Conn, count: usize, sent: &AtomicU64) {
    let mut piece = vec![0_u8; 64 * 1024];
    for number in 0..count / piece.len() {
        piece[..8].copy_from_slice(&(number as u64).to_be_bytes());
        if conn.try_send(&piece).await.is_err() {
            return;
        }
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}

/// Reads what [`send_many`] sends; `ahead` is the most that was sent and not read.
async fn take_many(conn: &mut Conn, count: usize, sent: &AtomicU64) -> u64 {
    let (mut read, mut ahead) = (0, 0);
    for number in 0..count / (64 * 1024) {
        ahead = ahead.max(sent.load(Ordering::SeqCst).saturating_sub(read));
        let piece = conn.take(64 * 1024).await;
        assert_eq!(piece[..8], (number as u64).to_be_bytes());
        read += piece.len() as u64;
    }
    ahead
}

/// What kernels hold of four sockets (some MiB each), and the gateway's buffer; far
/// less than the body.
const AHEAD_MAX: u64 = 48 * MIB as u64;
const LARGE: usize = 256 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_passes_without_being_held() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let world = World::with(config(), move |mut conn: Conn| {
        let sent = Arc::clone(&counter);
        async move {
            conn.head().await;
            let ahead = take_many(&mut conn, LARGE, &sent).await;
            let body = ahead.to_string();
            let length = body.len();
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client
        .send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
        ))
        .await;
    send_many(&mut client, LARGE, &sent).await;
    let ahead: u64 = client.response().await.text().parse().unwrap();
    assert!(ahead < AHEAD_MAX, "{ahead} bytes were on their way at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_download_passes_without_being_held() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let world = World::with(config(), move |mut conn: Conn| {
        let sent = Arc::clone(&counter);
        async move {
            conn.head().await;
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ))
            .await;
            send_many(&mut conn, LARGE, &sent).await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    client.head().await.unwrap();
    let ahead = take_many(&mut client, LARGE, &sent).await;
    assert!(ahead < AHEAD_MAX, "{ahead} bytes were on their way at once");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let world = World::with(config(), move |mut conn: Conn| {
        let sent = Arc::clone(&counter);
        async move {
            conn.head().await;
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ))
            .await;
            send_many(&mut conn, LARGE, &sent).await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    client.head().await.unwrap();
    // It has stopped when it has not moved for twenty looks.
    let (mut last, mut still) = (0, 0);
    eventually("the upstream is stopped", || {
        let now = sent.load(Ordering::SeqCst);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still > 20 && now > 0
    })
    .await;
    assert!(
        last < AHEAD_MAX,
        "{last} bytes were taken of nobody's reading"
    );
}

#[tokio::test]
async fn an_upstream_that_closes_while_the_body_comes_may_have_answered() {
    let serve = |mut conn: Conn| async move {
        let head = conn.head().await.unwrap();
        conn.take(10).await;
        assert!(field(&head, "content-length").is_some());
        conn.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
            .await;
        conn.rest().await;
    };
    let world = World::with(config(), serve).await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789")
        .await;
    assert_eq!(client.response().await.status, 403);
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_cuts_the_upstream_off() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let world = World::with(config(), move |mut conn: Conn| {
        let tell = tell.clone();
        async move {
            let head = conn.head().await.unwrap();
            let body = conn.body(&head).await;
            tell.send((body.len(), conn.is_closed().await))
                .await
                .unwrap();
        }
    })
    .await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789")
        .await;
    drop(client);
    assert_eq!(told.recv().await, Some((10, true)));
    eventually("it is counted", || {
        world.metric("atoll_gateway_requests_total{route=\"all\",class=\"4xx\",status=\"499\"}")
            == 1
    })
    .await;
}
