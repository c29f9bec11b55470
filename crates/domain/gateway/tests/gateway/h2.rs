//! HTTP/2 clients with prior knowledge, over the same exchange.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use crate::harness::{Conn, World, always, config, echo, eventually, field, named};

type Sender = SendRequest<Parts>;

/// A body sent in pieces, with or without trailers.
struct Parts(mpsc::Receiver<Frame<Bytes>>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn body(frames: Vec<Frame<Bytes>>) -> Parts {
    let (sender, receiver) = mpsc::channel(frames.len().max(1));
    for frame in frames {
        sender.try_send(frame).unwrap();
    }
    Parts(receiver)
}

fn data(bytes: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes))
}

async fn connect(world: &World) -> Sender {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    drop(world.tasks.once("h2-client", connection));
    sender
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://shop.example{path}"))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

async fn read(response: http::Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    #[expect(clippy::disallowed_methods, reason = "it is limited")]
    let collected = Limited::new(body, 64 * 1024 * 1024)
        .collect()
        .await
        .unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
    }
}

async fn ask(sender: &mut Sender, request: Request<Parts>) -> Answer {
    sender.ready().await.unwrap();
    read(sender.send_request(request).await.unwrap()).await
}

async fn get(sender: &mut Sender, path: &str) -> Answer {
    ask(sender, request("GET", path).body(body(vec![])).unwrap()).await
}

#[tokio::test]
async fn a_get_reaches_the_upstream_as_http_1() {
    let world = World::with(config(), echo).await;
    let mut sender = connect(&world).await;
    let asked = request("GET", "/users/7?x=1")
        .header("x-mine", "1")
        .header("te", "trailers")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-request-id", "mine");
    let answer = ask(&mut sender, asked.body(body(vec![])).unwrap()).await;
    assert_eq!(answer.status, 200);
    let sent = answer.text();
    assert!(sent.starts_with("GET /users/7?x=1 HTTP/1.1\r\n"), "{sent}");
    for (name, value) in [
        ("host", "shop.example"),
        ("x-mine", "1"),
        ("via", "2.0 atoll"),
        ("cookie", "a=1; b=2"),
        ("te", "trailers"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-request-id", "mine"),
    ] {
        assert_eq!(field(sent, name), Some(value), "{name}");
    }
    assert_eq!(field(sent, "content-length"), None);
    assert_eq!(answer.headers["x-request-id"], "mine");
    assert_eq!(answer.headers["via"], "1.1 atoll");
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let serve = |mut conn: Conn| async move {
        while let Some(head) = conn.head().await {
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
            let (body, trailers) = conn.chunks().await;
            let size = body.len();
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
                .await;
            conn.send(format!("{size:x}\r\n")).await;
            conn.send(body).await;
            conn.send(format!("\r\n0\r\n{trailers}\r\n")).await;
        }
    };
    let world = World::with(config(), serve).await;
    let mut sender = connect(&world).await;
    for _ in 0..2 {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-sum"),
            http::HeaderValue::from_static("5"),
        )]);
        let frames = vec![data(b"hel"), data(b"lo"), Frame::trailers(trailers)];
        let answer = ask(
            &mut sender,
            request("POST", "/").body(body(frames)).unwrap(),
        )
        .await;
        assert_eq!(answer.text(), "hello");
        assert_eq!(answer.trailers["x-sum"], "5");
    }
}

#[tokio::test]
async fn a_body_of_known_length_keeps_it() {
    let world = World::with(config(), echo).await;
    let mut sender = connect(&world).await;
    let asked = request("POST", "/").header("content-length", "5");
    let answer = ask(&mut sender, asked.body(body(vec![data(b"hello")])).unwrap()).await;
    assert_eq!(field(answer.text(), "content-length"), Some("5"));
    assert!(answer.text().ends_with("\r\n\r\nhello"));
}

#[tokio::test]
async fn many_streams_are_served_at_once() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Notify::new());
    let (counter, wait) = (Arc::clone(&arrived), Arc::clone(&all));
    let world = World::with(config(), move |mut conn: Conn| {
        let (arrived, all) = (Arc::clone(&counter), Arc::clone(&wait));
        async move {
            while let Some(head) = conn.head().await {
                // Nobody is answered before all are there.
                let ready = all.notified();
                if arrived.fetch_add(1, Ordering::SeqCst) == 99 {
                    all.notify_waiters();
                } else {
                    ready.await;
                }
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let length = path.len();
                conn.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}"
                ))
                .await;
            }
        }
    })
    .await;
    let sender = connect(&world).await;
    let asks = (0..100).map(|number| {
        let mut sender = sender.clone();
        async move {
            let path = format!("/{number}");
            assert_eq!(get(&mut sender, &path).await.text(), path);
        }
    });
    futures_util::future::join_all(asks).await;
    assert_eq!(
        world.metric("atoll_gateway_connections_accepted_total{listener=\"test\"}"),
        1
    );
}

