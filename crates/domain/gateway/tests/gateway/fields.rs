//! Which fields cross the gateway, and which it adds.

use atoll_gateway::config::{Cidr, Rewrite};
use http::{HeaderName, HeaderValue};

use crate::harness::{Response, World, always, config, echo, field, get};

/// What the upstream got of a GET with these field lines.
async fn sent(world: &World, fields: &str) -> String {
    let response = world.ask(&get("/users/7", fields)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().to_owned()
}

/// The values of all fields of this name.
fn all<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

#[tokio::test]
async fn fields_of_one_hop_and_those_that_connection_names_stay_behind() {
    let world = World::with(config(), echo).await;
    let fields = "Connection: keep-alive, X-Mine, x-other\r\nKeep-Alive: timeout=5\r\n\
                  X-Mine: 1\r\nX-OTHER: 2\r\nX-Kept: 3\r\nProxy-Connection: close\r\n\
                  Proxy-Authorization: Basic eA==\r\nTE: gzip\r\nUpgrade: foo\r\n\
                  Authorization: Bearer x\r\nCookie: a=b\r\n";
    let head = sent(&world, fields).await;
    for gone in [
        "connection",
        "keep-alive",
        "x-mine",
        "x-other",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert_eq!(field(&head, gone), None, "{gone} in {head}");
    }
    assert_eq!(field(&head, "x-kept"), Some("3"));
    assert_eq!(field(&head, "authorization"), Some("Bearer x"));
    assert_eq!(field(&head, "cookie"), Some("a=b"));
}

#[tokio::test]
async fn connection_cannot_take_away_what_protects_the_upstream() {
    let world = World::with(config(), echo).await;
    let fields = "Connection: authorization, cookie, host, x-forwarded-for, via\r\n\
                  Authorization: Bearer x\r\nCookie: a=b\r\n";
    let head = sent(&world, fields).await;
    assert_eq!(field(&head, "authorization"), Some("Bearer x"));
    assert_eq!(field(&head, "cookie"), Some("a=b"));
    assert_eq!(field(&head, "host"), Some("shop.example"));
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&head, "via"), Some("1.1 atoll"));
}

#[tokio::test]
async fn fields_of_one_hop_of_a_response_stay_behind() {
    let response = "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
                    Proxy-Authenticate: Basic\r\nUpgrade: foo\r\nX-Kept: 2\r\n\
                    Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok";
    let world = World::with(config(), always(response)).await;
    let Response { head, .. } = world.ask(&get("/", "")).await;
    for gone in [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-authenticate",
        "upgrade",
    ] {
        assert_eq!(field(&head, gone), None, "{gone} in {head}");
    }
    assert_eq!(field(&head, "x-kept"), Some("2"));
    assert_eq!(all(&head, "set-cookie"), ["a=1", "b=2"]);
    assert_eq!(field(&head, "via"), Some("1.1 atoll"));
}

#[tokio::test]
async fn fields_pass_in_order_with_their_case_and_their_bytes() {
    let world = World::with(config(), echo).await;
    let head = sent(
        &world,
        "X-b: 1\r\nX-A:  two words\t\r\nx-B: 3\r\nX-Empty:\r\n",
    )
    .await;
    assert!(
        head.contains("X-b: 1\r\nX-A: two words\r\nx-B: 3\r\nX-Empty: \r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn via_is_added_to_what_was_there() {
    let world = World::with(config(), echo).await;
    let head = sent(&world, "Via: 1.0 fred\r\n").await;
    assert_eq!(all(&head, "via"), ["1.0 fred", "1.1 atoll"]);
    let raw = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    let head = world.ask(raw).await.text().to_owned();
    assert_eq!(all(&head, "via"), ["1.0 atoll"]);
}

#[tokio::test]
async fn strangers_forwarding_fields_are_replaced() {
    let world = World::with(config(), echo).await;
    let port = world.address.port().to_string();
    let fields = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\
                  Forwarded: for=1.2.3.4;proto=https\r\n";
    let head = sent(&world, fields).await;
    assert_eq!(all(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&head, "x-forwarded-host"), ["shop.example"]);
    assert_eq!(all(&head, "x-forwarded-port"), [port]);
    assert_eq!(
        all(&head, "forwarded"),
        ["for=127.0.0.1;host=\"shop.example\";proto=http"]
    );
}

#[tokio::test]
async fn a_trusted_proxys_forwarding_fields_are_continued() {
    let mut config = config();
    config.trusted_proxies = vec![Cidr {
        address: [127, 0, 0, 0].into(),
        prefix: 8,
    }];
    let world = World::with(config, echo).await;
    let fields = "X-Forwarded-For: 1.2.3.4, 127.0.0.9\r\nX-Forwarded-Proto: https\r\n\
                  X-Forwarded-Host: public.example\r\nForwarded: for=1.2.3.4;proto=https\r\n";
    let head = sent(&world, fields).await;
    assert_eq!(
        all(&head, "x-forwarded-for"),
        ["1.2.3.4, 127.0.0.9, 127.0.0.1"]
    );
    assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&head, "x-forwarded-host"), ["public.example"]);
    assert_eq!(
        all(&head, "forwarded"),
        ["for=1.2.3.4;proto=https, for=127.0.0.1;host=\"shop.example\";proto=http"]
    );
}

