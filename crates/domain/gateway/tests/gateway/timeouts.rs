//! How long anything may take, and who is told to be to blame.

use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::harness::{Conn, World, closed_address, config, echo, eventually, field, get, named};

const SHORT: Duration = Duration::from_millis(50);

/// The problem that the answer tells.
async fn problem(world: &World, request: &str) -> (u16, String, String) {
    let response = world.ask(request).await;
    assert_eq!(
        response.field("content-type"),
        Some("application/problem+json")
    );
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let word = |name: &str| problem[name].as_str().unwrap().to_owned();
    (response.status, word("reason"), word("blame"))
}

fn told(status: u16, reason: &str, blame: &str) -> (u16, String, String) {
    (status, reason.to_owned(), blame.to_owned())
}

/// Takes what comes and says nothing.
async fn silent(mut conn: Conn) {
    conn.rest().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_504() {
    let mut config = config();
    config.routes[0].timeouts.response_head = SHORT;
    let world = World::with(config, silent).await;
    let wanted = told(504, "upstream_timeout", "upstream");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
}

#[tokio::test]
async fn the_whole_request_is_limited_whatever_it_waits_for() {
    let mut config = config();
    config.routes[0].timeouts.request = SHORT;
    let world = World::with(config, silent).await;
    let wanted = told(504, "request_timeout", "upstream");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
}

#[tokio::test]
async fn a_response_that_stops_is_cut_off() {
    let mut config = config();
    config.routes[0].timeouts.idle = SHORT;
    let world = World::with(config, |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
        conn.rest().await;
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    client.head().await.unwrap();
    assert_eq!(client.rest().await, b"half");
}

#[tokio::test]
async fn a_response_that_goes_on_is_not_cut_off() {
    let mut config = config();
    config.routes[0].timeouts.idle = Duration::from_millis(400);
    let world = World::with(config, |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
            .await;
        let mut every = tokio::time::interval(Duration::from_millis(40));
        for _ in 0..20 {
            every.tick().await;
            conn.send("x").await;
        }
    })
    .await;
    assert_eq!(world.ask(&get("/", "")).await.body.len(), 20);
}

#[tokio::test]
async fn an_upstream_that_reads_slowly_is_waited_for() {
    const LENGTH: usize = 12 * 1024 * 1024;
    let mut config = config();
    config.routes[0].timeouts.idle = Duration::from_millis(300);
    let world = World::start(config).await;
    // Its kernel takes little, so that it must read.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(8).unwrap();
    world.register("slow", listener.local_addr().unwrap()).await;
    let upstream = async {
        let mut conn = Conn::new(listener.accept().await.unwrap().0, 0);
        conn.head().await;
        let mut every = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..150 {
            every.tick().await;
            conn.take(8 * 1024).await;
        }
        conn.take(LENGTH - 150 * 8 * 1024).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    };
    let mut client = world.connect().await;
    let client = async {
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        client.send(head).await;
        client.send(vec![b'x'; LENGTH]).await;
        client.response().await
    };
    let (response, ()) = tokio::join!(client, upstream);
    assert_eq!(response.text(), "ok");
}

/// A listener whose queue is full: connecting to it takes for ever.
struct Full {
    listener: Socket,
    _queued: Vec<Socket>,
}

impl Full {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        for _ in 0..16 {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if client
                .connect_timeout(&address, Duration::from_millis(200))
                .is_err()
            {
                break;
            }
            queued.push(client);
        }
        Self {
            listener,
            _queued: queued,
        }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

#[tokio::test]
async fn an_instance_that_takes_no_connection_is_passed_over() {
    let mut config = config();
    config.routes[0].timeouts.connect = SHORT;
    let full = Full::new();
    let world = World::start(config).await;
    world.register("full", full.address()).await;
    world.upstream("live", named("live")).await;
    for _ in 0..2 {
        assert_eq!(world.ask(&get("/", "")).await.text(), "live");
        // A request that was not sent may be sent elsewhere whatever its method.
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(world.ask(post).await.text(), "live");
    }
}

#[tokio::test]
async fn nobody_that_takes_a_connection_is_504() {
    let mut config = config();
    config.routes[0].timeouts.connect = SHORT;
    config.routes[0].retry.attempts = 2;
    let full = Full::new();
    let world = World::start(config).await;
    world.register("full", full.address()).await;
    let wanted = told(504, "connect_timeout", "upstream");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
    let failures = "atoll_gateway_upstream_connect_failures_total{service=\"users\"}";
    assert_eq!(world.metric(failures), 2);
}

#[tokio::test]
async fn each_failure_names_who_is_to_blame() {
    let world = World::start(config()).await;
    let wanted = told(503, "no_endpoint", "upstream");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
    let mut once = config();
    once.routes[0].retry.attempts = 1;
    let world = World::start(once).await;
    world.register("dead", closed_address()).await;
    let wanted = told(502, "connect_failed", "upstream");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
    let world = World::with(config(), |mut conn: Conn| async move {
        conn.head().await;
    })
    .await;
    let wanted = told(502, "upstream_closed", "upstream");
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(problem(&world, post).await, wanted);
    let mut none = config();
    none.routes[0].matches[0].method = Some(http::Method::PUT);
    let world = World::with(none, echo).await;
    let wanted = told(405, "method_not_allowed", "client");
    assert_eq!(problem(&world, &get("/", "")).await, wanted);
    let mut none = config();
    none.routes.clear();
    let world = World::with(none, echo).await;
    assert_eq!(
        problem(&world, &get("/", "")).await,
        told(404, "no_route", "client")
    );
}

#[tokio::test]
async fn a_failure_is_a_problem_for_programs_and_a_page_for_browsers() {
    let world = World::start(config()).await;
    let response = world.ask(&get("/users/7", "X-Request-Id: mine\r\n")).await;
    assert_eq!(response.status, 503);
    assert_eq!(
        response.field("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(response.field("x-request-id"), Some("mine"));
    assert_eq!(response.field("retry-after"), Some("1"));
    assert_eq!(response.field("cache-control"), Some("no-store"));
    assert!(
        response
            .field("proxy-status")
            .unwrap()
            .starts_with("atoll; error=destination_unavailable")
    );
    let problem: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(problem["type"], "urn:atoll:problem:no_endpoint");
    assert_eq!(problem["status"], 503);
    assert_eq!(problem["instance"], "/users/7");
    assert_eq!(problem["request_id"], "mine");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("`users` has no instances")
    );
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nX-Request-Id: <mine>\r\n";
    let response = world.ask(&get("/users/7", browser)).await;
    assert_eq!(
        response.field("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(response.text().contains("no_endpoint"));
    assert!(response.text().contains("&lt;mine&gt;") && !response.text().contains("<mine>"));
}

#[tokio::test]
async fn the_answer_to_a_failed_head_has_no_body() {
    let world = World::start(config()).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let response = client.response_to("HEAD").await;
        assert_eq!(response.status, 503);
        assert_ne!(field(&response.head, "content-length"), Some("0"));
    }
}

#[tokio::test]
async fn a_connection_that_failed_is_not_used_again() {
    let mut config = config();
    config.routes[0].timeouts.response_head = SHORT;
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    let world = World::with(config, move |mut conn: Conn| {
        let tell = tell.clone();
        async move {
            conn.head().await;
            // The late answer to a request that was given up.
            conn.rest().await;
            tell.send(()).await.unwrap();
        }
    })
    .await;
    assert_eq!(world.ask(&get("/", "")).await.status, 504);
    told.recv().await.unwrap();
    eventually("nothing is in flight", || {
        world.metric("atoll_gateway_upstream_requests_in_flight{service=\"users\"}") == 0
    })
    .await;
}
