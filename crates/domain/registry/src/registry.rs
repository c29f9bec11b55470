//! The handle that everybody else holds.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Catalog, Health, Instance, InstanceId, Revision, ServiceName};
use atoll_runtime::{Random, Tasks};
use atoll_store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::owner::{Command, EVENTS_MAX, Owner};
use crate::shared::member::Membership;
use crate::shared::{LOOKS_MAX, Link, NEWS_MAX, feed};
use crate::state::{Event, Said, State};
use crate::writer::Batch;
use crate::{
    Change, Detail, Journal, JournalError, Preservation, Registration, RegistryError,
    SelfPreservation, Source, Touched, Watch, Word,
};
use crate::{probe, shared, stored, writer};

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// After a restart of Atoll nothing that was registered before is expired for
    /// this long. Default 30 s.
    pub grace: Duration,
    /// Instances; then further ones are refused. Default 1,000,000.
    pub instances_max: usize,
    /// Checks under way at the same time. Default 256.
    pub probes_max: usize,
    /// Whether checks may run programs on this machine. Default no: whoever may
    /// register could run what it likes.
    pub script_checks: bool,
    /// When patient leases are kept although they lapsed.
    pub self_preservation: SelfPreservation,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            instances_max: 1_000_000,
            probes_max: 256,
            script_checks: false,
            self_preservation: SelfPreservation::default(),
        }
    }
}

/// What changed lately, and the catalogue that it led to.
#[derive(Clone, Debug)]
pub struct Recently {
    /// The catalogue now.
    pub catalog: Arc<Catalog>,
    /// Whether this is all that changed in that time; otherwise something is
    /// forgotten, and only the whole catalogue tells.
    pub complete: bool,
    /// What changed.
    pub changes: Vec<Touched>,
}

/// The registry. Cheap to clone; clones are the same registry.
#[derive(Clone, Debug)]
pub struct Registry {
    commands: mpsc::Sender<Command>,
    catalog: watch::Receiver<Arc<Catalog>>,
}

impl Registry {
    /// Reads what `journal` kept and starts the registry's tasks in a group of
    /// `tasks`. The catalogue holds the restored instances at once.
    ///
    /// # Errors
    /// [`RegistryError::NotDurable`] when the journal can be neither read nor written.
    pub async fn open(
        journal: Arc<dyn Journal>,
        tasks: &Tasks,
        settings: Settings,
    ) -> Result<Self, RegistryError> {
        let kept = journal.load().await.map_err(RegistryError::NotDurable)?;
        let loaded = stored::load(kept);
        for entry in &loaded.unreadable {
            warn!(entry, "registration cannot be read, left out");
        }
        let group = tasks.group("registry");
        let now = group.clock().now();
        let probes_max = settings.probes_max.max(1);
        let settings = Settings {
            probes_max,
            ..settings
        };
        let mut state = State::new(settings, loaded.ceiling, Random::from_entropy(), now);
        state.began_at(group.clock().wall_unix_ms());
        info!(instances = loaded.instances.len(), "registry opened");
        for instance in loaded.instances {
            state.restore(instance, now);
        }
        // The new ceiling must be on disk before a revision above the old is shown.
        let entries = state.take_effects().entries.into_iter();
        let entries = entries.map(|owed| owed.entry);
        journal
            .write(entries.collect())
            .await
            .map_err(RegistryError::NotDurable)?;
        if let Some(catalog) = state.publish() {
            debug_assert!(catalog.revision > loaded.ceiling);
        }

        // One batch under way; the owner merges what comes meanwhile.
        let (batches, written) = mpsc::channel::<Batch>(1);
        drop(group.once("writer", writer::run(journal, written)));
        Ok(Self::start(&group, state, batches, None))
    }

