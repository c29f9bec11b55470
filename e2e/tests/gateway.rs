//! What a client and a service see of the gateway between them.

use std::fs;

use atoll_e2e::http::{self, Answer};
use atoll_e2e::{World, eventually, service_command};
use serde_json::Value;

fn echo(more: &str) -> World {
    let mut world = World::new(&format!(
        "services:\n  echo:\n    command: {}\n    health: /healthz\nroutes:\n  /echo/{{path*}}: echo\n{more}",
        service_command()
    ));
    world.up();
    world.wait_passing("echo", 1);
    world
}

fn get(world: &World, path: &str, headers: &[(&str, &str)]) -> Answer {
    http::request(&world.gateway(), "GET", path, headers, b"").expect("an answer")
}

/// The value of a header that the service saw.
fn seen(answer: &Answer, name: &str) -> Option<String> {
    let text = answer.text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(seen, _)| seen.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_owned())
}

#[test]
fn a_large_body_arrives_whole() {
    let world = echo("");
    let body: String = (0..200_000).map(|n| format!("{n:07}\n")).collect();
    for method in ["POST", "PUT"] {
        let path = "/echo/a?b=c";
        let answer = http::request(&world.gateway(), method, path, &[], body.as_bytes()).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with(&body), "{method}");
    }
}

#[test]
fn head_has_no_body_but_its_length() {
    let world = echo("");
    let answer = http::request(&world.gateway(), "HEAD", "/echo/x", &[], b"").unwrap();
    assert_eq!(answer.status, 200);
    assert_ne!(answer.header("content-length"), Some("0"));
}

#[test]
fn the_service_is_told_where_a_request_comes_from() {
    let world = echo("");
    let answer = get(&world, "/echo/x", &[("X-Forwarded-For", "6.6.6.6")]);
    assert_eq!(seen(&answer, "host"), Some(world.gateway()));
    // A stranger's word on whom it stands for is not passed on.
    assert_eq!(
        seen(&answer, "x-forwarded-for").as_deref(),
        Some("127.0.0.1")
    );
    assert_eq!(seen(&answer, "x-forwarded-proto").as_deref(), Some("http"));
    assert!(seen(&answer, "via").is_some(), "{}", answer.text());
    assert!(answer.header("via").is_some());
}

#[test]
fn fields_of_one_hop_go_no_further() {
    let world = echo("");
    let headers = [
        ("Connection", "X-Private"),
        ("X-Private", "1"),
        ("Keep-Alive", "timeout=5"),
        ("X-Public", "2"),
    ];
    let answer = get(&world, "/echo/x", &headers);
    assert_eq!(seen(&answer, "x-private"), None);
    assert_eq!(seen(&answer, "keep-alive"), None);
    assert_eq!(seen(&answer, "x-public").as_deref(), Some("2"));
}

#[test]
fn a_trace_is_continued_or_started() {
    let world = echo("");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let continued = get(
        &world,
        "/echo/x",
        &[("traceparent", &parent), ("tracestate", "a=b")],
    );
    let onward = seen(&continued, "traceparent").expect("a traceparent");
    assert!(onward.contains(trace), "{onward}");
    assert_eq!(seen(&continued, "tracestate").as_deref(), Some("a=b"));
    let started = seen(&get(&world, "/echo/x", &[]), "traceparent").expect("a traceparent");
    assert!(
        started.len() == parent.len() && !started.contains(trace),
        "{started}"
    );
}

#[test]
fn a_request_has_one_id_for_client_service_and_log() {
    let world = echo("gateway: { access_log: { format: json, path: access.log } }\n");
    let answer = get(&world, "/echo/x?y=1", &[]);
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert_eq!(seen(&answer, "x-request-id"), Some(id.clone()));
    let other = get(&world, "/echo/x", &[]);
    assert_ne!(other.header("x-request-id"), Some(&id[..]));
    let line = eventually("the request is in the access log", || {
        let log = fs::read_to_string(world.path().join("access.log")).ok()?;
        let mut lines = log
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.find(|line| line["request_id"] == id[..])
    });
    assert_eq!(line["method"], "GET", "{line}");
    assert_eq!(line["status"], 200, "{line}");
    assert_eq!(line["route"], "/echo/{path*}", "{line}");
    assert_eq!(line["service"], "echo", "{line}");
    assert_eq!(line["instance"], "echo-1", "{line}");
}

