//! The server and the client against each other, over sockets.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_model::Address;
use atoll_net::client::{self, ClientError, Request};
use atoll_net::{Limits, Peer, bind, body, serve};
use atoll_runtime::{Clock, Tasks};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

struct World {
    tasks: Tasks,
    address: Address,
    socket: SocketAddr,
    entered: Arc<Notify>,
    release: Arc<Notify>,
    open: Arc<AtomicUsize>,
}

/// A server with `/echo`, `/wait` (until released), `/peer` and `/lines`.
fn world(limits: Limits) -> World {
    let tasks = Tasks::root(Clock::system());
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let open = Arc::new(AtomicUsize::new(0));
    let (seen, gate, count) = (entered.clone(), release.clone(), open.clone());
    let service = tower::service_fn(move |request: http::Request<Incoming>| {
        let (seen, gate, count) = (seen.clone(), gate.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            let peer = *request.extensions().get::<Peer>().unwrap();
            let request_path = request.uri().path().to_owned();
            let answer = match request_path.as_str() {
                "/refuse" => Bytes::from_static(b"no"),
                "/wait" => {
                    seen.notify_one();
                    gate.notified().await;
                    Bytes::from_static(b"waited")
                }
                "/peer" => Bytes::from(peer.0.ip().to_string()),
                "/lines" => Bytes::from_static(b"one\r\ntwo\n\nthree"),
                "/panic" => panic!("on purpose"),
                _ => match body::read_limited(request.into_body(), 1000).await {
                    Ok(body) => body,
                    Err(error) => Bytes::from(error.to_string()),
                },
            };
            let mut response = Response::new(Full::new(answer));
            if request_path == "/refuse" {
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let socket = serve(&tasks, "test", listener, limits, service).unwrap();
    World {
        tasks,
        address: socket.into(),
        socket,
        entered,
        release,
        open,
    }
}

async fn get(address: &Address, path: &str) -> Result<client::Response, ClientError> {
    client::get(
        address,
        path,
        HeaderMap::new(),
        Duration::from_secs(10),
        100,
    )
    .await
}

#[tokio::test]
async fn bodies_go_both_ways_for_every_method() {
    let world = world(Limits::default());
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let mut request = Request::new(method, &world.address, "/echo");
        request.body = Bytes::from_static(b"hello");
        let response = request.send().await.unwrap();
        assert_eq!(response.status, StatusCode::OK);
        assert_eq!(&response.body[..], b"hello");
    }
    assert_eq!(
        &get(&world.address, "/peer").await.unwrap().body[..],
        b"127.0.0.1"
    );
}

#[tokio::test]
async fn a_host_name_is_looked_up() {
    let world = world(Limits::default());
    let named = Address::new("localhost", world.address.port()).unwrap();
    assert_eq!(get(&named, "/peer").await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error_or_is_cut_as_asked() {
    let world = world(Limits::default());
    let mut request = Request::new(Method::POST, &world.address, "/echo");
    request.body = Bytes::from(vec![b'x'; 500]);
    request.body_bytes_max = 100;
    let refused = request.clone().send().await.unwrap_err();
    assert!(
        refused.to_string().contains("larger than the 100 bytes"),
        "{refused}"
    );
    request.cut = true;
    assert_eq!(request.send().await.unwrap().body.len(), 100);
}

#[tokio::test]
async fn a_refused_connection_and_a_slow_answer_are_told_apart() {
    let free = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let nobody: Address = free.local_addr().unwrap().into();
    drop(free);
    assert!(get(&nobody, "/").await.unwrap_err().is_connect());

    let world = world(Limits::default());
    let mut request = Request::new(Method::GET, &world.address, "/wait");
    request.timeout = Duration::from_millis(50);
    let slow = request.send().await.unwrap_err();
    assert!(matches!(slow, ClientError::Timeout { .. }), "{slow}");
    world.release.notify_one();
}

#[tokio::test]
async fn lines_come_one_by_one_without_their_ends() {
    let world = world(Limits::default());
    let mut lines = Request::new(Method::GET, &world.address, "/lines")
        .lines()
        .await
        .unwrap();
    let mut seen = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        seen.push(line);
    }
    assert_eq!(seen, ["one", "two", "", "three"]);
}

#[tokio::test]
async fn a_connection_that_closes_after_a_refusal_says_so() {
    let world = world(Limits::default());
    let mut stream = TcpStream::connect(world.socket).await.unwrap();
    // Small: read off, and the connection goes on.
    let small = b"PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    stream.write_all(small).await.unwrap();
    let mut head = vec![0; 512];
    let read = stream.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(!head.contains("connection: close"), "{head}");
    // Long, and never sent: it will not be waited for.
    let long = b"PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n";
    stream.write_all(long).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 413 "), "{rest}");
    assert!(rest.contains("connection: close"), "{rest}");
}

#[tokio::test]
async fn a_panic_in_a_handler_costs_one_connection() {
    let world = world(Limits::default());
    assert!(get(&world.address, "/panic").await.is_err());
    assert_eq!(
        get(&world.address, "/echo").await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn stopping_finishes_requests_in_flight_and_closes_idle_connections() {
    let world = world(Limits::default());
    let mut idle = TcpStream::connect(world.socket).await.unwrap();
    idle.write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0_u8; 1024];
    assert!(idle.read(&mut first).await.unwrap() > 0);

    let address = world.address.clone();
    let waiting = world
        .tasks
        .once("client", async move { get(&address, "/wait").await });
    world.entered.notified().await;
    let group = world.tasks.clone();
    let stopping = async { group.stop(Duration::from_secs(20)).await };
    let rest = async {
        // Only the stop closes the idle connection.
        assert_eq!(idle.read(&mut first).await.unwrap(), 0);
        assert!(
            get(&world.address, "/echo").await.is_err(),
            "nothing more is accepted"
        );
        world.release.notify_one();
        waiting.await.unwrap().unwrap()
    };
    let (stopped, response) = tokio::join!(stopping, rest);
    assert_eq!(stopped, Ok(()));
    assert_eq!(&response.body[..], b"waited");
}

#[tokio::test]
async fn a_connection_that_never_asked_does_not_hold_up_the_end() {
    let world = world(Limits {
        // As long as the test may take: what it waits for is not this.
        drain: Duration::from_secs(600),
        head_timeout: Duration::from_secs(600),
        ..Limits::default()
    });
    let mut silent = TcpStream::connect(world.socket).await.unwrap();
    let mut begun = TcpStream::connect(world.socket).await.unwrap();
    begun.write_all(b"GET /peer HTTP/1.1\r\nHo").await.unwrap();
    // Connections are accepted in their order, so both have been.
    get(&world.address, "/peer").await.unwrap();
    let stopping = async { world.tasks.stop(Duration::from_secs(60)).await };
    let rest = async {
        assert_eq!(silent.read(&mut [0_u8; 64]).await.unwrap(), 0);
        // Who has begun to ask is answered.
        begun.write_all(b"st: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        begun.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let (stopped, ()) = tokio::join!(stopping, rest);
    assert_eq!(stopped, Ok(()));
}

#[tokio::test]
async fn a_request_that_outlives_the_drain_is_cut() {
    let world = world(Limits {
        drain: Duration::from_millis(50),
        ..Limits::default()
    });
    let address = world.address.clone();
    let other = Tasks::root(Clock::system());
    let waiting = other.once("client", async move { get(&address, "/wait").await });
    world.entered.notified().await;
    assert_eq!(world.tasks.stop(Duration::from_secs(20)).await, Ok(()));
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn a_head_that_is_too_long_is_431_and_a_slow_one_is_cut_off() {
    let world = world(Limits {
        head_bytes_max: 8 * 1024,
        head_timeout: Duration::from_millis(100),
        ..Limits::default()
    });
    let mut stream = TcpStream::connect(world.socket).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "a".repeat(9000));
    stream.write_all(long.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // The server may reset after its answer, since it has not read all.
    let _ended = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let mut slow = TcpStream::connect(world.socket).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHos").await.unwrap();
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    assert_eq!(world.open.load(Ordering::SeqCst), 0, "no handler ran");

    // So are those who asked once and then keep the connection, or never ask.
    for asked in ["GET /peer HTTP/1.1\r\nHost: x\r\n\r\n", ""] {
        let mut idle = TcpStream::connect(world.socket).await.unwrap();
        idle.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = String::new();
        idle.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer.is_empty(), asked.is_empty(), "{answer}");
    }
}

#[tokio::test]
async fn connections_past_the_limit_wait_for_their_turn() {
    let world = world(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    let address = world.address.clone();
    let first = world
        .tasks
        .once("first", async move { get(&address, "/wait").await });
    world.entered.notified().await;
    let address = world.address.clone();
    let second = world
        .tasks
        .once("second", async move { get(&address, "/echo").await });
    // The second is connected (in the backlog) but no handler runs for it.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.open.load(Ordering::SeqCst), 1);
    world.release.notify_one();
    first.await.unwrap().unwrap();
    assert_eq!(second.await.unwrap().unwrap().status, StatusCode::OK);
}
