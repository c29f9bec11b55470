//! Requests are sent again only where it cannot hurt, and an old connection never
//! costs a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::{Conn, World, closed_address, config, echo, get, named, post};

const RETRIES: &str = "atoll_gateway_retries_total{route=\"all\"}";
const NO_BUDGET: &str = "atoll_gateway_rejected_total{reason=\"retry_budget\"}";

/// Reads a request and closes without a word; counts them.
async fn dying(world: &World, id: &str) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    world
        .upstream(id, move |mut conn: Conn| {
            let counter = Arc::clone(&counter);
            async move {
                if let Some(head) = conn.head().await {
                    conn.body(&head).await;
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .await;
    seen
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let world = World::start(config()).await;
    world.register("dead", closed_address()).await;
    world.upstream("live", named("live")).await;
    for _ in 0..10 {
        assert_eq!(world.ask(&get("/", "")).await.text(), "live");
        assert_eq!(world.ask(&post("hello")).await.text(), "live");
    }
    assert!(world.metric(RETRIES) >= 10);
}

#[tokio::test]
async fn with_half_of_the_instances_dead_no_request_is_lost_to_the_budget() {
    let mut config = config();
    // As tight as can be: only what was never sent is repeated.
    config.routes[0].retry.budget_percent = 0;
    config.routes[0].retry.budget_min_per_second = 0;
    let world = World::start(config).await;
    for id in ["dead-1", "dead-2"] {
        world.register(id, closed_address()).await;
    }
    world.upstream("live-1", named("live")).await;
    world.upstream("live-2", named("live")).await;
    // A second's worth at 200 requests a second, and as fast as it goes.
    let mut client = world.connect().await;
    for _ in 0..200 {
        client.send(get("/", "")).await;
        assert_eq!(client.response().await.text(), "live");
    }
    assert!(world.metric(RETRIES) >= 50, "{}", world.metric(RETRIES));
    assert_eq!(world.metric(NO_BUDGET), 0);
}

#[tokio::test]
async fn an_idempotent_request_without_an_answer_is_sent_to_another() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let world = World::start(config()).await;
        let seen = dying(&world, "dying").await;
        world.upstream("live", named("live")).await;
        let mut client = world.connect().await;
        for _ in 0..4 {
            let raw = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            client.send(raw).await;
            assert_eq!(client.response_to(method).await.status, 200, "{method}");
        }
        assert!(seen.load(Ordering::SeqCst) > 0);
    }
}

#[tokio::test]
async fn a_post_that_was_sent_is_never_sent_again() {
    let world = World::start(config()).await;
    let seen = dying(&world, "dying").await;
    for number in 1..=3 {
        let response = world.ask(&post("hello")).await;
        assert_eq!(response.status, 502);
        assert!(response.text().contains("upstream_closed"));
        assert_eq!(seen.load(Ordering::SeqCst), number, "once each");
    }
    assert_eq!(world.metric(RETRIES), 0);
}

#[tokio::test]
async fn a_response_that_has_begun_is_never_asked_for_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let world = World::with(config(), move |mut conn: Conn| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move {
            conn.head().await;
            conn.send("HTTP/1.1 200 OK\r\nContent-").await;
        }
    })
    .await;
    assert_eq!(world.ask(&get("/", "")).await.status, 502);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

/// Sends half of a short response and closes, as a process that is killed.
fn half(conn: Conn) -> impl Future<Output = ()> + Send {
    let mut conn = conn;
    async move {
        if let Some(head) = conn.head().await {
            conn.body(&head).await;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                .await;
        }
    }
}

#[tokio::test]
async fn a_short_response_that_was_cut_off_is_asked_for_elsewhere_if_that_is_safe() {
    let world = World::start(config()).await;
    world.upstream("dying", half).await;
    world.upstream("live", named("live")).await;
    for _ in 0..10 {
        assert_eq!(world.ask(&get("/", "")).await.text(), "live");
    }
    assert!(world.metric(RETRIES) >= 1);
}

#[tokio::test]
async fn a_short_response_that_was_cut_off_is_told_where_it_cannot_be_asked_for_again() {
    let world = World::start(config()).await;
    world.upstream("dying", half).await;
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".to_owned();
    for request in [post("hello"), put] {
        let response = world.ask(&request).await;
        assert_eq!(response.status, 502);
        assert!(response.text().contains("cut off"), "{}", response.text());
    }
    assert_eq!(world.metric(RETRIES), 0);
    assert_eq!(
        world.ask(&get("/", "")).await.status,
        502,
        "nobody else is there"
    );
    world.upstream("live", named("live")).await;
    let mut told = 0;
    for _ in 0..20 {
        told += u32::from(world.ask(&post("hello")).await.status == 502);
    }
    assert!(told > 0, "a POST is never sent again");
}

