//! Registries that share a store, and what can happen to each one's way to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use atoll_model::{Health, InstanceId, Revision, ServiceName};
use atoll_registry::{Registration, Registry, Settings, Source};
use atoll_runtime::{Clock, Tasks};
use atoll_store::{
    Answer, Backend, Changes, Lease, LeaseId, LeaseState, Range, Snapshot, Span, Standing, Store,
    StoreError, Txn, TxnReply, Watch, WatchSource,
};
use tokio::sync::watch;

pub(crate) fn name(service: &str) -> ServiceName {
    service.parse().unwrap()
}

pub(crate) fn id(id: &str) -> InstanceId {
    id.parse().unwrap()
}

pub(crate) fn registration(service: &str, instance: &str) -> Registration {
    let address = "127.0.0.1:1".parse().unwrap();
    Registration::new(name(service), id(instance), address, Source::Client)
}

/// Several registries over one store.
pub(crate) struct Together {
    store: Store,
    members: Vec<Member>,
    // Stops last.
    _dir: tempfile::TempDir,
    _tasks: Tasks,
}

struct Member {
    registry: Registry,
    tasks: Tasks,
    way: Arc<Way>,
}

impl Together {
    pub(crate) async fn of(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::root(Clock::system());
        let store = atoll_store::embedded::open(dir.path(), Default::default(), &tasks);
        let mut together = Self {
            store: store.await.unwrap(),
            members: Vec::new(),
            _dir: dir,
            _tasks: tasks,
        };
        for _ in 0..count {
            together.start().await;
        }
        together
    }

    /// One more.
    pub(crate) async fn start(&mut self) {
        let way = Arc::new(Way::to(self.store.clone()));
        let tasks = Tasks::root(Clock::system());
        let settings = Settings {
            grace: Duration::from_millis(500),
            ..Settings::default()
        };
        let store = Store::new(Through(Arc::clone(&way)));
        let registry = Registry::open_shared(store, &tasks, settings);
        self.members.push(Member {
            registry: registry.await.unwrap(),
            tasks,
            way,
        });
    }

    pub(crate) fn at(&self, member: usize) -> &Registry {
        &self.members[member].registry
    }

    /// The store is away for this one.
    pub(crate) fn cut(&self, member: usize) {
        let way = &self.members[member].way;
        way.cut.send_replace(true);
        way.standing.send_replace(Standing::Away {
            since: Clock::system().now(),
            why: "cut".to_owned(),
        });
    }

    /// It is back.
    pub(crate) fn mend(&self, member: usize) {
        let way = &self.members[member].way;
        way.cut.send_replace(false);
        way.standing.send_replace(Standing::Ready);
    }

    /// Writes arrive, their answers do not.
    pub(crate) fn lose_answers(&self, member: usize, lose: bool) {
        self.members[member].way.deaf.send_replace(lose);
    }

    /// Writes are refused, and nothing says that the store is away.
    pub(crate) fn refuse(&self, member: usize, refuse: bool) {
        self.members[member].way.refuse.send_replace(refuse);
    }

    /// Nothing is told of what is written, and nothing says that the store is away.
    pub(crate) fn blind(&self, member: usize, blind: bool) {
        self.members[member].way.blind.send_replace(blind);
    }