#[tokio::test]
async fn failures_are_told_as_over_http_1() {
    let world = World::start(config()).await;
    let mut sender = connect(&world).await;
    let answer = get(&mut sender, "/users/7").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert!(answer.text().contains("\"blame\":\"upstream\""));
    let mut limited = config();
    limited.routes[0].body_bytes_max = Some(3);
    world.gateway.publish(limited).await.unwrap();
    world.upstream("one", echo).await;
    let asked = request("POST", "/")
        .body(body(vec![data(b"hello")]))
        .unwrap();
    assert_eq!(ask(&mut sender, asked).await.status, 413);
    let connect = Request::builder().method("CONNECT").uri("shop.example:80");
    let refused = sender
        .send_request(connect.body(body(vec![])).unwrap())
        .await;
    assert!(refused.is_ok_and(|answer| answer.status() == 501));
    // The connection serves on.
    assert_eq!(get(&mut sender, "/").await.status, 200);
}

#[tokio::test]
async fn heads_are_limited() {
    let mut limited = config();
    limited.limits.header_count_max = 20;
    limited.limits.head_bytes_max = 8 * 1024;
    let world = World::with(limited, echo).await;
    let mut sender = connect(&world).await;
    let mut many = request("GET", "/");
    for number in 0..30 {
        many = many.header(format!("x-{number}"), "1");
    }
    let answer = ask(&mut sender, many.body(body(vec![])).unwrap()).await;
    assert_eq!(answer.status, 431);
    let large = request("GET", "/").header("x-large", "a".repeat(7 * 1024));
    assert_eq!(
        ask(&mut sender, large.body(body(vec![])).unwrap())
            .await
            .status,
        200
    );
    let large = request("GET", "/").header("x-large", "a".repeat(9 * 1024));
    let answer = sender.send_request(large.body(body(vec![])).unwrap()).await;
    // h2 answers by itself, or hyper's client knows our limit and does not ask.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    let mut sender = connect(&world).await;
    assert_eq!(get(&mut sender, "/").await.status, 200);
}