    /// Opens a registry over a store that other processes of Atoll share, each with
    /// registrations of its own: what one takes in all of them have. `store` must
    /// outlive the registry: open it in a group of tasks that was made before.
    ///
    /// While the store is away, reading goes on, and clients' registrations are refused
    /// ([`RegistryError::Away`]). The catalogue's revisions are the store's.
    ///
    /// # Errors
    /// [`RegistryError::NotDurable`] when the store can be neither read nor written.
    pub async fn open_shared(
        store: Store,
        tasks: &Tasks,
        settings: Settings,
    ) -> Result<Self, RegistryError> {
        let failed = |error: StoreError| RegistryError::NotDurable(JournalError(error.to_string()));
        let mut random = Random::from_entropy();
        let member = Membership::join(store.clone(), &mut random);
        let member = member.await.map_err(failed)?;
        let (revision, all) = feed::read(&store).await.map_err(failed)?;
        let group = tasks.group("registry");
        let now = group.clock().now();
        let settings = Settings {
            probes_max: settings.probes_max.max(1),
            ..settings
        };
        // The one below, so that what is there counts as news.
        let floor = Revision(revision.0.saturating_sub(1));
        let mut state = State::new(settings, floor, random, now);
        state.began_at(group.clock().wall_unix_ms());
        state.share(Arc::clone(&member.name), floor);
        state.take_in_all(revision, all, now);
        drop(state.publish());
        info!(member = %member.name, revision = revision.0, "shared registry opened");

        let (news, heard) = mpsc::channel(NEWS_MAX);
        let (batches, written) = mpsc::channel::<Batch>(1);
        let (look, doubts) = mpsc::channel(LOOKS_MAX);
        let link = Link::new(heard, look, member.key.clone());
        let stop = group.stop_signal();
        let feed = feed::run(store, revision, doubts, news.clone(), stop);
        drop(group.once("feed", feed));
        drop(group.once("member", Arc::clone(&member).live(group.stop_signal())));
        drop(group.once("writer", shared::writer::run(member, written, news)));
        Ok(Self::start(&group, state, batches, Some(link)))
    }

    fn start(
        group: &Tasks,
        state: State,
        batches: mpsc::Sender<Batch>,
        link: Option<Link>,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(EVENTS_MAX);
        let (questions, asked) = mpsc::channel(state.settings().probes_max);
        let asker = probe::Asker::new(state.settings().script_checks);
        let (publisher, catalog) = watch::channel(Arc::clone(state.catalog()));
        let clock = group.clock().clone();
        let owner = Owner {
            state,
            commands: inbox,
            catalog: publisher,
            questions,
            batches,
            clock: clock.clone(),
            link,
        };
        let (answers, stop) = (commands.clone(), group.stop_signal());
        drop(group.once("probe", probe::run(asker, asked, answers, clock, stop)));
        drop(group.once("owner", owner.run(group.stop_signal())));
        Self { commands, catalog }
    }

    /// Registers an instance, or replaces its registration; with nothing new in it,
    /// it is a renewal. A client's registration is acknowledged once it is durable.
    /// Gives the revision of the first catalogue that has it.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`], [`RegistryError::Full`], [`RegistryError::Owned`];
    /// [`RegistryError::NotDurable`] when it is known now, but would be lost at a restart.
    pub async fn register(&self, registration: Registration) -> Result<Revision, RegistryError> {
        let durable = registration.source == Source::Client;
        self.change(Event::Register(Box::new(registration)), durable)
            .await
    }

    /// Renews the lease. Never waits for the disk and changes no catalogue.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]: it expired or was never here; register again.
    pub async fn renew(&self, service: ServiceName, id: InstanceId) -> Result<(), RegistryError> {
        self.change(Event::Renew { service, id }, false).await?;
        Ok(())
    }

    /// Forgets an instance and ends its checks at once.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Owned`], [`RegistryError::NotDurable`].
    pub async fn deregister(
        &self,
        service: ServiceName,
        id: InstanceId,
        by: Source,
    ) -> Result<Revision, RegistryError> {
        self.change(Event::Deregister { service, id, by }, by == Source::Client)
            .await
    }

    /// Lets an instance finish what it has (`draining`), or takes that back. A
    /// registration that says something new takes it back, too.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`].
    pub async fn set_draining(
        &self,
        service: ServiceName,
        id: InstanceId,
        draining: bool,
    ) -> Result<Revision, RegistryError> {
        let event = Event::Drain {
            service,
            id,
            draining,
        };
        self.change(event, false).await
    }

