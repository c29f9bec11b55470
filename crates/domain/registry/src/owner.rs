//! The one task that changes the registry's state: it waits, takes all that has
//! come in, publishes one catalogue for it, and hands out what is to be done.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Catalog, InstanceId, Revision, ServiceName};
use atoll_runtime::{Clock, Stop};
use tokio::sync::{mpsc, oneshot, watch};

use crate::state::{Effects, Event, Question, State};
use crate::writer::{Batch, Reply};
use crate::{Change, Detail, Preservation, Recently, RegistryError};

/// Events that wait for the owner; then whoever sends waits. A thousand renewals
/// take about a millisecond, so this is some ten milliseconds of work.
pub(crate) const EVENTS_MAX: usize = 16 * 1024;

/// What the owner is sent.
#[derive(Debug)]
pub(crate) enum Command {
    /// Changes the state; nobody waits.
    Event(Event),
    /// Changes the state; answered once published.
    Change(Event, Reply),
    /// Changes the state; answered once published and durable.
    Durable(Event, Reply),
    /// What changed since a revision, with the catalogue that it leads to.
    Changes(
        Revision,
        oneshot::Sender<(Option<Vec<Change>>, Arc<Catalog>)>,
    ),
    /// All that is known of one instance.
    Detail(ServiceName, InstanceId, oneshot::Sender<Option<Detail>>),
    /// What changed within a time.
    Recently(Duration, oneshot::Sender<Recently>),
    /// How self-preservation stands.
    Preservation(oneshot::Sender<Preservation>),
    /// The same of all instances, or of those of one service.
    Details(Option<ServiceName>, oneshot::Sender<Vec<Detail>>),
}

pub(crate) struct Owner {
    pub(crate) state: State,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) catalog: watch::Sender<Arc<Catalog>>,
    pub(crate) questions: mpsc::Sender<Question>,
    pub(crate) batches: mpsc::Sender<Batch>,
    pub(crate) clock: Clock,
}

impl Owner {
    /// Runs until told to stop; what was sent before that is still done.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut inbox = Vec::new();
        // What the writer has not taken yet; it takes all of it at once.
        let mut batch = Batch::default();
        let mut stopping = false;
        loop {
            let wake = self.state.next_wake();
            tokio::select! {
                biased;
                () = stop.requested(), if !stopping => {
                    stopping = true;
                    self.commands.close();
                    continue;
                }
                permit = self.batches.reserve(), if !batch.is_empty() => {
                    // The writer ends after the owner, unless it panicked; then
                    // whoever waits learns it from the dropped batch.
                    let batch = std::mem::take(&mut batch);
                    if let Ok(permit) = permit {
                        permit.send(batch);
                    }
                    continue;
                }
                received = self.commands.recv_many(&mut inbox, EVENTS_MAX) => {
                    if received == 0 {
                        break;
                    }
                }
                () = until(wake) => {}
            }
            self.turn(&mut inbox, &mut batch);
        }
        if !batch.is_empty() {
            drop(self.batches.send(batch).await);
        }
    }

    fn turn(&mut self, inbox: &mut Vec<Command>, batch: &mut Batch) {
        let now = self.clock.now();
        let mut replies = Vec::new();
        let mut questions = Vec::new();
        for command in inbox.drain(..) {
            match command {
                Command::Event(event) => drop(self.state.step(event, now)),
                Command::Change(event, reply) => {
                    replies.push((reply, self.state.step(event, now)));
                }
                Command::Durable(event, reply) => match self.state.step(event, now) {
                    Ok(()) => batch.waiting.push((reply, self.state.revision())),
                    refused @ Err(_) => replies.push((reply, refused)),
                },
                question @ (Command::Changes(..)
                | Command::Recently(..)
                | Command::Preservation(..)
                | Command::Detail(..)
                | Command::Details(..)) => {
                    questions.push(question);
                }
            }
        }
        drop(self.state.step(Event::Tick, now));
        let revision = self.state.revision();
        if let Some(catalog) = self.state.publish() {
            self.catalog.send_replace(catalog);
        }
        self.perform(batch);
        for (reply, result) in replies {
            // Who asked may have gone away.
            drop(reply.send(result.map(|()| revision)));
        }
        for question in questions {
            self.tell(question);
        }
    }

    fn perform(&mut self, batch: &mut Batch) {
        let Effects { entries, questions } = self.state.take_effects();
        batch.add(entries);
        for question in questions {
            // The queue holds as many as the state lets out; it is closed only at the end.
            drop(self.questions.try_send(question));
        }
    }

    fn tell(&self, question: Command) {
        let now = self.clock.now();
        match question {
            Command::Changes(since, reply) => {
                let changes = self.state.changes(since);
                drop(reply.send((changes, Arc::clone(self.state.catalog()))));
            }
            Command::Recently(window, reply) => {
                let (complete, changes) = self.state.recently(window, now);
                let catalog = Arc::clone(self.state.catalog());
                drop(reply.send(Recently {
                    catalog,
                    complete,
                    changes,
                }));
            }
            Command::Preservation(reply) => drop(reply.send(self.state.preservation())),
            Command::Detail(service, id, reply) => {
                let record = self.state.record(&service, &id);
                drop(reply.send(record.map(|record| Detail::of(record, now))));
            }
            Command::Details(service, reply) => {
                let details = match service {
                    Some(service) => self.state.records_of(&service),
                    None => self.state.records().collect(),
                };
                let details = details.into_iter().map(|r| Detail::of(r, now)).collect();
                drop(reply.send(details));
            }
            Command::Event(_) | Command::Change(..) | Command::Durable(..) => {
                debug_assert!(false, "these change the state and were taken in before");
            }
        }
    }
}

async fn until(wake: Option<std::time::Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl From<oneshot::error::RecvError> for RegistryError {
    fn from(_: oneshot::error::RecvError) -> Self {
        Self::Closed
    }
}
