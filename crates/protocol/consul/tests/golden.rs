//! Requests and answers, word for word, from files in `tests/golden/`: written from
//! Consul's documentation, and held to it.
//!
//! A file is a conversation: exchanges between lines of `----`, each a request (method,
//! path, body) and after an empty line its answer (status, index, body). UUIDs are
//! numbered in the order in which they come, and may be sent as they are numbered. With
//! `ATOLL_GOLDEN=write` the answers are written anew, to be read before they are kept.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a failed step is a failed test; who writes answers says so in the environment"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use atoll_consul::{AclSettings, Settings};
use atoll_model::Address;
use atoll_net::client::Request;
use atoll_registry::{Memory, Registry};
use atoll_runtime::{Clock, Tasks};
use http::Method;

/// Numbers the UUIDs of one conversation.
#[derive(Default)]
struct Uuids(Vec<String>);

impl Uuids {
    fn hide(&mut self, text: &str) -> String {
        let mut hidden = String::new();
        let mut rest = text;
        while let Some(start) = (0..rest.len()).find(|at| is_uuid(rest, *at)) {
            let (before, from) = rest.split_at(start);
            let (uuid, after) = from.split_at(36);
            let known = self.0.iter().position(|known| known == uuid);
            let number = known.unwrap_or_else(|| {
                self.0.push(uuid.to_owned());
                self.0.len() - 1
            });
            write!(hidden, "{before}<uuid-{number}>").unwrap();
            rest = after;
        }
        hidden + rest
    }

    fn show(&self, text: &str) -> String {
        let numbered = self.0.iter().enumerate();
        numbered.fold(text.to_owned(), |text, (number, uuid)| {
            text.replace(&format!("<uuid-{number}>"), uuid)
        })
    }
}

fn is_uuid(text: &str, at: usize) -> bool {
    let Some(part) = text.get(at..at + 36) else {
        return false;
    };
    part.bytes().enumerate().all(|(index, byte)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// Hides since when a server is stable: it is when the test began.
fn without_time(body: &str) -> String {
    let Some((before, from)) = body.split_once("\"StableSince\":") else {
        return body.to_owned();
    };
    let at = from.find("20").unwrap();
    let (space, from) = from.split_at(at);
    let (time, after) = from.split_at("2017-03-06T22:07:51Z".len());
    assert!(time.ends_with('Z'), "{time}");
    format!("{before}\"StableSince\":{space}<time>{after}")
}

/// Hides what of a token differs each time: when it was made, and a sum of the ids in it.
fn without_moments(body: &str) -> String {
    let mut hidden = body.to_owned();
    for key in ["\"CreateTime\":", "\"Hash\":"] {
        let mut shown = String::new();
        let mut rest = &hidden[..];
        while let Some((before, from)) = rest.split_once(key) {
            let mut parts = from.splitn(3, '"');
            let (space, value, after) = (parts.next(), parts.next(), parts.next());
            assert!(!value.unwrap().is_empty(), "{body}");
            write!(shown, "{before}{key}{}\"<some>\"", space.unwrap()).unwrap();
            rest = after.unwrap();
        }
        hidden = shown + rest;
    }
    hidden
}

async fn start(acl: Option<AclSettings>) -> (Address, Tasks) {
    let tasks = Tasks::root(Clock::system());
    let store = atoll_store::embedded::in_memory(Default::default(), &tasks);
    let journal = Arc::new(Memory::default());
    let registry = Registry::open(journal, &tasks, Default::default())
        .await
        .unwrap();
    let listener = atoll_net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let settings = Settings {
        node: "atoll-1".to_owned(),
        address: "127.0.0.1".to_owned(),
        datacenter: "dc1".to_owned(),
        token: None,
        acl,
    };
    let started = atoll_consul::start(&tasks, listener, settings, registry, store);
    (started.await.unwrap().address.into(), tasks)
}

async fn answered(at: &Address, uuids: &mut Uuids, question: &str) -> String {
    let question = uuids.show(question);
    let (line, body) = question.split_once('\n').unwrap_or((&question, ""));
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let mut request = Request::new(method, at, path);
    request.body = body.to_owned().into();
    let response = request.send().await.unwrap();
    let mut answer = response.status.as_u16().to_string();
    if let Some(index) = response.headers.get("x-consul-index") {
        let index = index.to_str().unwrap();
        // No revision is as large as what is made of an event's random id.
        let of_an_id = index.parse::<u64>().unwrap() > 1 << 40;
        let index = if of_an_id { "<of an id>" } else { index };
        write!(answer, " index {index}").unwrap();
    }
    if let Some(allow) = response.headers.get("allow") {
        write!(answer, " allow {}", allow.to_str().unwrap()).unwrap();
    }
    let body = String::from_utf8(response.body.to_vec()).unwrap();
    let body = without_time(&body);
    let body = without_moments(&body);
    if !body.is_empty() {
        write!(answer, "\n{}", body.trim_end()).unwrap();
    }
    uuids.hide(&answer)
}

async fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let acl = (name == "acl.txt").then(|| AclSettings {
        default_allow: false,
        management: Some("root".to_owned()),
    });
    let (at, tasks) = start(acl).await;
    let mut uuids = Uuids::default();
    let mut told = Vec::new();
    for exchange in text.split("----\n") {
        let question = exchange.split("\n\n").next().unwrap().trim_end();
        let answer = answered(&at, &mut uuids, question).await;
        let hidden = uuids.hide(question);
        told.push(format!("{hidden}\n\n{answer}\n"));
    }
    drop(tasks.stop(std::time::Duration::from_secs(5)).await);
    let told = told.join("----\n");
    if std::env::var("ATOLL_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(&path, told).unwrap();
        return;
    }
    for (wanted, told) in text.split("----\n").zip(told.split("----\n")) {
        assert_eq!(told, wanted, "{name}");
    }
}

#[tokio::test]
async fn acl() {
    check("acl.txt").await;
}

#[tokio::test]
async fn agent() {
    check("agent.txt").await;
}

#[tokio::test]
async fn checks() {
    check("checks.txt").await;
}

#[tokio::test]
async fn catalog() {
    check("catalog.txt").await;
}

#[tokio::test]
async fn health() {
    check("health.txt").await;
}

#[tokio::test]
async fn kv() {
    check("kv.txt").await;
}

#[tokio::test]
async fn session() {
    check("session.txt").await;
}

#[tokio::test]
async fn txn() {
    check("txn.txt").await;
}

#[tokio::test]
async fn query() {
    check("query.txt").await;
}

#[tokio::test]
async fn event() {
    check("event.txt").await;
}

#[tokio::test]
async fn coordinate() {
    check("coordinate.txt").await;
}

#[tokio::test]
async fn operator() {
    check("operator.txt").await;
}

#[tokio::test]
async fn ui() {
    check("ui.txt").await;
}

#[tokio::test]
async fn config() {
    check("config.txt").await;
}

#[tokio::test]
async fn common() {
    check("common.txt").await;
}

#[tokio::test]
async fn headers_say_what_consuls_say_and_long_answers_are_compressed() {
    let (at, tasks) = start(None).await;
    let mut request = Request::new(Method::GET, &at, "/v1/internal/ui/nodes?cached&stale");
    request
        .headers
        .insert("accept-encoding", "gzip".parse().unwrap());
    let response = request.send().await.unwrap();
    for (name, value) in [
        ("x-consul-knownleader", "true"),
        ("x-consul-lastcontact", "0"),
        ("x-consul-effective-consistency", "stale"),
        ("x-consul-default-acl-policy", "allow"),
        ("x-cache", "HIT"),
        ("age", "0"),
    ] {
        assert_eq!(response.headers[name], value, "{name}");
    }
    // That of a node alone is short.
    assert!(!response.headers.contains_key("content-encoding"));

    let mut put = Request::new(Method::PUT, &at, "/v1/kv/long?flags=1");
    put.body = "x".repeat(4096).into();
    put.send().await.unwrap();
    let get = Request::new(Method::GET, &at, "/v1/kv/long");
    let plain = get.send().await.unwrap();
    assert!(!plain.headers.contains_key("content-encoding"));
    assert!(!plain.headers.contains_key("x-cache"));
    let mut get = Request::new(Method::GET, &at, "/v1/kv/long");
    get.headers
        .insert("accept-encoding", "gzip".parse().unwrap());
    let packed = get.send().await.unwrap();
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert_eq!(packed.headers["vary"], "Accept-Encoding");
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(&packed.body[..]);
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    assert_eq!(text.as_bytes(), &plain.body[..]);
    drop(tasks.stop(std::time::Duration::from_secs(5)).await);
}

/// A connection is kept for the next request, whatever becomes of the first.
#[tokio::test]
async fn a_refused_request_with_a_body_does_not_end_its_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (at, tasks) = start(None).await;
    let mut stream = tokio::net::TcpStream::connect(at.to_string())
        .await
        .unwrap();
    for path in [
        "/v1/connect/intentions/exact",
        "/v1/status/leader",
        "/v1/nothing",
    ] {
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 262144\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 262_144]).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let byte = stream
                .read_u8()
                .await
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            answer.push(byte);
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(!answer.contains("connection: close"), "{answer}");
        let length = answer.split_once("content-length: ").unwrap().1;
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    drop(tasks.stop(std::time::Duration::from_secs(5)).await);
}

