//! Reads a Consul: its services, the instances of each and its keys, by blocking queries,
//! so that a change is seen when it happens.
//!
//! Consul lets one address have 200 connections (`http_max_conns_per_client`), which is
//! often that of a node's agent and all its services: so no more than
//! [`WATCHES_MAX`] services are waited for at once. Beyond that they are asked in turn,
//! and a change among 1,000 services is seen within some ten seconds.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use atoll_consul::copying::{self, Listed, Pair};
use atoll_net::client::Response;
use atoll_runtime::{Backoff, Clock, Random};
use futures_util::stream::{FuturesUnordered, StreamExt};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;

use super::seen::{Seen, of_consul};
use super::source::Source;

/// Services that are waited for at once; half of what Consul allows one address.
const WATCHES_MAX: usize = 100;
/// How long a question waits for a change, when each service can have its own.
const WAIT: Duration = Duration::from_secs(55);
/// How long when they take turns.
const WAIT_IN_TURN: Duration = Duration::from_secs(1);
/// What an answer may take beyond the wait, to which Consul adds a sixteenth.
const SLACK: Duration = Duration::from_secs(30);
/// Shortest time between two questions for the same, as Consul's own clients keep it:
/// what changes all the time is not asked for all the time.
const PAUSE: Duration = Duration::from_millis(200);
/// A large answer is asked for so many times less often.
const REST_FACTOR: u32 = 4;
/// Between questions to one that gives no index to wait with.
const POLL: Duration = Duration::from_secs(1);
/// After a failure, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// All that a Consul has.
#[derive(Debug)]
pub(super) struct All {
    pub(super) instances: Vec<Listed>,
    /// Why there are none, when they may not be read.
    pub(super) keys: anyhow::Result<Vec<Pair>>,
}

/// Reads everything once.
pub(super) async fn all(source: &Source) -> anyhow::Result<All> {
    let what = What::Services;
    let body = source.list(&what.path()).await?;
    let names = what.read_names(source, &body)?;
    let mut asking = futures_util::stream::iter(names)
        .map(|name| async move {
            let what = What::Service(name);
            let body = source.list(&what.path()).await?;
            what.read_instances(source, &body)
        })
        // Less than what may wait: it is over soon.
        .buffered(16);
    let mut instances = Vec::new();
    while let Some(of_one) = asking.next().await {
        instances.extend(of_one?);
    }
    drop(asking);
    let keys = source.get(&What::Keys.path(), SLACK).await;
    let keys = keys.and_then(|answer| What::Keys.read_keys(source, &answer));
    Ok(All { instances, keys })
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Services,
    Service(String),
    Keys,
}

impl What {
    fn path(&self) -> String {
        match self {
            Self::Services => "/v1/catalog/services".to_owned(),
            Self::Service(name) => {
                let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
                format!("/v1/health/service/{name}")
            }
            Self::Keys => "/v1/kv/?recurse".to_owned(),
        }
    }

    fn read_names(&self, source: &Source, body: &[u8]) -> anyhow::Result<Vec<String>> {
        self.or_explain(source, copying::read_services(body))
    }

    fn read_instances(&self, source: &Source, body: &[u8]) -> anyhow::Result<Vec<Listed>> {
        self.or_explain(source, copying::read_instances(body))
    }

    fn read_keys(&self, source: &Source, answer: &Response) -> anyhow::Result<Vec<Pair>> {
        if answer.status == http::StatusCode::NOT_FOUND {
            // How Consul says that there are none.
            return Ok(Vec::new());
        }
        source.accept(answer)?;
        self.or_explain(source, copying::read_keys(&answer.body))
    }

    fn or_explain<T>(&self, source: &Source, read: Result<T, String>) -> anyhow::Result<T> {
        let read = read.map_err(|why| anyhow!(why));
        read.with_context(|| {
            format!(
                "{}{} answered with something else",
                source.shown,
                self.path()
            )
        })
    }
}

/// A question under way, and how the last ones of its kind went.
struct Question {
    what: What,
    index: u64,
    pause: Duration,
    again: Backoff,
}

struct Answered {
    question: Question,
    answer: anyhow::Result<Response>,
    took: Duration,
}

type Asking<'a> = Pin<Box<dyn Future<Output = Answered> + 'a>>;

/// Says what changes, for ever.
pub(super) async fn follow(source: &Source, clock: &Clock, with_keys: bool, seen: Sender<Seen>) {
    let places = Semaphore::new(WATCHES_MAX);
    let mut random = Random::from_entropy();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    let mut asking: FuturesUnordered<Asking<'_>> = FuturesUnordered::new();
    asking.push(Box::pin(ask(
        source,
        clock,
        &places,
        Question::new(What::Services),
        WAIT,
    )));
    if with_keys {
        asking.push(Box::pin(ask(
            source,
            clock,
            &places,
            Question::new(What::Keys),
            WAIT,
        )));
    }
    while let Some(Answered {
        mut question,
        answer,
        took,
    }) = asking.next().await
    {
        let read = answer.and_then(|answer| question.take(source, &answer, took));
        let (anew, told) = match read {
            Ok((anew, Read::Names(names))) => {
                wanted = names.into_iter().collect();
                (anew, None)
            }
            Ok((anew, Read::Seen(told))) => (anew, Some(told)),
            Err(error) => {
                question.pause = question.again.next(&mut random);
                (false, Some(Seen::Failed(error)))
            }
        };
        for told in anew.then_some(Seen::Anew).into_iter().chain(told) {
            if seen.send(told).await.is_err() {
                return;
            }
        }
        let wait = match wanted.len() <= WATCHES_MAX {
            true => WAIT,
            false => WAIT_IN_TURN,
        };
        let fresh: Vec<String> = wanted.difference(&asked).cloned().collect();
        for name in fresh {
            asked.insert(name.clone());
            let question = Question::new(What::Service(name));
            asking.push(Box::pin(ask(source, clock, &places, question, wait)));
        }
        if let What::Service(name) = &question.what
            && !wanted.contains(name)
        {
            // Its last answer had no instance, or will never come.
            asked.remove(name);
            let (service, items) = (Some(name.clone()), Vec::new());
            if seen.send(Seen::Whole { service, items }).await.is_err() {
                return;
            }
            continue;
        }
        asking.push(Box::pin(ask(source, clock, &places, question, wait)));
    }
}

