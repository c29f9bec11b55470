//! `atoll migrate`: copies a running Eureka or Consul into a running Atoll and follows
//! it, until the clients have switched. A client of both: it reads the source as its
//! clients do, and tells Atoll by the front of the same protocol, so that a copy looks
//! as if its client had registered there.
//!
//! What is copied lives by a lease that is renewed here. So nothing vanishes at once when
//! this or the source ends, and nothing stays for ever. Whom a client has registered
//! itself is its own: the front says so (409) and nothing is done to it any more. Look
//! next at `mirror.rs` (what is told when), `eureka.rs` and `consul.rs` (what is read) and
//! at `copies.rs` of the two protocols (what a copy is).

mod consul;
mod eureka;
mod keys;
mod mirror;
mod report;
mod seen;
mod source;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use atoll_consul::copying::Pair;
use atoll_runtime::{Backoff, Clock, Random};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::keys::Keys;
use self::mirror::{Mirror, Order};
use self::report::Report;
use self::seen::{SEEN_MAX, Seen};
pub(crate) use self::source::Kind;
use self::source::Source;
use self::target::{BATCH_MAX, Target};
use crate::paint::Paint;

/// How often copies are renewed, a ninth of their lease: it is also how soon it is seen
/// that one has switched.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long copies are renewed while the source does not answer. Its clients live on
/// meanwhile; but what nobody has spoken of for so long may be long gone.
const AWAY_MAX: Duration = Duration::from_secs(15 * 60);
/// Between two tries to tell Atoll, at first and at most: within a third of a lease.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    pub(crate) datacenter: Option<String>,
    pub(crate) once: bool,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
    pub(crate) paint: Paint,
    pub(crate) data_dir: PathBuf,
}

/// Copies and follows until Ctrl-C.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    crate::cli::remote::runtime()?.block_on(async {
        let mut source = Source::parse(options.kind, &options.url)?;
        if let Some(token) = &options.token {
            source = source.with_token(token)?;
        }
        if let Some(datacenter) = &options.datacenter {
            source = source.of_datacenter(datacenter);
        }
        let target = Target::new(
            options.kind,
            &options.data_dir,
            &source.shown,
            options.dry_run,
        );
        // Before the source is asked: it may be long.
        target.front()?;
        let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("signals")?;
        let mut migration = Migration::new(target, options);
        let migrate = migration.migrate(&source, options.once || options.dry_run);
        tokio::select! {
            done = migrate => done?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        migration.end(options.dry_run)?;
        Ok(ExitCode::SUCCESS)
    })
}

/// How to go on from what the source had at first.
enum First {
    Eureka(eureka::Known),
    Consul,
}

struct Migration {
    clock: Clock,
    target: Target,
    mirror: Mirror,
    keys: Keys,
    /// Keys that Atoll has not been told yet.
    pairs: Option<Vec<Pair>>,
    with_keys: bool,
    report: Report,
    lease: Duration,
    /// Since when the source does not answer.
    away: Option<Instant>,
    /// Whether Atoll did not answer last.
    stuck: bool,
}

impl Migration {
    fn new(target: Target, options: &Options) -> Self {
        let lease = match options.kind {
            Kind::Eureka => atoll_eureka::copying::LEASE,
            Kind::Consul => atoll_consul::copying::LEASE,
        };
        Self {
            clock: Clock::system(),
            target,
            mirror: Mirror::new(lease),
            keys: Keys::default(),
            pairs: None,
            with_keys: false,
            report: Report {
                json: options.json,
                dry_run: options.dry_run,
                paint: options.paint,
                first: true,
                said: None,
            },
            lease,
            away: None,
            stuck: false,
        }
    }