#[tokio::test]
async fn the_answer_to_head_and_statuses_without_a_body_have_none() {
    let world = World::with(
        config(),
        always("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    )
    .await;
    let mut sender = connect(&world).await;
    let answer = ask(
        &mut sender,
        request("HEAD", "/").body(body(vec![])).unwrap(),
    )
    .await;
    assert_eq!(answer.headers["content-length"], "9");
    assert!(answer.body.is_empty());
    let world = World::with(config(), always("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let answer = get(&mut connect(&world).await, "/").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers.get("content-length"), None);
}

#[tokio::test]
async fn interim_responses_are_left_out() {
    let response = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
                    HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let world = World::with(config(), always(response)).await;
    let answer = get(&mut connect(&world).await, "/").await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
}

#[tokio::test]
async fn a_large_response_passes_as_the_client_reads() {
    const LENGTH: usize = 24 * 1024 * 1024;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let world = World::with(config(), move |mut conn: Conn| {
        let written = Arc::clone(&counter);
        async move {
            conn.head().await;
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ))
            .await;
            for _ in 0..LENGTH / 65_536 {
                conn.send(vec![b'x'; 65_536]).await;
                written.fetch_add(65_536, Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut sender = connect(&world).await;
    let asked = request("GET", "/").body(body(vec![])).unwrap();
    let response = sender.send_request(asked).await.unwrap();
    // Before the client reads, its window stops the upstream.
    let (mut last, mut still) = (0, 0);
    eventually("the upstream is stopped", || {
        let now = written.load(Ordering::SeqCst);
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still > 20 && now > 0
    })
    .await;
    assert!(last < LENGTH, "nothing was pushed back");
    assert_eq!(read(response).await.body.len(), LENGTH);
}

#[tokio::test]
async fn a_large_request_passes() {
    const PIECES: usize = 100;
    let world = World::with(config(), |mut conn: Conn| async move {
        conn.head().await;
        let length = conn.chunks().await.0.len().to_string();
        let size = length.len();
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{length}"
        ))
        .await;
    })
    .await;
    let mut sender = connect(&world).await;
    let (pieces, receiver) = mpsc::channel(1);
    let sending = async {
        for _ in 0..PIECES {
            pieces
                .send(Frame::data(vec![b'x'; 100_000].into()))
                .await
                .unwrap();
        }
        drop(pieces);
    };
    let asked = request("POST", "/").body(Parts(receiver)).unwrap();
    let (answer, ()) = tokio::join!(ask(&mut sender, asked), sending);
    assert_eq!(answer.text(), (PIECES * 100_000).to_string());
}

#[tokio::test]
async fn a_stream_that_the_client_resets_lets_the_upstream_go() {
    let (tell, mut told) = mpsc::channel(2);
    let mut patient = config();
    patient.routes[0].timeouts.idle = Duration::ZERO;
    patient.routes[0].timeouts.response_head = Duration::ZERO;
    let world = World::with(patient, move |mut conn: Conn| {
        let tell = tell.clone();
        async move {
            let head = conn.head().await.unwrap();
            if head.starts_with("GET /begun") {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
                    .await;
            }
            tell.send("asked").await.unwrap();
            conn.rest().await;
            tell.send("let go").await.unwrap();
        }
    })
    .await;
    let sender = connect(&world).await;
    for path in ["/silent", "/begun"] {
        let mut sender = sender.clone();
        let asked = request("GET", path).body(body(vec![])).unwrap();
        let mut asking = Box::pin(sender.send_request(asked));
        let response = tokio::select! {
            response = &mut asking => Some(response.unwrap()),
            asked = told.recv() => {
                assert_eq!(asked, Some("asked"));
                None
            }
        };
        if path == "/begun" && response.is_some() {
            assert_eq!(told.recv().await, Some("asked"));
        }
        // Dropping either resets the stream, while the upstream says nothing more.
        drop(asking);
        drop(response);
        let told = tokio::time::timeout(Duration::from_secs(20), told.recv()).await;
        assert_eq!(told, Ok(Some("let go")), "{path}");
    }
    let in_flight = "atoll_gateway_requests_in_flight{route=\"all\"}";
    eventually("nothing is in flight", || world.metric(in_flight) == 0).await;
}

#[tokio::test]
async fn a_response_that_is_cut_off_resets_its_stream() {
    let world = World::with(config(), |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
    })
    .await;
    let mut sender = connect(&world).await;
    let asked = request("GET", "/").body(body(vec![])).unwrap();
    // The reset may overtake the head.
    let Ok(mut response) = sender.send_request(asked).await else {
        return;
    };
    let ended = loop {
        match response.body_mut().frame().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(ended.is_some(), "the client must not take it for whole");
}

#[tokio::test]
async fn streams_in_flight_are_finished_at_the_end() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&go));
    let world = World::with(config(), move |mut conn: Conn| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            conn.head().await;
            tell.notify_one();
            wait.notified().await;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let mut sender = connect(&world).await;
    let finished = async {
        let answer = get(&mut sender, "/").await;
        assert_eq!(answer.text(), "ok");
    };
    let stopped = async {
        arrived.notified().await;
        let stopping = world.stop();
        let release = async { go.notify_one() };
        let (stopped, ()) = tokio::join!(stopping, release);
        stopped.unwrap();
    };
    tokio::join!(finished, stopped);
}

#[tokio::test]
async fn a_lost_service_is_waited_for_and_a_silent_one_is_not() {
    let world = World::with(config(), named("first")).await;
    let mut sender = connect(&world).await;
    assert_eq!(get(&mut sender, "/").await.text(), "first");
    world.deregister("one").await;
    let back = async {
        let in_flight = "atoll_gateway_requests_in_flight{route=\"all\"}";
        eventually("the request waits", || world.metric(in_flight) == 1).await;
        world.upstream("two", named("next")).await;
    };
    let (answer, ()) = tokio::join!(get(&mut sender, "/"), back);
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "next"));

    let mut short = config();
    short.routes[0].timeouts.response_head = Duration::from_millis(50);
    let world = World::with(short, |mut conn: Conn| async move {
        conn.rest().await;
    })
    .await;
    let answer = get(&mut connect(&world).await, "/").await;
    assert_eq!(answer.status, 504);
    assert!(answer.text().contains("upstream_timeout"));
}

#[tokio::test]
async fn a_stale_upstream_connection_costs_no_stream() {
    let world = World::with(config(), |mut conn: Conn| async move {
        let Some(head) = conn.head().await else {
            return;
        };
        conn.body(&head).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        // Closes with the next request unread.
        conn.stream.readable().await.unwrap();
    })
    .await;
    let mut sender = connect(&world).await;
    for _ in 0..40 {
        let frames = vec![data(b"hello"), data(b"world")];
        let asked = request("POST", "/").body(body(frames)).unwrap();
        assert_eq!(ask(&mut sender, asked).await.status, 200);
        assert_eq!(get(&mut sender, "/").await.status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut config = config();
    config.limits.idle_timeout = Duration::from_millis(50);
    let world = World::with(config, named("ok")).await;
    let mut sender = connect(&world).await;
    assert_eq!(get(&mut sender, "/").await.text(), "ok");
    let open = "atoll_gateway_connections_open{listener=\"test\"}";
    eventually("it is closed", || world.metric(open) == 0).await;
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// GET, http, `/`, and `:authority: a` (RFC 7541 appendix A).
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

#[tokio::test]
async fn rapid_resets_are_bounded() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let mut config = config();
    config.routes[0].timeouts.response_head = Duration::from_millis(100);
    let world = World::with(config, move |mut conn: Conn| {
        let counter = Arc::clone(&counter);
        async move {
            while conn.head().await.is_some() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let mut client = world.connect().await;
    let mut bytes = PREFACE.as_bytes().to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for stream in (0..20_000_u32).map(|number| number * 2 + 1) {
        bytes.extend(frame(1, 5, stream, GET));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // It is cut off before it has said all of this (CVE-2023-44487).
    drop(client.try_send(&bytes).await);
    let said = client.rest().await;
    let enhance_your_calm = 11_u32.to_be_bytes();
    assert!(
        said.windows(4).any(|window| window == enhance_your_calm),
        "it is told why"
    );
    eventually("nothing is left of it", || {
        world.metric("atoll_gateway_requests_in_flight{route=\"all\"}") == 0
            && world.metric("atoll_gateway_connections_open{listener=\"test\"}") == 0
    })
    .await;
    assert!(
        asked.load(Ordering::SeqCst) < 1_000,
        "{asked:?} requests went through"
    );
    // Others are heard.
    assert_eq!(get(&mut connect(&world).await, "/").await.status, 504);
}

#[tokio::test]
async fn a_path_beyond_ascii_is_refused_as_over_http_1() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    let mut bytes = PREFACE.as_bytes().to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    // `:path` as a literal: `/é`
    let head = [
        &[0x82, 0x86, 0x44, 0x03][..],
        "/\u{e9}".as_bytes(),
        &[0x41, 0x01, b'a'],
    ]
    .concat();
    bytes.extend(frame(1, 5, 1, &head));
    client.send(&bytes).await;
    eventually("it is refused", || {
        world.metric("atoll_gateway_rejected_total{reason=\"bad_request\"}") == 1
    })
    .await;
}

#[tokio::test]
async fn a_preface_that_does_not_end_is_no_request() {
    let mut config = config();
    config.limits.head_timeout = Duration::from_millis(50);
    let world = World::with(config, echo).await;
    let mut client = world.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nS").await;
    assert_eq!(client.response().await.status, 408);
}

/// How the fields of a block are written (RFC 7541 §6), as long as all its numbers are
/// short: `i` by a number alone, `+` put into the table, `!` never to be put into one.
fn forms(mut block: &[u8]) -> String {
    let mut forms = String::new();
    while let [first, rest @ ..] = block {
        let (form, named) = match first {
            0x80.. => ('i', None),
            0x40.. => ('+', Some(first & 0x3f)),
            0x20.. => panic!("the table's size changes"),
            0x10.. => ('!', Some(first & 0x0f)),
            _ => ('-', Some(first & 0x0f)),
        };
        let strings = named.map_or(0, |name| if name == 0 { 2 } else { 1 });
        block = (0..strings).fold(rest, |rest, _| &rest[1 + usize::from(rest[0] & 0x7f)..]);
        forms.push(form);
    }
    forms
}

#[tokio::test]
async fn request_ids_do_not_crowd_the_compression_table() {
    let world = World::with(config(), always("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let mut client = world.connect().await;
    client.send(PREFACE).await;
    client.send(frame(4, 0, 0, &[])).await;
    let mut heads = Vec::new();
    for stream in [1, 3, 5] {
        client.send(frame(1, 5, stream, GET)).await;
        let block = loop {
            let head = client.take(9).await;
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let payload = client.take(length).await;
            if head[3] == 1 {
                break payload;
            }
        };
        heads.push(forms(&block));
    }
    // Status, `Via`, `X-Request-Id`; what comes again is a number from the second on.
    assert_eq!(heads, ["i+!", "ii!", "ii!"]);
}