async fn ask(
    source: &Source,
    clock: &Clock,
    places: &Semaphore,
    question: Question,
    wait: Duration,
) -> Answered {
    tokio::time::sleep(question.pause).await;
    let _place = match question.what {
        // Never closed.
        What::Service(_) => places.acquire().await.ok(),
        What::Services | What::Keys => None,
    };
    let began = clock.now();
    let path = question.path(wait);
    let answer = source.get(&path, wait + wait / 16 + SLACK).await;
    let took = clock.now().saturating_duration_since(began);
    Answered {
        question,
        answer,
        took,
    }
}

enum Read {
    Names(Vec<String>),
    Seen(Seen),
}

impl Question {
    fn new(what: What) -> Self {
        Self {
            what,
            index: 0,
            pause: Duration::ZERO,
            again: Backoff::new(AGAIN.0, AGAIN.1, 0.2),
        }
    }

    fn path(&self, wait: Duration) -> String {
        let path = self.what.path();
        if self.index == 0 {
            return path;
        }
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}index={}&wait={}s", self.index, wait.as_secs())
    }

    /// Reads an answer and sets up the next question; whether the source began anew.
    fn take(
        &mut self,
        source: &Source,
        answer: &Response,
        took: Duration,
    ) -> anyhow::Result<(bool, Read)> {
        let read = match &self.what {
            What::Keys => Read::Seen(Seen::Keys(self.what.read_keys(source, answer)?)),
            What::Services => {
                source.accept(answer)?;
                Read::Names(self.what.read_names(source, &answer.body)?)
            }
            What::Service(name) => {
                source.accept(answer)?;
                let items = self.what.read_instances(source, &answer.body)?;
                Read::Seen(Seen::Whole {
                    service: Some(name.clone()),
                    items: items.into_iter().map(of_consul).collect(),
                })
            }
        };
        self.again.reset();
        let index = answer.headers.get("x-consul-index");
        let index = index
            .and_then(|index| index.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        // "Implementing Blocking Queries" of Consul's documentation: one that goes back
        // is of another life, and the next question is asked as the first one.
        let anew = index < self.index;
        let waited = self.index != 0;
        self.index = if anew { 0 } else { index };
        // What was waited for took long without being large.
        let large = if waited {
            Duration::ZERO
        } else {
            took * REST_FACTOR
        };
        self.pause = match self.index {
            0 => POLL,
            _ => PAUSE.max(large.min(WAIT)),
        };
        if let What::Keys = self.what {
            // All keys come each time: as many seconds of rest as megabytes.
            let megabytes = u32::try_from(answer.body.len() >> 20).unwrap_or(u32::MAX);
            self.pause = self
                .pause
                .max(Duration::from_secs(1).saturating_mul(megabytes));
        }
        Ok((anew, read))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::migrate::source::Kind;

    fn answer(index: &str, body: &'static str) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert("x-consul-index", index.parse().unwrap());
        Response {
            status: StatusCode::OK,
            headers,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn an_index_that_goes_back_is_noticed_and_asked_anew() {
        let source = Source::parse(Kind::Consul, "http://consul").unwrap();
        let mut question = Question::new(What::Service("a b".to_owned()));
        assert_eq!(question.path(WAIT), "/v1/health/service/a%20b");
        let take = |question: &mut Question, index| {
            let read = question.take(&source, &answer(index, "[]"), Duration::ZERO);
            read.unwrap().0
        };
        assert!(!take(&mut question, "7"));
        assert_eq!(
            question.path(WAIT),
            "/v1/health/service/a%20b?index=7&wait=55s"
        );
        assert_eq!(question.pause, PAUSE);
        assert!(
            !take(&mut question, "7"),
            "nothing happened while it waited"
        );
        assert!(take(&mut question, "3"));
        assert_eq!((question.index, question.pause), (0, POLL));
        let wrong = question.take(&source, &answer("1", "{}"), Duration::ZERO);
        assert!(wrong.is_err());
    }

    #[test]
    fn no_keys_are_none_and_a_refusal_says_what_to_do() {
        let source = Source::parse(Kind::Consul, "http://consul").unwrap();
        let mut absent = answer("1", "");
        absent.status = StatusCode::NOT_FOUND;
        assert!(What::Keys.read_keys(&source, &absent).unwrap().is_empty());
        absent.status = StatusCode::FORBIDDEN;
        let error = What::Keys.read_keys(&source, &absent).unwrap_err();
        assert!(error.to_string().contains("--token"), "{error}");
    }
}