    async fn migrate(&mut self, source: &Source, once: bool) -> anyhow::Result<()> {
        let first = match self.read(source).await {
            Ok(first) => first,
            Err(error) => return Err(source.explain(error).await),
        };
        if self.report.dry_run {
            return self.rehearse(source).await;
        }
        self.tell().await?;
        self.report.first = false;
        self.summary(source)?;
        if once {
            return Ok(());
        }
        self.report.status(self.mirror.counts())?;
        let (sender, receiver) = mpsc::channel(SEEN_MAX);
        let (clock, with_keys) = (self.clock.clone(), self.with_keys);
        let reading = async {
            match first {
                First::Eureka(known) => eureka::follow(source, &clock, known, sender).await,
                First::Consul => consul::follow(source, &clock, with_keys, sender).await,
            }
            Ok(())
        };
        let telling = self.follow(source, receiver);
        tokio::try_join!(Box::pin(reading), telling)?;
        Ok(())
    }

    /// Reads everything once.
    async fn read(&mut self, source: &Source) -> anyhow::Result<First> {
        let now = self.clock.now();
        match source.kind {
            Kind::Eureka => {
                let listing = eureka::all(source).await?;
                let mut known = eureka::Known::default();
                known.whole(&listing.instances);
                let items = listing.instances.into_iter().map(seen::of_eureka);
                self.mirror.whole(None, items.collect(), now);
                Ok(First::Eureka(known))
            }
            Kind::Consul => {
                let consul::All { instances, keys } = consul::all(source).await?;
                let items = instances.into_iter().map(seen::of_consul);
                self.mirror.whole(None, items.collect(), now);
                match keys {
                    Ok(keys) => {
                        self.with_keys = true;
                        self.pairs = Some(keys);
                    }
                    Err(error) => {
                        let text = format!("the keys are not copied: {error:#}");
                        self.report.note("warning", &text)?;
                    }
                }
                Ok(First::Consul)
            }
        }
    }

    /// Says what would be copied.
    async fn rehearse(&mut self, source: &Source) -> anyhow::Result<()> {
        self.tell_due().await?;
        let mut keys = None;
        if let Some(pairs) = self.pairs.take() {
            let events = self.keys.rehearse(&pairs, &self.target).await?;
            for (key, event) in &events {
                self.report.key(key, event)?;
            }
            let copied = |event: &&(String, keys::KeyEvent)| event.1 == keys::KeyEvent::Copied;
            keys = Some(events.iter().filter(copied).count());
        }
        self.report
            .summary(&source.shown, self.mirror.counts(), keys)?;
        Ok(())
    }

    fn summary(&self, source: &Source) -> std::io::Result<()> {
        let keys = self.with_keys.then(|| self.keys.count());
        let counts = self.mirror.counts();
        self.report.summary(&source.shown, counts, keys)?;
        if source.kind == Kind::Consul {
            let text = "tokens, sessions, prepared queries and nodes without services are not copied; locks begin anew";
            self.report.note("note", text)?;
        }
        Ok(())
    }

    /// Tells Atoll what the source says, for ever.
    async fn follow(
        &mut self,
        source: &Source,
        mut seen: mpsc::Receiver<Seen>,
    ) -> anyhow::Result<()> {
        let mut renew = tokio::time::interval(RENEW_EVERY);
        // A machine that slept does not catch up on what it missed.
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        renew.tick().await;
        let mut again = Backoff::new(AGAIN.0, AGAIN.1, 0.2);
        let mut random = Random::from_entropy();
        let mut pause = None;
        loop {
            let renewals = tokio::select! {
                told = seen.recv() => match told {
                    Some(told) => {
                        self.take(told, source)?;
                        Vec::new()
                    }
                    None => return Ok(()),
                },
                _ = renew.tick() => self.renewals(),
                () = until(pause), if pause.is_some() => Vec::new(),
            };
            // While Atoll is away, only the next try and the next renewal ask for it.
            let wait = pause.is_some_and(|at| self.clock.now() < at) && renewals.is_empty();
            if wait {
                continue;
            }
            let told = async {
                self.tell_all(renewals).await?;
                self.tell().await
            };
            match told.await {
                Ok(()) => {
                    again.reset();
                    pause = None;
                    if std::mem::take(&mut self.stuck) {
                        self.report.note("atoll_answers", "Atoll answers again")?;
                    }
                }
                Err(error) => {
                    let rest = again.next(&mut random);
                    pause = Some(self.clock.now() + rest);
                    if !std::mem::replace(&mut self.stuck, true) {
                        let text = format!("{error:#}; trying again");
                        self.report.note("atoll_away", &text)?;
                    }
                }
            }
            self.report.status(self.mirror.counts())?;
        }
    }

