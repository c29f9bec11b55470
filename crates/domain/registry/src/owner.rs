//! The one task that changes the registry's state: it waits, takes all that has
//! come in, publishes one catalogue for it, and hands out what is to be done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{Catalog, InstanceId, Revision, ServiceName};
use atoll_runtime::{Clock, Stop};
use tokio::sync::{mpsc, oneshot, watch};

use crate::shared::{Again, Link, NEWS_MAX, News, Outcome};
use crate::state::shared::Owed;
use crate::state::{Effects, Event, Question, State};
use crate::writer::{Awaited, Batch, Reply};
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
    /// Where the store is heard that others write to as well.
    pub(crate) link: Option<Link>,
}

/// Who asked and what is said to them, once the catalogue is published.
type Replies = Vec<(Reply, Result<(), RegistryError>)>;

impl Owner {
    /// Runs until told to stop; what was sent before that is still done.
    pub(crate) async fn run(mut self, stop: Stop) {
        let (mut inbox, mut news) = (Vec::new(), Vec::new());
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
                _ = hear(&mut self.link, &mut news) => {}
                received = self.commands.recv_many(&mut inbox, EVENTS_MAX) => {
                    if received == 0 {
                        break;
                    }
                }
                () = until(wake) => {}
            }
            self.learn(&mut news);
            self.turn(&mut inbox, &mut batch);
        }
        let (batches, link) = (self.batches, self.link);
        let send = async move {
            if !batch.is_empty() {
                drop(batches.send(batch).await);
            }
        };
        // The writer tells what came of the batch before it ends.
        tokio::join!(send, listen(link));
    }

    /// Takes in what came from the shared store.
    fn learn(&mut self, news: &mut Vec<News>) {
        let Some(link) = &mut self.link else { return };
        let now = self.clock.now();
        for told in news.drain(..) {
            match told {
                News::Changes(revision, changes) => self.state.take_in(revision, changes, now),
                News::All(revision, all) => {
                    // A store that begins anew tells of no revision that was before.
                    if revision < self.state.fed() {
                        link.answer(None);
                        for again in &mut link.again {
                            again.after = Revision(0);
                        }
                    }
                    self.state.take_in_all(revision, all, now);
                }
                News::Away(away) => self.state.stand(away, now),
                News::Written(written) => {
                    for (key, (write, outcome)) in &written.outcomes {
                        self.state.written(key, *write, outcome);
                        if matches!(outcome, Outcome::Raced(_)) {
                            link.doubts.insert(key.clone());
                        }
                    }
                    link.written(&written.outcomes, written.waiting);
                }
            }
        }
    }

    fn turn(&mut self, inbox: &mut Vec<Command>, batch: &mut Batch) {
        let now = self.clock.now();
        let mut replies = Replies::new();
        let mut questions = Vec::new();
        for Again { event, reply, .. } in self.due_again() {
            self.change_shared(event, reply, batch, &mut replies, now);
        }
        for command in inbox.drain(..) {
            match command {
                Command::Event(event) => drop(self.state.step(event, now)),
                Command::Change(event, reply) | Command::Durable(event, reply)
                    if self.link.is_some() =>
                {
                    self.change_shared(event, reply, batch, &mut replies, now);
                }
                Command::Change(event, reply) => {
                    replies.push((reply, self.state.step(event, now)));
                }
                Command::Durable(event, reply) => match self.state.step(event, now) {
                    Ok(()) => {
                        let durable = Awaited::Durable(self.state.revision());
                        batch.waiting.push((reply, durable));
                    }
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
        if self.state.wants_revision()
            && let Some(link) = &self.link
        {
            batch.add(vec![Owed::bump(&link.bump)]);
        }
        let revision = self.state.revision();
        if let Some(catalog) = self.state.publish() {
            self.catalog.send_replace(catalog);
        }
        self.perform(batch);
        let shown = match self.link {
            Some(_) => self.state.catalog().revision,
            None => revision,
        };
        for (reply, result) in replies {
            // Who asked may have gone away.
            drop(reply.send(result.map(|()| shown)));
        }
        self.answer_shared(shown);
        for question in questions {
            self.tell(question);
        }
    }

    /// Takes in a change that is answered once the shared store has it and the
    /// catalogue shows it.
    fn change_shared(
        &mut self,
        event: Event,
        reply: Reply,
        batch: &mut Batch,
        replies: &mut Replies,
        now: Instant,
    ) {
        // That it goes on with us is for us to write; to its client it is one renewal.
        let renewal = matches!(event, Event::Renew { .. });
        let again = match &event {
            Event::Said(_) | Event::Report { .. } | Event::Drain { .. } => {
                Some(Box::new(event.clone()))
            }
            _ => None,
        };
        let before = self.state.owes();
        let result = self.state.step(event, now);
        match self.state.owed_since(before) {
            _ if renewal || result.is_err() => replies.push((reply, result)),
            Some(key) => batch.waiting.push((reply, Awaited::Key(key, again))),
            None => {
                if let Some(link) = &mut self.link {
                    link.bumped.push(reply);
                }
            }
        }
    }

    /// What is to be done anew, now that what came between is known.
    fn due_again(&mut self) -> Vec<Again> {
        let Some(link) = &mut self.link else {
            return Vec::new();
        };
        let (fed, away) = (self.state.fed(), self.state.is_away());
        let (due, later) = std::mem::take(&mut link.again)
            .into_iter()
            .partition(|again| away || again.after <= fed);
        link.again = later;
        due
    }

    /// Answers those whose change is shown by now.
    fn answer_shared(&mut self, shown: Revision) {
        let Some(link) = &mut self.link else { return };
        link.resolve();
        link.answer((!self.state.is_away()).then(|| self.state.fed()));
        if !self.state.is_bumping() {
            for reply in link.bumped.drain(..) {
                drop(reply.send(Ok(shown)));
            }
        }
    }

    fn perform(&mut self, batch: &mut Batch) {
        let Effects { entries, questions } = self.state.take_effects();
        batch.add(entries);
        batch.seen = self.state.fed();
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

/// Waits for news from the shared store, if there is one.
async fn hear(link: &mut Option<Link>, news: &mut Vec<News>) -> usize {
    if let Some(link) = link {
        let count = link.news.recv_many(news, NEWS_MAX).await;
        if count > 0 {
            return count;
        }
    }
    std::future::pending().await
}

/// Has those who wait for the writer be answered, until it has ended.
async fn listen(link: Option<Link>) {
    let Some(mut link) = link else { return };
    while let Some(told) = link.news.recv().await {
        if let News::Written(written) = told {
            link.written(&written.outcomes, written.waiting);
        }
    }
    link.answer(None);
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
