//! Asking instances: the only part of the registry that opens connections.
//!
//! One task holds all questions that are out; the state lets out no more than
//! [`crate::Settings::probes_max`], so the queue between them never fills. Each kind of
//! question has a file of its own below.

mod grpc;
mod http;
mod script;
pub(crate) mod stored;
mod udp;

use std::time::Duration;

use atoll_model::{Address, Probe};
use atoll_net::client::{self, ClientError};
use atoll_net::tls::{Connector, Tls};
use atoll_runtime::{Clock, Stop};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::Outcome;
use crate::checks::FORBIDDEN;
use crate::owner::Command;
use crate::state::{Answer, Event, Question};

/// What every question needs.
pub(crate) struct Asker {
    /// Whom the machine trusts: read when the first question needs it.
    trust: OnceCell<Connector>,
    /// Programs may be run.
    scripts: bool,
    /// Places for programs that run at once.
    running: Semaphore,
}

/// Puts questions until told to stop.
pub(crate) async fn run(
    asker: Asker,
    mut questions: mpsc::Receiver<Question>,
    answers: mpsc::Sender<Command>,
    clock: Clock,
    stop: Stop,
) {
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            question = questions.recv() => match question {
                Some(question) => asking.push(asker.ask(question, &clock)),
                None => return,
            },
            Some(answer) = asking.next() => {
                let command = Command::Event(Event::Answer(answer));
                if answers.send(command).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Asker {
    /// One that runs programs only if `scripts` says so.
    pub(crate) fn new(scripts: bool) -> Self {
        Self {
            trust: OnceCell::new(),
            scripts,
            running: Semaphore::new(script::RUNNING_MAX),
        }
    }

    async fn ask(&self, question: Question, clock: &Clock) -> Answer {
        let Question {
            target,
            address,
            probe,
            timeout,
        } = question;
        let begun = clock.now();
        let (outcome, output) = self.put(&address, &probe, timeout).await;
        Answer {
            target,
            outcome,
            output,
            took: clock.now().saturating_duration_since(begun),
        }
    }

    async fn put(&self, address: &Address, probe: &Probe, timeout: Duration) -> (Outcome, String) {
        // Boxed by kind: each question takes the room of its own, not of the largest.
        match probe {
            Probe::Http { path } => Box::pin(http::get(address, path, timeout)).await,
            Probe::Request(request) => {
                Box::pin(http::request(self, address, request, timeout)).await
            }
            Probe::Tcp => self.connect(address, None, timeout).await,
            Probe::Tls(tls) => Box::pin(self.connect(address, Some(tls), timeout)).await,
            Probe::Udp => udp::ask(address, timeout).await,
            Probe::Grpc { service, tls } => {
                let asked = grpc::check(self, address, service, tls.as_ref());
                within(address, timeout, Box::pin(asked)).await
            }
            Probe::H2Ping { tls } => {
                let asked = grpc::ping(self, address, tls.as_ref());
                within(address, timeout, Box::pin(asked)).await
            }
            Probe::Script { args } if self.scripts => {
                Box::pin(script::run(&self.running, args, timeout)).await
            }
            Probe::Script { .. } => (Outcome::Fail, FORBIDDEN.to_owned()),
            // The state asks nobody then.
            Probe::Alias(_) | Probe::Told { .. } => (Outcome::Fail, "nothing to ask".to_owned()),
        }
    }

    async fn connect(
        &self,
        address: &Address,
        tls: Option<&atoll_model::Tls>,
        timeout: Duration,
    ) -> (Outcome, String) {
        let connected = async {
            let tls = self.tls(tls, address, None).await?;
            client::open(address, tls.as_ref())
                .await
                .map_err(in_words)?;
            let over = if tls.is_some() { " over TLS" } else { "" };
            Ok(format!("{address} takes connections{over}"))
        };
        within(address, timeout, connected).await
    }

    /// How TLS is spoken with `address`, if it is.
    async fn tls<'a>(
        &'a self,
        tls: Option<&'a atoll_model::Tls>,
        address: &'a Address,
        protocol: Option<&'a [u8]>,
    ) -> Result<Option<Tls<'a>>, String> {
        let Some(tls) = tls else { return Ok(None) };
        let connector = self.trust.get_or_try_init(|| async {
            // Not a task of the tree: it reads files and ends by itself.
            let read = tokio::task::spawn_blocking(Connector::system);
            read.await.map_err(in_words)?.map_err(in_words)
        });
        Ok(Some(Tls {
            connector: connector.await?,
            name: tls.name.as_deref().unwrap_or(address.host()),
            verify: tls.verify,
            protocol,
        }))
    }
}

/// What comes of a question that may not take longer than `timeout`.
async fn within(
    address: &Address,
    timeout: Duration,
    asked: impl Future<Output = Result<String, String>>,
) -> (Outcome, String) {
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(output)) => (Outcome::Pass, output),
        Ok(Err(output)) => (Outcome::Fail, output),
        Err(_) => (Outcome::Fail, late(address, timeout)),
    }
}

/// What is said of one who does not answer in time.
fn late(address: &Address, timeout: Duration) -> String {
    let address = address.clone();
    ClientError::Timeout { address, timeout }.to_string()
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