    /// Takes in what the source says.
    fn take(&mut self, told: Seen, source: &Source) -> std::io::Result<()> {
        let now = self.clock.now();
        if let Seen::Failed(error) = told {
            self.mirror.doubt(now);
            if self.away.is_none() {
                self.away = Some(now);
                let minutes = AWAY_MAX.as_secs() / 60;
                let text = format!("{error:#}; what was copied is kept for {minutes} minutes");
                self.report.note("source_away", &text)?;
            }
            return Ok(());
        }
        if self.away.take().is_some() {
            // It may have come back with less than it had.
            self.mirror.doubt(now);
            let text = format!("{} answers again", source.shown);
            self.report.note("source_answers", &text)?;
        }
        match told {
            Seen::Whole { service, items } => {
                for (item, event) in self.mirror.whole(service.as_deref(), items, now) {
                    self.report.instance(&item, &event)?;
                }
            }
            Seen::Changes { put, gone } => {
                put.into_iter().for_each(|item| self.mirror.put(item));
                for key in &gone {
                    if let Some((item, event)) = self.mirror.gone(key, now) {
                        self.report.instance(&item, &event)?;
                    }
                }
            }
            Seen::Keys(pairs) => self.pairs = Some(pairs),
            Seen::Anew => self.mirror.doubt(now),
            Seen::Failed(_) => {}
        }
        Ok(())
    }

    fn renewals(&mut self) -> Vec<Order> {
        let now = self.clock.now();
        let renewals = self.mirror.renewals(now);
        match self.away {
            Some(since) if now.saturating_duration_since(since) >= AWAY_MAX => Vec::new(),
            _ => renewals,
        }
    }

    /// Tells everything that is due.
    async fn tell(&mut self) -> anyhow::Result<()> {
        self.tell_due().await?;
        if let Some(pairs) = &self.pairs {
            let mut events = Vec::new();
            let done = self.keys.follow(pairs, &self.target, &mut events).await;
            for (key, event) in &events {
                self.report.key(key, event)?;
            }
            done?;
            self.pairs = None;
        }
        Ok(())
    }

    async fn tell_due(&mut self) -> anyhow::Result<()> {
        loop {
            let due = self.mirror.due(BATCH_MAX);
            if due.is_empty() {
                return Ok(());
            }
            self.tell_some(&due).await?;
        }
    }

    async fn tell_all(&mut self, orders: Vec<Order>) -> anyhow::Result<()> {
        let mut rest = &orders[..];
        while !rest.is_empty() {
            let told = self.tell_some(rest).await?;
            rest = &rest[told..];
        }
        Ok(())
    }

    /// Tells as much as one request holds; gives how much that was.
    async fn tell_some(&mut self, orders: &[Order]) -> anyhow::Result<usize> {
        let answers = self.target.tell(&self.mirror, orders).await?;
        let told = answers.len();
        for (order, (status, said)) in orders.iter().zip(answers) {
            if let Some((item, event)) = self.mirror.settle(order, status, said) {
                self.report.instance(&item, &event)?;
            }
        }
        Ok(told)
    }

    fn end(&self, dry_run: bool) -> std::io::Result<()> {
        match dry_run {
            true => Ok(()),
            false => self.report.end(self.mirror.counts(), self.lease),
        }
    }
}

async fn until(pause: Option<Instant>) {
    if let Some(at) = pause {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests;