#[tokio::test]
async fn the_absolute_form_names_the_host_and_is_sent_as_a_path() {
    let world = World::with(config(), echo).await;
    let raw = "GET http://real.example:81/users/7?x=1 HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let head = world.ask(raw).await.text().to_owned();
    assert!(head.starts_with("GET /users/7?x=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(all(&head, "host"), ["real.example:81"]);
    let head = world
        .ask("GET http://real.example?x HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(
        head.text().starts_with("GET /?x HTTP/1.1\r\n"),
        "{}",
        head.text()
    );
}

#[tokio::test]
async fn paths_and_queries_pass_byte_for_byte() {
    let world = World::with(config(), echo).await;
    for target in [
        "/a%20b?x=%2F&y=a+b",
        "/?",
        "/?a?b",
        "/a//b/",
        "/%C3%A9",
        "/a;b=c,d",
        "/a?x=/../y",
    ] {
        let response = world.ask(&get(target, "")).await;
        let wanted = format!("GET {target} HTTP/1.1\r\n");
        assert!(
            response.text().starts_with(&wanted),
            "{target}: {}",
            response.text()
        );
    }
}

#[tokio::test]
async fn a_rewrite_changes_only_the_path() {
    let mut config = config();
    config.routes[0].rewrite = Rewrite::Template("/v2/{rest}".to_owned());
    let world = World::with(config, echo).await;
    let response = world.ask(&get("/users/7?x=%20", "")).await;
    let text = response.text();
    assert!(
        text.starts_with("GET /v2/users/7?x=%20 HTTP/1.1\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_routes_edits_are_done_to_both_heads() {
    let mut config = config();
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let route = &mut config.routes[0];
    route.request_headers.set = vec![
        (name("x-set"), value("new")),
        (name("host"), value("in.side")),
    ];
    route.request_headers.add = vec![(name("x-added"), value("2"))];
    route.request_headers.remove = vec![name("x-gone"), name("x-forwarded-for")];
    route.response_headers.set = vec![(name("server"), value("atoll"))];
    route.response_headers.remove = vec![name("via")];
    // What frames a message is not the route's to set.
    route
        .request_headers
        .add
        .push((name("transfer-encoding"), value("chunked")));
    route
        .response_headers
        .set
        .push((name("content-length"), value("1")));
    let world = World::with(config, echo).await;
    let response = world
        .ask(&get("/", "X-Set: old\r\nX-Added: 1\r\nX-Gone: 1\r\n"))
        .await;
    let head = response.text();
    assert_eq!(all(head, "x-set"), ["new"]);
    assert_eq!(all(head, "x-added"), ["1", "2"]);
    assert_eq!(all(head, "x-gone"), [""; 0]);
    assert_eq!(all(head, "x-forwarded-for"), [""; 0]);
    assert_eq!(all(head, "host"), ["in.side"]);
    assert_eq!(all(head, "transfer-encoding"), [""; 0]);
    assert_eq!(response.field("server"), Some("atoll"));
    assert_eq!(response.field("via"), None);
    assert_eq!(all(&response.head, "content-length").len(), 1);
}

#[tokio::test]
async fn a_request_id_is_kept_if_it_is_sane_and_made_if_not() {
    let world = World::with(config(), echo).await;
    let response = world.ask(&get("/", "X-Request-Id: mine-7\r\n")).await;
    assert_eq!(field(response.text(), "x-request-id"), Some("mine-7"));
    assert_eq!(response.field("x-request-id"), Some("mine-7"));
    for odd in ["two words", "", &"x".repeat(200)] {
        let response = world
            .ask(&get("/", &format!("X-Request-Id: {odd}\r\n")))
            .await;
        let made = response.field("x-request-id").unwrap();
        assert_eq!(made.len(), 32, "{odd}: {made}");
        assert_eq!(all(response.text(), "x-request-id"), [made]);
        // One word to search for: it is the trace's.
        assert!(
            field(response.text(), "traceparent")
                .unwrap()
                .contains(made)
        );
    }
}

#[tokio::test]
async fn a_trace_is_continued_or_begun() {
    let world = World::with(config(), echo).await;
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let fields = format!("traceparent: {given}\r\ntracestate: a=1\r\nTracestate: b=2\r\n");
    let head = sent(&world, &fields).await;
    let parent = all(&head, "traceparent");
    assert_eq!(parent.len(), 1);
    assert!(parent[0].starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    assert!(parent[0].ends_with("-00") && parent[0] != given);
    assert_eq!(all(&head, "tracestate"), ["a=1", "b=2"]);
    // Without a valid parent, its state means nothing either.
    let head = sent(&world, "traceparent: 00-junk\r\ntracestate: a=1\r\n").await;
    let parent = field(&head, "traceparent").unwrap();
    assert!(parent.len() == 55 && parent.ends_with("-01"), "{parent}");
    assert_eq!(field(&head, "tracestate"), None);
    let other = sent(&world, "").await;
    assert_ne!(field(&other, "traceparent").unwrap()[3..35], parent[3..35]);
}

#[tokio::test]
async fn options_for_the_gateway_itself_are_answered_by_it() {
    let world = World::with(
        config(),
        always("HTTP/1.1 500 Odd\r\nContent-Length: 0\r\n\r\n"),
    )
    .await;
    let response = world.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(response.status, 200);
    assert!(response.field("allow").unwrap().contains("PATCH"));
    let response = world
        .ask("OPTIONS /users HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
        .await;
    assert_eq!(response.status, 200);
    let response = world
        .ask("TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
        .await;
    assert_eq!(response.status, 405);
}

#[tokio::test]
async fn max_forwards_counts_down() {
    let world = World::with(config(), echo).await;
    let raw = "OPTIONS /users HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n";
    assert_eq!(
        field(world.ask(raw).await.text(), "max-forwards"),
        Some("2")
    );
}