#[tokio::test]
async fn the_head_of_a_short_response_waits_for_a_slow_body_only_a_moment() {
    let world = World::with(config(), move |mut conn: Conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            .await;
        // The body comes once the client has the head and asks for it by a close.
        conn.head().await;
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    let head = client.head().await.expect("the head comes first");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[tokio::test]
async fn attempts_are_limited() {
    let mut config = config();
    config.routes[0].retry.attempts = 2;
    let world = World::start(config).await;
    let mut seen = Vec::new();
    for id in ["a", "b", "c"] {
        seen.push(dying(&world, id).await);
    }
    assert_eq!(world.ask(&get("/", "")).await.status, 502);
    let attempts: usize = seen.iter().map(|seen| seen.load(Ordering::SeqCst)).sum();
    assert_eq!(attempts, 2);
}

#[tokio::test]
async fn retries_of_what_was_sent_are_held_to_the_budget() {
    let mut config = config();
    config.routes[0].retry.budget_percent = 10;
    config.routes[0].retry.budget_min_per_second = 0;
    config.routes[0].retry.attempts = 2;
    let world = World::start(config).await;
    let seen = dying(&world, "a").await;
    for _ in 0..50 {
        assert_eq!(world.ask(&get("/", "")).await.status, 502);
    }
    let attempts = seen.load(Ordering::SeqCst);
    assert!(
        (51..=55).contains(&attempts),
        "{attempts} for 50 requests and 10 %"
    );
    assert!(world.metric(NO_BUDGET) >= 45);
}

#[tokio::test]
async fn a_body_is_sent_again_whole() {
    let body = "0123456789".repeat(6_000);
    let world = World::start(config()).await;
    dying(&world, "dying").await;
    world.upstream("live", echo).await;
    for _ in 0..4 {
        let length = body.len();
        let raw = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        let response = world.ask(&raw).await;
        assert_eq!(response.status, 200);
        assert!(response.text().ends_with(&body));
    }
}

/// An upstream that answers once and then closes, some time later or at once.
async fn world_of_closing(wait_for_request: bool) -> World {
    World::with(config(), move |mut conn: Conn| async move {
        let Some(head) = conn.head().await else {
            return;
        };
        conn.body(&head).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        if wait_for_request {
            // Closes with the next request unread, which the kernel tells by a reset:
            // the worst moment.
            conn.stream.readable().await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_as_idle_costs_nothing() {
    let world = world_of_closing(false).await;
    let mut client = world.connect().await;
    for number in 0..200 {
        let request = if number % 2 == 0 {
            get("/", "")
        } else {
            post("hello")
        };
        client.send(request).await;
        assert_eq!(client.response().await.status, 200, "request {number}");
    }
}

#[tokio::test]
async fn a_connection_that_closes_as_the_request_arrives_costs_nothing() {
    let world = world_of_closing(true).await;
    let mut client = world.connect().await;
    for number in 0..100 {
        let request = match number % 3 {
            0 => get("/", ""),
            1 => post("hello"),
            _ => post(&"x".repeat(60_000)),
        };
        client.send(request).await;
        let response = client.response().await;
        assert_eq!(
            response.status,
            200,
            "request {number}: {}",
            response.text()
        );
    }
    // It is the connection's age, not an attempt.
    assert_eq!(world.metric(RETRIES), 0);
}

#[tokio::test]
async fn a_post_whose_body_comes_in_parts_survives_a_stale_connection() {
    // Each connection is handed to the test when it has answered once.
    let (used, mut stale) = tokio::sync::mpsc::channel(1);
    let world = World::with(config(), move |mut conn: Conn| {
        let used = used.clone();
        async move {
            let head = conn.head().await.unwrap();
            conn.body(&head).await;
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
            used.send(conn).await.unwrap();
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    assert_eq!(client.response().await.status, 200);
    for number in 0..30 {
        let old: Conn = stale.recv().await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}5\r\nhello\r\n")).await;
        old.stream.readable().await.unwrap();
        // The second part is on its way when the connection is reset, so that it may
        // be a write that is told so.
        client.send("5\r\nworld\r\n").await;
        drop(old);
        client.send("0\r\n\r\n").await;
        let response = client.response().await;
        assert_eq!(response.status, 200, "{number}: {}", response.text());
    }
}

#[tokio::test]
async fn when_all_are_dead_the_last_failure_is_told() {
    let mut config = config();
    config.routes[0].retry.attempts = 2;
    let world = World::start(config).await;
    world.register("a", closed_address()).await;
    world.register("b", closed_address()).await;
    let response = world.ask(&get("/", "")).await;
    assert_eq!(response.status, 502);
    assert!(response.text().contains("connect_failed"));
}
