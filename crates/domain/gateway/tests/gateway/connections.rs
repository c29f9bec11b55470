//! Client connections: kept, closed, limited, and drained at the end.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::harness::{Conn, World, always, config, echo, eventually, field, get, post};

const OPEN: &str = "atoll_gateway_connections_open{listener=\"test\"}";

#[tokio::test]
async fn a_connection_is_kept_unless_one_side_closes_it() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    for _ in 0..3 {
        client.send(get("/", "")).await;
        let response = client.response().await;
        assert_eq!(response.field("connection"), None);
    }
    client.send(get("/", "Connection: close\r\n")).await;
    let response = client.response().await;
    assert_eq!(response.field("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_http_1_0_connection_is_kept_only_if_asked_for() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    client
        .send("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n")
        .await;
    let response = client.response().await;
    assert_eq!(response.field("connection"), Some("keep-alive"));
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!(response.field("connection"), Some("close"));
    assert!(response.text().starts_with("GET / HTTP/1.1\r\n"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn upstream_connections_are_used_again() {
    let world = World::with(config(), |mut conn: Conn| async move {
        while let Some(head) = conn.head().await {
            conn.body(&head).await;
            let number = conn.number;
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
            conn.send(response).await;
        }
    })
    .await;
    for request in [
        get("/", ""),
        post("hello"),
        get("/", "Connection: close\r\n"),
    ] {
        assert_eq!(world.ask(&request).await.text(), "0");
    }
}

#[tokio::test]
async fn a_head_may_come_byte_by_byte() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    for byte in get("/slow", "X-A: b\r\n").bytes() {
        client.send([byte]).await;
    }
    let response = client.response().await;
    assert!(response.text().starts_with("GET /slow HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_told_so() {
    let mut config = config();
    config.limits.head_timeout = Duration::from_millis(50);
    let world = World::with(config, echo).await;
    let mut client = world.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-").await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    assert!(response.text().contains("head_timeout"));
    assert!(client.is_closed().await);
    // Trickling does not help: the limit is for the whole head.
    let client = world.connect().await;
    let (mut reader, mut writer) = client.stream.into_split();
    let trickle = async {
        let mut every = tokio::time::interval(Duration::from_millis(10));
        loop {
            every.tick().await;
            if writer.write_all(b"X").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = trickle => {}
        read = reader.read_exact(&mut answer) => drop(read.unwrap()),
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_body_that_stops_is_told_so() {
    let mut config = config();
    config.limits.body_progress_timeout = Duration::from_millis(50);
    let world = World::with(config, echo).await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    let response = client.response().await;
    assert_eq!(response.status, 408);
    assert!(response.text().contains("\"reason\":\"body_timeout\""));
    assert!(response.text().contains("\"blame\":\"client\""));
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let mut config = config();
    config.limits.idle_timeout = Duration::from_millis(50);
    let world = World::with(config, echo).await;
    let mut fresh = world.connect().await;
    assert!(fresh.is_closed().await);
    let mut used = world.connect().await;
    used.send(get("/", "")).await;
    assert_eq!(used.response().await.status, 200);
    assert!(used.is_closed().await);
    eventually("none is open", || world.metric(OPEN) == 0).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_served_and_one_that_stops_is_cut_off() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let mut config = config();
    config.limits.body_progress_timeout = Duration::from_millis(300);
    let world = World::with(config, |mut conn: Conn| async move {
        while conn.head().await.is_some() {
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ))
            .await;
            if conn.try_send(vec![b'x'; LENGTH]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut slow = small_window(&world).await;
    slow.send(get("/", "")).await;
    slow.head().await.unwrap();
    // 8 KiB every 10 ms, so that one piece of 256 KiB takes longer than the limit.
    let mut every = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..150 {
        every.tick().await;
        assert_eq!(slow.take(8 * 1024).await.len(), 8 * 1024);
    }
    let left = LENGTH - 150 * 8 * 1024;
    assert_eq!(slow.take(left).await.len(), left, "the rest comes as well");

    let mut stopped = small_window(&world).await;
    stopped.send(get("/", "")).await;
    stopped.head().await.unwrap();
    eventually("it is cut off", || world.metric(OPEN) == 1).await;
    assert!(stopped.rest().await.len() < LENGTH);
}

/// A client whose kernel takes little, so that it must read.
async fn small_window(world: &World) -> Conn {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    Conn::new(socket.connect(world.address).await.unwrap(), 0)
}

#[tokio::test]
async fn no_more_connections_are_served_at_once_than_allowed() {
    let mut config = config();
    config.limits.connections_max = 2;
    let world = World::with(config, echo).await;
    let mut first = world.connect().await;
    first.send(get("/", "")).await;
    first.response().await;
    let mut second = world.connect().await;
    second.send(get("/", "")).await;
    second.response().await;
    let mut third = world.connect().await;
    third.send(get("/third", "")).await;
    // It waits in the backlog until another leaves.
    eventually("two are open", || world.metric(OPEN) == 2).await;
    drop(first);
    assert!(third.response().await.text().starts_with("GET /third "));
}

#[tokio::test]
async fn a_client_has_its_share_of_connections() {
    let mut config = config();
    config.limits.connections_per_client_max = 2;
    let world = World::with(config, echo).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = world.connect().await;
        client.send(get("/", "")).await;
        assert_eq!(client.response().await.status, 200);
        kept.push(client);
    }
    let mut third = world.connect().await;
    assert!(third.is_closed().await);
    let refused = "atoll_gateway_rejected_total{reason=\"too_many_connections\"}";
    assert_eq!(world.metric(refused), 1);
    kept.clear();
    eventually("the two have left", || world.metric(OPEN) == 0).await;
    assert_eq!(world.ask(&get("/", "")).await.status, 200);
}

#[tokio::test]
async fn a_request_in_flight_is_finished_at_the_end_and_idle_clients_are_let_go() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&go));
    let world = World::with(config(), move |mut conn: Conn| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            while let Some(head) = conn.head().await {
                if head.starts_with("GET /slow") {
                    tell.notify_one();
                    wait.notified().await;
                }
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    let mut idle = world.connect().await;
    idle.send(get("/", "")).await;
    idle.response().await;
    let mut busy = world.connect().await;
    busy.send(get("/slow", "")).await;
    arrived.notified().await;
    let stopping = world.stop();
    let seen = async {
        assert!(idle.is_closed().await, "nothing is owed to it");
        go.notify_one();
        let response = busy.response().await;
        assert_eq!(response.text(), "ok");
        assert_eq!(
            response.field("connection"),
            Some("close"),
            "so that it goes elsewhere"
        );
        assert!(busy.is_closed().await);
    };
    let (stopped, ()) = tokio::join!(stopping, seen);
    stopped.unwrap();
    let refused = tokio::net::TcpStream::connect(world.address).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_client_that_has_just_connected_is_served_at_the_end() {
    let world = World::with(config(), echo).await;
    let mut silent = world.connect().await;
    let mut fresh = world.connect().await;
    let mut used = world.connect().await;
    used.send(get("/", "")).await;
    used.response().await;
    let stopping = world.stop();
    let seen = async {
        // It closes at once: the drain has begun.
        assert!(used.is_closed().await);
        fresh.send(get("/", "")).await;
        let response = fresh.response().await;
        assert_eq!(response.status, 200);
        assert_eq!(response.field("connection"), Some("close"));
        drop(fresh);
        assert!(silent.is_closed().await, "it is not waited for without end");
    };
    let (stopped, ()) = tokio::join!(stopping, seen);
    stopped.unwrap();
}

#[tokio::test]
async fn what_takes_longer_than_the_drain_is_cut_off() {
    let arrived = Arc::new(Notify::new());
    let tell = Arc::clone(&arrived);
    let world = World::start_draining(config(), Duration::from_millis(50)).await;
    world
        .upstream("one", move |mut conn: Conn| {
            let tell = Arc::clone(&tell);
            async move {
                conn.head().await;
                tell.notify_one();
                conn.rest().await;
            }
        })
        .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    arrived.notified().await;
    world.stop().await.unwrap();
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_thousand_pipelined_requests_need_no_more_than_one_buffer() {
    let world = World::with(config(), always("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let mut client = world.connect().await;
    client.send(get("/", "").repeat(1_000)).await;
    for _ in 0..1_000 {
        assert_eq!(client.response().await.status, 204);
    }
}

#[tokio::test]
async fn a_client_that_ends_its_half_still_gets_its_answer() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    client.stream.shutdown().await.unwrap();
    let response = client.response().await;
    assert_eq!(response.status, 200);
    assert!(field(&response.head, "connection").is_none());
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn the_last_response_survives_what_a_client_sends_behind_its_last_request() {
    let (arrived, sent) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&sent));
    let world = World::with(config(), move |mut conn: Conn| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            conn.head().await;
            tell.notify_one();
            wait.notified().await;
            conn.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            conn.rest().await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "Connection: close\r\n")).await;
    arrived.notified().await;
    // Closing a socket with this unread would reset the connection.
    client.send("x".repeat(20_000)).await;
    sent.notify_one();
    let response = client.response().await;
    assert_eq!(response.status, 204);
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0);
}
