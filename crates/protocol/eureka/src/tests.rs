//! The endpoints as a client meets them: requests and answers from `tests/golden/`,
//! each file one conversation with a server of its own whose clock stands still.
//!
//! A step is a request (method and path, headers, an empty line, the body) and, after
//! `---`, its answer (status, what of the headers matters, the body with a line for each
//! value or element). `@ 30s` lets time pass.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_model::{Check, Probe};
use atoll_registry::{Memory, Registration, Registry, Source};
use atoll_runtime::{Clock, Tasks};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

use crate::Settings;
use crate::server::Front;

/// Between steps.
const STEP: &str = "\n=== ";
/// Between a request and its answer.
const ANSWER: &str = "\n---\n";

pub(crate) struct World {
    pub(crate) registry: Registry,
    settings: Settings,
    clock: Clock,
    _tasks: Tasks,
}

impl World {
    pub(crate) async fn new(settings: Settings) -> Self {
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let tasks = Tasks::root(clock.clone());
        let journal = Arc::new(Memory::default());
        let registry = Registry::open(journal, &tasks, Default::default());
        Self {
            registry: registry.await.unwrap(),
            settings,
            clock,
            _tasks: tasks,
        }
    }

    pub(crate) async fn ask(&self, request: Request<Full<Bytes>>) -> Response<Full<Bytes>> {
        let front = Front::new(
            self.registry.clone(),
            self.clock.clone(),
            self.settings.clone(),
        );
        front.service().oneshot(request).await.unwrap()
    }

    /// An instance of `legacy` that the config file names, and one that the fleet runs
    /// and that has not passed its check yet.
    async fn others(&self) {
        let (service, id) = ("legacy".parse().unwrap(), "10.0.0.5:8080".parse().unwrap());
        let address = "10.0.0.5:8080".parse().unwrap();
        let config = Registration {
            metadata: BTreeMap::from([("version".to_owned(), "7".to_owned())]),
            ..Registration::new(service, id, address, Source::Config)
        };
        self.registry.register(config).await.unwrap();
        let (service, id) = ("users".parse().unwrap(), "users-1".parse().unwrap());
        // RFC 5737: nobody answers there.
        let address = "192.0.2.1:4000".parse().unwrap();
        let mut check = Check::new(Probe::Tcp);
        // When it gives up on starting must be no part of a conversation.
        check.start_period = Duration::from_secs(3600);
        let fleet = Registration {
            checks: vec![check],
            ..Registration::new(service, id, address, Source::Fleet)
        };
        self.registry.register(fleet).await.unwrap();
    }
}

pub(crate) fn request(head: &str, body: &str) -> Request<Full<Bytes>> {
    let mut lines = head.lines();
    let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        request = request.header(name, value);
    }
    let body = Bytes::copy_from_slice(body.as_bytes());
    request.body(Full::new(body)).unwrap()
}

async fn told(response: Response<Full<Bytes>>) -> String {
    let mut text = format!("{}", response.status().as_u16());
    for name in ["content-type", "content-encoding", "www-authenticate"] {
        if let Some(value) = response.headers().get(name) {
            text.push_str(&format!("\n{name}: {}", value.to_str().unwrap()));
        }
    }
    #[expect(clippy::disallowed_methods, reason = "our own answer")]
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    if body.is_empty() {
        return text;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let body = body.replace(
        &format!("\"num-of-cpus\":\"{cpus}\""),
        "\"num-of-cpus\":\"(as many as there are)\"",
    );
    let shown = match serde_json::from_str::<serde_json::Value>(&body) {
        Ok(json) if json.is_object() => serde_json::to_string_pretty(&json).unwrap(),
        _ => body.replace("><", ">\n<"),
    };
    format!("{text}\n\n{shown}")
}

/// The conversation as it went.
async fn converse(golden: &str) -> String {
    let mut settings = Settings::default();
    if golden.starts_with("(with a token)") {
        settings.write_token = Some("s3cret".to_owned());
    }
    let world = World::new(settings).await;
    world.others().await;
    let mut steps = golden.trim_end().split(STEP);
    let mut said = steps.next().unwrap().to_owned();
    for step in steps {
        let (name, rest) = step.split_once('\n').unwrap_or((step, ""));
        if let Some(pause) = name.strip_prefix("@ ") {
            let secs = pause.strip_suffix('s').unwrap().parse().unwrap();
            // Not all at once: a stall of the process is forgiven.
            for _ in 0..secs {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            said.push_str(&format!("{STEP}{name}"));
            continue;
        }
        let asked = rest.split_once(ANSWER).map_or(rest, |(asked, _)| asked);
        let (head, body) = asked.split_once("\n\n").unwrap_or((asked, ""));
        let answer = told(world.ask(request(head.trim_end(), body)).await).await;
        said.push_str(&format!("{STEP}{name}\n{asked}{ANSWER}{answer}"));
    }
    said + "\n"
}

#[tokio::test(start_paused = true)]
async fn conversations_go_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 5, "conversations are gone: {paths:?}");
    let mut wrong = Vec::new();
    for path in paths {
        let golden = fs::read_to_string(&path).unwrap();
        let said = converse(&golden).await;
        if said != golden {
            wrong.push(format!("##### {}\n{said}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "these went otherwise:\n{}",
        wrong.join("")
    );
}

#[tokio::test(start_paused = true)]
async fn answers_and_bodies_are_gzipped_where_both_sides_say_so() {
    use std::io::{Read, Write};
    let world = World::new(Settings::default()).await;
    world.others().await;
    let plain = world.ask(request("GET /eureka/apps", "")).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    #[expect(clippy::disallowed_methods, reason = "our own answer")]
    let plain = plain.into_body().collect().await.unwrap().to_bytes();
    let head = "GET /eureka/apps\nAccept-Encoding: deflate, gzip";
    let zipped = world.ask(request(head, "")).await;
    assert_eq!(zipped.headers()["content-encoding"], "gzip");
    #[expect(clippy::disallowed_methods, reason = "our own answer")]
    let zipped = zipped.into_body().collect().await.unwrap().to_bytes();
    assert!(zipped.len() < plain.len());
    let mut read = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&zipped[..]);
    decoder.read_to_end(&mut read).unwrap();
    assert_eq!(read, plain);

    let post = async |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        let head = "POST /eureka/apps/A\nContent-Type: application/json\nContent-Encoding: gzip";
        let mut asked = request(head, "");
        *asked.body_mut() = Full::new(encoder.finish().unwrap().into());
        world.ask(asked).await.status().as_u16()
    };
    let said = br#"{"instance":{"hostName":"a","ipAddr":"10.0.0.1","app":"A","port":80,
        "dataCenterInfo":{"name":"MyOwn"}}}"#;
    assert_eq!(post(said).await, 204);
    // A bomb: a thousandth of it arrives.
    assert_eq!(post(&vec![b' '; 64 << 20]).await, 413);
}
