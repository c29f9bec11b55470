//! What passes through, and what is changed on the way.

use crate::harness::{World, always, config, echo, field};

#[tokio::test]
async fn a_get_reaches_the_upstream_and_its_answer_comes_back() {
    let world = World::with(config(), echo).await;
    let response = world
        .ask("GET /users/7?x=1 HTTP/1.1\r\nHost: shop.example:81\r\nAccept: */*\r\n\r\n")
        .await;
    assert_eq!(response.status, 200);
    let sent = response.text();
    assert!(sent.starts_with("GET /users/7?x=1 HTTP/1.1\r\n"), "{sent}");
    assert_eq!(field(sent, "host"), Some("shop.example:81"));
    assert_eq!(field(sent, "accept"), Some("*/*"));
}

#[tokio::test]
async fn bodies_pass_both_ways_however_they_are_framed() {
    let world = World::with(config(), echo).await;
    let response = world
        .ask("POST /u HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    assert!(response.text().ends_with("\r\n\r\nhello"));
    let mut client = world.connect().await;
    client
        .send("PUT /u HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
        .await;
    client.send("2;ext=1\r\nlo\r\n0\r\n\r\n").await;
    let response = client.response().await;
    assert!(response.text().ends_with("hello"), "{}", response.text());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    let mut all = String::new();
    for number in 0..50 {
        all.push_str(&format!(
            "POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        ));
    }
    client.send(all).await;
    for number in 0..50 {
        let response = client.response().await;
        let wanted = format!("POST /{number} ");
        assert!(response.text().starts_with(&wanted));
    }
}

#[tokio::test]
async fn chunks_and_trailers_of_a_response_pass() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                    5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\nContent-Length: 3\r\n\r\n";
    let world = World::with(config(), always(response)).await;
    let response = world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(response.text(), "hello world");
    assert_eq!(response.trailers, "X-Sum: 11\r\n");
}