    /// The store takes this one for gone, as after a silence of ten seconds.
    pub(crate) async fn forget(&self, member: usize) {
        let lease = self.members[member].way.lease.borrow().unwrap();
        match self.store.revoke(lease).await {
            // It was taken for gone before and has not come back yet.
            Ok(_) | Err(StoreError::LeaseNotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// It is gone without a word, and the store has noticed.
    pub(crate) async fn kill(&mut self, member: usize) {
        self.cut(member);
        self.forget(member).await;
    }

    pub(crate) async fn stop(&self, member: usize) {
        let tasks = self.members[member].tasks.clone();
        tasks.stop(Duration::from_secs(10)).await.unwrap();
    }

    /// Whether it is this one that watches the lease or asks the checks.
    pub(crate) async fn watches(&self, member: usize, instance: &str) -> bool {
        let detail = self.at(member).detail(name("users"), id(instance)).await;
        detail.unwrap().expires_in.is_some()
    }

    /// How many this one cares for.
    pub(crate) async fn cares_for(&self, member: usize) -> usize {
        let all = self.at(member).checks(None).await.unwrap();
        all.iter().filter(|detail| detail.cared_for).count()
    }

    pub(crate) async fn until<F: Future<Output = bool>>(&self, holds: impl Fn() -> F) {
        let until = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, until).await.unwrap();
    }

    pub(crate) async fn until_instances(&self, members: &[usize], count: usize) {
        for member in members {
            let mut catalog = self.at(*member).catalog();
            let found = catalog.wait_for(|catalog| catalog.instances("users").len() == count);
            drop(found.await.unwrap());
        }
    }

    pub(crate) async fn until_health(&self, members: &[usize], health: Health) {
        for member in members {
            let mut catalog = self.at(*member).catalog();
            let found = catalog.wait_for(|catalog| {
                let all = catalog.instances("users");
                !all.is_empty() && all.iter().all(|one| one.health == health)
            });
            drop(found.await.unwrap());
        }
    }
}

/// One registry's way to the store.
struct Way {
    store: Store,
    cut: watch::Sender<bool>,
    deaf: watch::Sender<bool>,
    refuse: watch::Sender<bool>,
    blind: watch::Sender<bool>,
    standing: watch::Sender<Standing>,
    lease: watch::Sender<Option<LeaseId>>,
}

impl Way {
    fn to(store: Store) -> Self {
        Self {
            store,
            cut: watch::Sender::new(false),
            deaf: watch::Sender::new(false),
            refuse: watch::Sender::new(false),
            blind: watch::Sender::new(false),
            standing: watch::Sender::new(Standing::Ready),
            lease: watch::Sender::new(None),
        }
    }

    /// Goes to the store and back.
    fn go<'a, T: Send + 'a>(
        &'a self,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let away = || StoreError::Unavailable("cut".to_owned());
            if *self.cut.borrow() {
                return Err(away());
            }
            let answer = call.await;
            match *self.deaf.borrow() || *self.cut.borrow() {
                true => Err(away()),
                false => answer,
            }
        })
    }
}

struct CutWatch {
    cut: watch::Receiver<bool>,
    blind: watch::Receiver<bool>,
    watch: Watch,
    /// Told, and not passed on yet.
    told: Option<Result<Changes, StoreError>>,
}

impl WatchSource for CutWatch {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Changes, StoreError>> + Send + '_>> {
        Box::pin(async move {
            drop(self.cut.wait_for(|cut| !cut).await);
            if self.told.is_none() {
                self.told = Some(self.watch.next().await);
            }
            drop(self.blind.wait_for(|blind| !blind).await);
            self.told.take().unwrap()
        })
    }
}

/// What the registry is given.
struct Through(Arc<Way>);

impl std::ops::Deref for Through {
    type Target = Way;

    fn deref(&self) -> &Way {
        &self.0
    }
}

impl Backend for Through {
    fn commit(&self, txn: Txn) -> Answer<'_, TxnReply> {
        if *self.refuse.borrow() {
            return Box::pin(async { Err(StoreError::Unavailable("refused".to_owned())) });
        }
        self.go(self.store.commit(txn))
    }

    fn read(&self, range: Range) -> Answer<'_, Snapshot> {
        self.go(self.store.read(range))
    }

    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch> {
        Box::pin(async move {
            let watch = self.store.watch(span, after).await?;
            Ok(Watch::new(CutWatch {
                cut: self.cut.subscribe(),
                blind: self.blind.subscribe(),
                watch,
                told: None,
            }))
        })
    }

    fn compact(&self, to: Revision) -> Answer<'_, ()> {
        self.go(self.store.compact(to))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        self.go(async move {
            let lease = self.store.grant(ttl).await?;
            self.lease.send_replace(Some(lease.id));
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Lease> {
        self.go(self.store.keep_alive(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, Revision> {
        self.go(self.store.revoke(lease))
    }

    fn lease(&self, lease: LeaseId) -> Answer<'_, LeaseState> {
        self.go(self.store.lease(lease))
    }

    fn leases(&self) -> Answer<'_, Vec<LeaseId>> {
        self.go(self.store.leases())
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }
}