    /// Takes in what somebody says of an instance's health. An administrator's word is
    /// acknowledged once it is durable.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NotDurable`].
    pub async fn report_health(
        &self,
        service: ServiceName,
        id: InstanceId,
        word: Word,
    ) -> Result<Revision, RegistryError> {
        let durable = matches!(word, Word::Forced(_));
        self.change(Event::Report { service, id, word }, durable)
            .await
    }

    /// Takes in what somebody says of one check of an instance ([`atoll_model::Probe::Told`]).
    ///
    /// # Errors
    /// [`RegistryError::Unknown`]; [`RegistryError::Invalid`] when it has no such
    /// check, or one that is asked.
    pub async fn report_check(
        &self,
        service: ServiceName,
        id: InstanceId,
        check: String,
        health: Health,
        output: String,
    ) -> Result<Revision, RegistryError> {
        let event = Event::Said(Box::new(Said {
            service,
            id,
            check,
            health,
            output,
        }));
        self.change(event, false).await
    }

    /// The catalogue, as it changes.
    pub fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.catalog.clone()
    }

    /// The catalogue as it is now.
    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// The instance as it stands in the catalogue now.
    pub fn get(&self, service: &ServiceName, id: &InstanceId) -> Option<Arc<Instance>> {
        let catalog = self.current();
        let list = catalog.instances(service.as_str());
        let at = list.binary_search_by(|known| known.id.cmp(id)).ok()?;
        Some(Arc::clone(&list[at]))
    }

    /// Waits for the first catalogue that is at `revision` or later.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn wait_for(&self, revision: Revision) -> Result<Arc<Catalog>, RegistryError> {
        let mut catalog = self.catalog.clone();
        let reached = catalog
            .wait_for(|catalog| catalog.revision >= revision)
            .await
            .map_err(|_| RegistryError::Closed)?;
        Ok(Arc::clone(&reached))
    }

    /// What changes after `since`. A revision that is too long ago, or of another
    /// life of Atoll, begins with everything ([`crate::WatchEvent::Resync`]); so
    /// does revision 0.
    pub fn watch(&self, since: Revision) -> Watch {
        Watch::new(self.clone(), since)
    }

    /// All that is known of one instance, with the standing of its checks.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`].
    pub async fn detail(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> Result<Detail, RegistryError> {
        let unknown = RegistryError::Unknown {
            service: service.clone(),
            id: id.clone(),
        };
        let (reply, answer) = oneshot::channel();
        self.send(Command::Detail(service, id, reply)).await?;
        answer.await?.ok_or(unknown)
    }

    /// All that is known of all instances, or of those of one service, with the
    /// standing of their checks.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn checks(&self, service: Option<ServiceName>) -> Result<Vec<Detail>, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Details(service, reply)).await?;
        Ok(answer.await?)
    }

    /// What changed within the last `window`, each instance once, in the order of its
    /// last change.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn recently(&self, window: Duration) -> Result<Recently, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Recently(window, reply)).await?;
        Ok(answer.await?)
    }

    /// How self-preservation stands.
    ///
    /// # Errors
    /// [`RegistryError::Closed`].
    pub async fn preservation(&self) -> Result<Preservation, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Preservation(reply)).await?;
        Ok(answer.await?)
    }

    pub(crate) async fn changes(
        &self,
        since: Revision,
    ) -> Result<(Option<Vec<Change>>, Arc<Catalog>), RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Changes(since, reply)).await?;
        Ok(answer.await?)
    }

    async fn change(&self, event: Event, durable: bool) -> Result<Revision, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.send(if durable {
            Command::Durable(event, reply)
        } else {
            Command::Change(event, reply)
        })
        .await?;
        answer.await?
    }

    async fn send(&self, command: Command) -> Result<(), RegistryError> {
        self.commands
            .send(command)
            .await
            .map_err(|_| RegistryError::Closed)
    }
}