#[test]
fn an_error_says_who_is_to_blame_in_the_askers_language() {
    let world = echo("");
    let answer = get(&world, "/nowhere", &[]);
    assert_eq!(answer.status, 404);
    let kind = answer.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["status"], 404, "{problem}");
    assert_eq!(problem["blame"], "client", "{problem}");
    let id = answer.header("x-request-id").expect("an id");
    assert!(answer.text().contains(id), "{problem}");
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let page = get(&world, "/<script>", &browser);
    let kind = page.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/html"), "{kind}");
    assert!(!page.text().contains("<script>"), "{}", page.text());
}

#[test]
fn a_service_without_an_instance_is_503_and_recovers() {
    let first = atoll_e2e::outside::Service::start("first");
    let address = first.address.clone();
    let mut world = World::new(&format!(
        "services:\n  x:\n    endpoints: [\"{address}\"]\nroutes:\n  /x/{{path*}}: x\n"
    ));
    world.up();
    eventually("it answers", || {
        (world.get("/x/whoami").status == 200).then_some(())
    });
    drop(first);
    let answer = world.get("/x/whoami");
    assert!(
        [502, 503].contains(&answer.status),
        "{}: {}",
        answer.status,
        answer.text()
    );
    assert_eq!(answer.json()["blame"], "upstream", "{}", answer.text());
}

#[test]
fn a_service_that_takes_too_long_is_cut_off_with_504() {
    let world = echo("  /slow/{ms}:\n    to: echo\n    timeout: 300ms\n");
    assert_eq!(world.get("/slow/1").text(), "slow");
    let answer = world.get("/slow/60000");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_eq!(answer.json()["blame"], "upstream", "{}", answer.text());
    let explained = world.run_json(&["explain", "GET", "/slow/1", "--json"]);
    let policies = explained["route"]["policies"].to_string();
    assert!(policies.contains("300ms"), "{policies}");
}

#[test]
fn http_2_is_spoken_on_the_same_port() {
    use std::io::{Read, Write};
    let world = echo("");
    let mut stream = std::net::TcpStream::connect(world.gateway()).unwrap();
    // RFC 9113 §3.4: the preface and empty SETTINGS; then HEADERS (§6.2) that end
    // headers and stream 1, in HPACK: GET (2), http (6), `:path` (4), `:authority` (1).
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let block = b"\x82\x86\x04\x09/echo/a?b\x01\x0cshop.example";
    sent.extend([0, 0, block.len() as u8, 0x01, 0x05, 0, 0, 0, 1]);
    sent.extend(block);
    stream.write_all(&sent).unwrap();
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).unwrap();
        let (kind, flags) = (head[3], head[4]);
        assert!(kind != 0x03 && kind != 0x07, "reset or gone: {payload:?}");
        if kind == 0x00 {
            body.extend(payload);
            if flags & 0x01 != 0 {
                break;
            }
        }
    }
    let text = String::from_utf8(body).unwrap();
    assert!(text.starts_with("GET /echo/a?b HTTP/1.1\n"), "{text}");
    assert!(
        text.to_lowercase().contains("\nhost: shop.example\n"),
        "{text}"
    );
    assert!(text.to_lowercase().contains("\nvia: 2"), "{text}");
}

#[test]
fn a_request_that_could_mean_two_is_refused() {
    use std::io::{Read, Write};
    let world = echo("");
    for head in [
        "POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "GET /echo/x HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
        "GET /echo/x HTTP/1.1\nHost: a\n\n",
        "GET /echo/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /echo/x HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(world.gateway()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Refused, and the connection is closed, perhaps by a reset: what follows
        // could be anything, so it is not read.
        drop(stream.read_to_end(&mut answer));
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 400 "), "{head:?}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{head:?}: {text}");
    }
    assert_eq!(world.get("/echo/x").status, 200);
}
