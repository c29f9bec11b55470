//! Other protocols over an upgraded connection.

use crate::harness::{Conn, World, config, echo, eventually, field};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches, and from then on sends back what comes, until the end.
async fn switch(mut conn: Conn) {
    let head = conn.head().await.unwrap();
    assert_eq!(field(&head, "connection"), Some("upgrade"));
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert!(field(&head, "sec-websocket-key").is_some());
    // The first bytes of the protocol come with the head.
    conn.send(format!("{SWITCHING}welcome")).await;
    loop {
        let byte = conn.take(1).await;
        if byte.is_empty() {
            // The client has ended its half; ours is still open.
            conn.send("bye").await;
            return;
        }
        conn.send(byte).await;
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_after_an_upgrade() {
    let world = World::with(config(), switch).await;
    let mut client = world.connect().await;
    // Bytes may follow the request at once.
    client.send(format!("{UPGRADE}first")).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "connection"), Some("upgrade"));
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert!(field(&head, "sec-websocket-accept").is_some());
    assert_eq!(client.take(12).await, b"welcomefirst");
    for word in ["one", "\0\u{1}\r\n\r\n", "three"] {
        client.send(word).await;
        assert_eq!(client.take(word.len()).await, word.as_bytes());
    }
    // The end of one direction is passed on, and the other still flows.
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream)
        .await
        .unwrap();
    assert_eq!(client.rest().await, b"bye");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_a_response_like_any_other() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.send(UPGRADE).await;
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn upgrades_that_cannot_pass_are_not_asked_for() {
    let world = World::with(config(), echo).await;
    for raw in [
        // hop-by-hop: means nothing unless `Connection` says so
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\
         Content-Length: 1\r\n\r\na",
    ] {
        let response = world.ask(raw).await;
        assert_eq!(response.status, 200);
        assert_eq!(field(response.text(), "upgrade"), None, "{raw}");
        assert_eq!(field(response.text(), "http2-settings"), None, "{raw}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_without_traffic_is_closed() {
    let mut config = config();
    config.limits.idle_timeout = std::time::Duration::from_millis(50);
    let world = World::with(config, switch).await;
    let mut client = world.connect().await;
    client.send(UPGRADE).await;
    client.head().await.unwrap();
    assert_eq!(client.take(7).await, b"welcome");
    client.rest().await;
    eventually("no connection is open", || {
        world.metric("atoll_gateway_connections_open{listener=\"test\"}") == 0
    })
    .await;
}

#[tokio::test]
async fn an_upgraded_connection_counts_as_in_flight() {
    let world = World::with(config(), switch).await;
    let mut client = world.connect().await;
    client.send(UPGRADE).await;
    client.head().await.unwrap();
    world.deregister("one").await;
    let (service, id) = ("users".parse().unwrap(), "one".parse().unwrap());
    let mut idle = std::pin::pin!(world.gateway.idle(&service, &id));
    let early = futures_util::FutureExt::now_or_never(idle.as_mut());
    assert!(early.is_none(), "the tunnel is still open");
    drop(client);
    idle.await;
}
