//! The Atoll that is copied to, by its fronts: it is looked up anew for each request, so
//! that one that was started again elsewhere is found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use atoll_consul::copying as consul;
use atoll_eureka::copying as eureka;
use atoll_model::Address;
use atoll_net::client::{Request, Response};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::mirror::{Act, Item, Mirror, Order};
use super::source::Kind;
use crate::cli::remote::{self, Run};

/// Told in one request, as many as a Eureka server does.
pub(super) const BATCH_MAX: usize = 250;
/// Bytes of such a request, below what either front takes (512 KiB); a single item that
/// has more is sent alone.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// For an answer: each item of a batch is on the disk by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Largest answer: all keys.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// RFC 3986 §2.3 and the slash, which parts keys.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A running Atoll.
#[derive(Debug)]
pub(super) struct Target {
    kind: Kind,
    data_dir: PathBuf,
    /// Where the copies come from, for their mark.
    from: String,
    dry_run: bool,
}

impl Target {
    /// The one that keeps its state in `data_dir`.
    pub(super) fn new(kind: Kind, data_dir: &Path, from: &str, dry_run: bool) -> Self {
        Self {
            kind,
            data_dir: data_dir.to_owned(),
            from: from.to_owned(),
            dry_run,
        }
    }

    /// Where it speaks the protocol of the source, and the token that it wants.
    ///
    /// # Errors
    /// When nobody runs there, or that listener is off.
    pub(super) fn front(&self) -> anyhow::Result<(Address, Option<String>)> {
        let Run { listeners, token } = Run::read(&self.data_dir)?;
        let key = self.kind.word();
        let Some(listens) = listeners[key].as_str() else {
            bail!(
                "the Atoll that runs here does not listen for {key}: set `listen.{key}` in its file and start it again"
            );
        };
        Ok((remote::reachable(listens)?, token))
    }

    /// Tells of the first of `orders`, as many as one request holds; gives the answers in
    /// their order. What has become of no instance is passed over.
    pub(super) async fn tell(
        &self,
        mirror: &Mirror,
        orders: &[Order],
    ) -> anyhow::Result<Vec<(u16, String)>> {
        let mut items: Vec<Value> = Vec::new();
        let mut bytes = 0;
        for order in orders.iter().take(BATCH_MAX) {
            let item = self.item(order, mirror.item(&order.key));
            bytes += item.to_string().len();
            if bytes > BATCH_BYTES_MAX && !items.is_empty() {
                break;
            }
            items.push(item);
        }
        let told = items.len();
        let (from, dry_run) = (&self.from[..], self.dry_run);
        let (method, path, body) = match self.kind {
            Kind::Eureka => (
                Method::POST,
                eureka::BATCH_PATH,
                eureka::batch(from, dry_run, items),
            ),
            Kind::Consul => (
                Method::PUT,
                consul::BATCH_PATH,
                consul::batch(from, dry_run, items),
            ),
        };
        let answer = self.ask(method, path, body.into()).await?;
        if !answer.status.is_success() {
            return Err(refused(path, &answer));
        }
        let answers = match self.kind {
            Kind::Eureka => eureka::answers(&answer.body),
            Kind::Consul => consul::answers(&answer.body),
        };
        let answers = answers.map_err(|why| anyhow!("Atoll's answer to {path}: {why}"))?;
        if answers.len() != told {
            bail!("Atoll answered {} of {told} items", answers.len());
        }
        Ok(answers)
    }

    fn item(&self, order: &Order, item: Option<&Item>) -> Value {
        let key = &order.key;
        let body = || -> Value {
            let text = item.map_or("", |item| &item.body);
            // It was written from such a tree.
            serde_json::from_str(text).unwrap_or_default()
        };
        match (self.kind, order.act) {
            (Kind::Eureka, Act::Register) => eureka::register(&key.service, &key.id, &body()),
            (Kind::Eureka, Act::Renew) => eureka::renew(&key.service, &key.id),
            (Kind::Eureka, Act::Cancel) => eureka::cancel(&key.service, &key.id),
            (Kind::Consul, Act::Register) => consul::register(&body()),
            (Kind::Consul, Act::Renew) => consul::renew(&key.service, &key.id, &key.node),
            (Kind::Consul, Act::Cancel) => consul::deregister(&key.service, &key.id, &key.node),
        }
    }

    /// All keys that Atoll has.
    pub(super) async fn keys(&self) -> anyhow::Result<Vec<consul::Pair>> {
        self.read_keys("/v1/kv/?recurse").await
    }

    /// One of them.
    pub(super) async fn key(&self, key: &str) -> anyhow::Result<Option<consul::Pair>> {
        let mut found = self.read_keys(&path_of(key)).await?;
        Ok(found.pop())
    }

    async fn read_keys(&self, path: &str) -> anyhow::Result<Vec<consul::Pair>> {
        let answer = self.ask(Method::GET, path, Bytes::new()).await?;
        match answer.status.as_u16() {
            200 => consul::read_keys(&answer.body).map_err(|why| anyhow!("Atoll's keys: {why}")),
            404 => Ok(Vec::new()),
            _ => Err(refused(path, &answer)),
        }
    }

    /// Puts a key if it still is as it was at `index` (0: not there). Gives why not, when
    /// the key is one that Atoll will not have.
    pub(super) async fn put_key(
        &self,
        pair: &consul::Pair,
        index: u64,
    ) -> anyhow::Result<Result<bool, String>> {
        let path = format!("{}?cas={index}&flags={}", path_of(&pair.key), pair.flags);
        let answer = self
            .ask(Method::PUT, &path, pair.value.clone().into())
            .await?;
        match answer.status.as_u16() {
            200 => Ok(Ok(answer.body.trim_ascii() == b"true")),
            400..500 => Ok(Err(String::from_utf8_lossy(&answer.body).into_owned())),
            _ => Err(refused(&path, &answer)),
        }
    }

    /// Deletes a key if it still is as it was at `index`.
    pub(super) async fn delete_key(&self, key: &str, index: u64) -> anyhow::Result<bool> {
        let path = format!("{}?cas={index}", path_of(key));
        let answer = self.ask(Method::DELETE, &path, Bytes::new()).await?;
        match answer.status.is_success() {
            true => Ok(answer.body.trim_ascii() == b"true"),
            false => Err(refused(&path, &answer)),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response> {
        let (address, token) = self.front()?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            let token = HeaderValue::try_from(format!("Bearer {token}"))?;
            headers.insert(AUTHORIZATION, token);
        }
        let request = Request {
            headers,
            body,
            timeout: ANSWER_WITHIN,
            body_bytes_max: ANSWER_BYTES_MAX,
            ..Request::new(method, &address, path)
        };
        request
            .send()
            .await
            .map_err(|error| match error.is_connect() {
                // A run.json that a killed Atoll left behind.
                true => remote::nobody(&self.data_dir),
                false => anyhow::Error::from(error).context("Atoll"),
            })
    }
}

fn path_of(key: &str) -> String {
    format!("/v1/kv/{}", utf8_percent_encode(key, IN_PATH))
}

fn refused(path: &str, answer: &Response) -> anyhow::Error {
    let said = String::from_utf8_lossy(&answer.body);
    let said: String = said.chars().take(200).collect();
    anyhow!(
        "Atoll answered {} to {path}: {}",
        answer.status,
        crate::paint::harmless(&said)
    )
}
