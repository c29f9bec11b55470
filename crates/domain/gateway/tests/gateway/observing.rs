//! What can be seen of requests afterwards: the access log and the counters.

use atoll_gateway::config::{Cidr, Config, LogFormat};

use crate::harness::{World, closed_address, config, echo, eventually, get, named, post};

fn logged(format: LogFormat) -> Config {
    let mut config = config();
    config.access_log.format = format;
    config
}

/// The lines of the log once there are so many.
async fn lines(world: &World, count: usize) -> Vec<serde_json::Value> {
    eventually("the log is written", || {
        world.log().lines().count() >= count
    })
    .await;
    let log = world.log();
    let lines: Vec<_> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), count, "{log}");
    lines
}

#[tokio::test]
async fn a_line_tells_what_came_where_it_went_and_what_became_of_it() {
    let world = World::with(logged(LogFormat::Json), named("hello")).await;
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let fields = format!("X-Request-Id: mine\r\n{trace}Content-Length: 3\r\n");
    world
        .ask(&format!(
            "POST /users/7?secret=1 HTTP/1.1\r\nHost: shop.example:81\r\n{fields}\r\nabc"
        ))
        .await;
    let line = &lines(&world, 1).await[0];
    for (name, value) in [
        ("client_ip", "127.0.0.1"),
        ("http_version", "1.1"),
        ("method", "POST"),
        ("host", "shop.example:81"),
        ("path", "/users/7"),
        ("route", "all"),
        ("service", "users"),
        ("instance", "one"),
        ("request_id", "mine"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    for (name, value) in [
        ("status", 200),
        ("bytes_in", 3),
        ("bytes_out", 5),
        ("attempts", 1),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    assert!(line["duration_s"].as_f64().unwrap() > 0.0);
    assert!(line.get("blame").is_none() && line.get("reason").is_none());
    assert!(
        !world.log().contains("secret"),
        "queries often hold secrets"
    );
}

#[tokio::test]
async fn a_failure_is_logged_with_its_reason_and_blame() {
    let mut config = logged(LogFormat::Json);
    config.routes[0].retry.attempts = 2;
    let world = World::start(config).await;
    world.register("a", closed_address()).await;
    world.register("b", closed_address()).await;
    world.ask(&get("/", "")).await;
    world.ask("GET /\r\n").await;
    let lines = lines(&world, 2).await;
    assert_eq!(lines[0]["status"], 502);
    assert_eq!(lines[0]["reason"], "connect_failed");
    assert_eq!(lines[0]["blame"], "upstream");
    assert_eq!(lines[0]["attempts"], 2);
    assert_eq!(lines[1]["status"], 400);
    assert_eq!(lines[1]["reason"], "malformed_request");
    assert_eq!(lines[1]["blame"], "client");
    assert!(lines[1].get("route").is_none());
}

#[tokio::test]
async fn a_trusted_proxys_client_is_the_one_that_is_logged() {
    let mut config = logged(LogFormat::Json);
    config.trusted_proxies = vec![Cidr {
        address: [127, 0, 0, 1].into(),
        prefix: 32,
    }];
    let world = World::with(config, echo).await;
    world
        .ask(&get("/", "X-Forwarded-For: 9.9.9.9, 1.2.3.4\r\n"))
        .await;
    assert_eq!(lines(&world, 1).await[0]["client_ip"], "1.2.3.4");
}

#[tokio::test]
async fn a_text_line_cannot_be_forged() {
    let world = World::with(logged(LogFormat::Text), echo).await;
    world.ask(&get("/a%0aGET", "X-Request-Id: x=1\r\n")).await;
    eventually("the log is written", || !world.log().is_empty()).await;
    let log = world.log();
    assert_eq!(log.lines().count(), 1);
    assert!(
        log.contains(" 127.0.0.1 GET shop.example /a%0aGET 200 "),
        "{log}"
    );
    assert!(log.contains(" all one id=x=1"), "{log}");
}

#[tokio::test]
async fn the_log_can_be_switched_on_and_off_while_it_runs() {
    let world = World::with(config(), echo).await;
    world.ask(&get("/unseen", "")).await;
    world
        .gateway
        .publish(logged(LogFormat::Json))
        .await
        .unwrap();
    world.ask(&get("/seen", "")).await;
    assert_eq!(lines(&world, 1).await[0]["path"], "/seen");
}

#[tokio::test]
async fn what_was_logged_before_the_end_is_written() {
    let world = World::with(logged(LogFormat::Json), echo).await;
    for _ in 0..50 {
        world.ask(&get("/", "")).await;
    }
    world.stop().await.unwrap();
    assert_eq!(world.log().lines().count(), 50);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_attempts_by_service() {
    let world = World::start(config()).await;
    world.register("dead", closed_address()).await;
    world.upstream("live", named("hello")).await;
    for _ in 0..4 {
        world.ask(&post("abc")).await;
    }
    for (series, value) in [
        (
            "atoll_gateway_requests_total{route=\"all\",class=\"2xx\",status=\"200\"}",
            4,
        ),
        (
            "atoll_gateway_request_duration_seconds_count{route=\"all\"}",
            4,
        ),
        ("atoll_gateway_requests_in_flight{route=\"all\"}", 0),
        ("atoll_gateway_request_bytes_total{route=\"all\"}", 12),
        ("atoll_gateway_response_bytes_total{route=\"all\"}", 20),
        ("atoll_gateway_retries_total{route=\"all\"}", 4),
        (
            "atoll_gateway_upstream_requests_total{service=\"users\",class=\"2xx\",status=\"200\"}",
            4,
        ),
        (
            "atoll_gateway_upstream_connect_failures_total{service=\"users\"}",
            4,
        ),
        (
            "atoll_gateway_connections_accepted_total{listener=\"test\"}",
            4,
        ),
    ] {
        eventually(series, || world.metric(series) == value).await;
    }
}

#[tokio::test]
async fn strangers_cannot_make_labels() {
    let mut narrow = config();
    narrow.routes[0].hostnames = vec![atoll_gateway::config::Hostname::Exact(
        "shop.example".to_owned(),
    )];
    let world = World::with(narrow, |mut conn| async move {
        let mut status = 230;
        while conn.head().await.is_some() {
            status += 1;
            conn.send(format!(
                "HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        }
    })
    .await;
    let mut client = world.connect().await;
    let count_lines = || world.metrics().lines().count();
    client.send(get("/first", "")).await;
    client.response().await;
    let unknown = "GET /x HTTP/1.1\r\nHost: first.example\r\n\r\n";
    client.send(unknown).await;
    assert_eq!(client.response().await.status, 404);
    let unrouted = "atoll_gateway_unrouted_requests_total{class=\"4xx\",status=\"404\"}";
    eventually("both are counted", || world.metric(unrouted) == 1).await;
    let before = count_lines();
    for number in 0..50 {
        client
            .send(format!(
                "M{number} /{number} HTTP/1.1\r\nHost: shop.example\r\n\r\n"
            ))
            .await;
        client.response().await;
        client
            .send(format!(
                "GET /{number} HTTP/1.1\r\nHost: h{number}.example\r\n\r\n"
            ))
            .await;
        assert_eq!(client.response().await.status, 404);
    }
    eventually("all are counted", || world.metric(unrouted) == 51).await;
    assert_eq!(count_lines(), before, "{}", world.metrics());
}