#[tokio::test]
async fn of_transactions_that_compare_the_same_check_one_is_done() {
    let (at, tasks) = start(None).await;
    let put = async |path: &str, body: &str| {
        let mut request = Request::new(Method::PUT, &at, path);
        request.body = body.to_owned().into();
        let response = request.send().await.unwrap();
        (response.status.as_u16(), response.body)
    };
    let service = r#"{"Name":"web","ID":"w","Port":80,"Check":{"TTL":"1h","CheckID":"c"}}"#;
    assert_eq!(put("/v1/agent/service/register", service).await.0, 200);
    let get = r#"[{"Check":{"Verb":"get","Check":{"Node":"atoll-1","CheckID":"c"}}}]"#;
    let (_, told) = put("/v1/txn", get).await;
    let told = String::from_utf8(told.to_vec()).unwrap();
    let index = told.split_once("\"ModifyIndex\":").unwrap().1;
    let index = index.split('}').next().unwrap();
    let bodies = (0..8).map(|number| {
        format!(
            r#"[{{"Check":{{"Verb":"cas","Check":{{"Node":"atoll-1","CheckID":"c","ServiceID":"w",
            "Status":"warning","Output":"{number}","ModifyIndex":{index}}}}}}},
            {{"KV":{{"Verb":"set","Key":"by/{number}","Value":""}}}}]"#
        )
    });
    let all = bodies.map(async |body| put("/v1/txn", &body).await.0);
    let mut all = futures_util::future::join_all(all).await;
    all.sort_unstable();
    assert_eq!(all, [200, 409, 409, 409, 409, 409, 409, 409]);
    let keys = Request::new(Method::GET, &at, "/v1/kv/by?keys");
    let keys = keys.send().await.unwrap().body;
    assert_eq!(
        keys.iter().filter(|byte| **byte == b'/').count(),
        1,
        "{keys:?}"
    );
    drop(tasks.stop(std::time::Duration::from_secs(5)).await);
}
