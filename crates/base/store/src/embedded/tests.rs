//! The embedded store from inside and from outside: restarts, locks, limits,
//! damage, and the faults that only a false disk can show.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use super::medium::Medium;
use super::*;
use crate::{Key, Op};

fn tree() -> Tasks {
    Tasks::root(Clock::system())
}

async fn reopen(dir: &Path, options: Options) -> (Store, Tasks) {
    let tasks = tree();
    let store = open(dir, options, &tasks).await.unwrap();
    (store, tasks)
}

async fn stop(tasks: Tasks) {
    tasks.stop(Duration::from_secs(60)).await.unwrap();
}

async fn keys(store: &Store) -> Vec<Key> {
    let items = store.list("").await.unwrap().items;
    items.iter().map(|kv| kv.key.clone()).collect()
}

#[tokio::test]
async fn everything_is_as_before_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tasks) = reopen(dir.path(), Options::default()).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store.put("a", "1").await.unwrap();
    let compacted = store.put("a", "2").await.unwrap();
    let leased = Txn::of([Op::put_leased("b", "", lease.id), Op::put("c", "")]);
    store.commit(leased).await.unwrap();
    store.delete("a").await.unwrap();
    store.compact(compacted).await.unwrap();
    let last = store.put("a", "3").await.unwrap();
    let mut history = Vec::new();
    let mut watch = store.watch(Span::all(), compacted).await.unwrap();
    while history.len() < 3 {
        history.push(watch.next().await.unwrap());
    }
    let before = store.list("").await.unwrap();
    stop(tasks).await;
    assert_eq!(watch.next().await, Err(StoreError::Closed));
    assert_eq!(store.put("x", "").await, Err(StoreError::Closed));
    assert_eq!(store.list("").await, Err(StoreError::Closed));

    let (store, tasks) = reopen(dir.path(), Options::default()).await;
    assert_eq!(store.list("").await.unwrap(), before);
    assert_eq!(before.revision, last);
    let mut watch = store.watch(Span::all(), compacted).await.unwrap();
    for changes in history {
        assert_eq!(watch.next().await.unwrap(), changes);
    }
    let past = store.read(Range::of("a").at(compacted)).await.unwrap();
    assert_eq!(*past.items[0].value, *b"2");
    let mut watch = store.watch(Span::all(), Revision(1)).await.unwrap();
    assert!(watch.next().await.unwrap_err().wants_resync());
    let state = store.lease(lease.id).await.unwrap();
    assert_eq!(state.keys, [Key::from("b")]);
    assert_eq!(state.lease, lease);
    let next = store.grant(Duration::from_secs(60)).await.unwrap();
    assert!(next.id > lease.id, "a name is never given twice");
    assert_eq!(store.put("d", "").await.unwrap().0, last.0 + 1);
    stop(tasks).await;
}

#[tokio::test]
async fn the_store_of_this_process_is_always_ready() {
    let tasks = tree();
    let store = in_memory(Options::default(), &tasks);
    let mut standing = store.standing();
    assert_eq!(*standing.borrow_and_update(), Standing::Ready);
    assert!(!standing.has_changed().unwrap(), "waiting must not fail");
    stop(tasks).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_lease_has_its_whole_time_and_the_grace() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        lease_grace: Duration::from_secs(5),
        ..Options::default()
    };
    let (store, tasks) = reopen(dir.path(), options).await;
    let lease = store.grant(Duration::from_secs(10)).await.unwrap().id;
    let put = Txn::of([Op::put_leased("a", "", lease)]);
    store.commit(put).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    stop(tasks).await;

    let (store, tasks) = reopen(dir.path(), options).await;
    let remaining = store.lease(lease).await.unwrap().remaining;
    assert!(remaining > Duration::from_secs(14), "{remaining:?}");
    let revision = store.list("").await.unwrap().revision;
    let mut watch = store.watch("a", revision).await.unwrap();
    let began = tasks.clock().now();
    assert!(watch.next().await.unwrap().events[0].after.is_none());
    let lived = tasks.clock().now() - began;
    assert!(lived > Duration::from_secs(14), "{lived:?}");
    stop(tasks).await;
    let (store, tasks) = reopen(dir.path(), options).await;
    assert_eq!(store.leases().await.unwrap(), [], "its end is durable too");
    stop(tasks).await;
}

#[tokio::test]
async fn a_second_opening_is_told_who_has_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, tasks) = reopen(dir.path(), Options::default()).await;
    let second = open(dir.path(), Options::default(), &tree()).await;
    let error = second.unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }));
    let pid = std::process::id().to_string();
    assert!(error.to_string().contains(&pid), "{error}");
    stop(tasks).await;
    let (_store, tasks) = reopen(dir.path(), Options::default()).await;
    stop(tasks).await;
}

#[tokio::test]
async fn nobody_else_may_read_the_directory_or_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("data/store");
    let (_store, tasks) = reopen(&dir, Options::default()).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in ["store.redb", "store.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    stop(tasks).await;
}

#[tokio::test]
async fn a_keep_alive_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, tasks) = reopen(dir.path(), Options::default()).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap().id;
    let file = dir.path().join("store.redb");
    let before = (std::fs::read(&file).unwrap(), modified(&file));
    for _ in 0..1_000 {
        store.keep_alive(lease).await.unwrap();
    }
    assert_eq!((std::fs::read(&file).unwrap(), modified(&file)), before);
    stop(tasks).await;
}

fn modified(path: &Path) -> std::time::SystemTime {
    std::fs::metadata(path).unwrap().modified().unwrap()
}

#[tokio::test]
async fn history_and_file_stay_bounded_while_keys_churn() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history_revisions_max: 100,
        ..Options::default()
    };
    let (store, tasks) = reopen(dir.path(), options).await;
    store.put("kept", "k").await.unwrap();
    let mut longest = 0;
    for round in 0..1_500_u64 {
        // 64 KiB a revision: 100 MB in all, of which the last 7 MB are history.
        let value = vec![u8::try_from(round % 251).unwrap(); 64 * 1_024];
        let revision = store.put(format!("k{}", round % 3), value).await.unwrap();
        longest = longest.max(
            std::fs::metadata(dir.path().join("store.redb"))
                .unwrap()
                .len(),
        );
        let old = revision.0.saturating_sub(100 + 100 / 8 + 1);
        if old > 200 {
            let read = store.read(Range::of("kept").at(Revision(old))).await;
            assert!(matches!(read, Err(StoreError::Compacted { .. })), "{old}");
        }
    }
    assert!(longest < 60 * 1_024 * 1_024, "{longest} bytes for 7 MB");
    assert_eq!(keys(&store).await.len(), 4);
    stop(tasks).await;
}

#[tokio::test]
async fn the_file_shrinks_when_most_of_it_is_waste() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        history_revisions_max: 1,
        ..Options::default()
    };
    let (store, tasks) = reopen(dir.path(), options).await;
    let file = dir.path().join("store.redb");
    for key in 0..32 {
        let value = vec![7_u8; 1_024 * 1_024];
        store.put(format!("big/{key:02}"), value).await.unwrap();
    }
    store.put("kept", "k").await.unwrap();
    let before = std::fs::metadata(&file).unwrap().len();
    assert!(before > 32 * 1_024 * 1_024);
    store.delete(Span::prefix("big/")).await.unwrap();
    // Compaction and rewriting come with later writes.
    let mut after = before;
    for _ in 0..1_000 {
        store.put("kept", "k").await.unwrap();
        after = std::fs::metadata(&file).unwrap().len();
        if after < before / 4 {
            break;
        }
    }
    assert!(after < before / 4, "{before} to {after} bytes");
    stop(tasks).await;
    let (store, tasks) = reopen(dir.path(), options).await;
    assert_eq!(keys(&store).await, [Key::from("kept")]);
    stop(tasks).await;
}

#[tokio::test]
async fn a_watch_slower_than_the_history_is_told_that_it_lags() {
    let tasks = tree();
    let options = Options {
        history_revisions_max: 16,
        ..Options::default()
    };
    let store = in_memory(options, &tasks);
    let start = store.put("a", "0").await.unwrap();
    let mut watch = store.watch("a", start).await.unwrap();
    store.put("a", "1").await.unwrap();
    watch.next().await.unwrap();
    for _ in 0..40 {
        store.put("a", "2").await.unwrap();
    }
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, StoreError::Lagged { .. }), "{error}");
    // An idle watch of another span is not slow: there was nothing for it.
    let now = store.list("").await.unwrap().revision;
    let mut idle = store.watch("b", now).await.unwrap();
    let waiting = tasks.once("idle", async move { idle.next().await });
    for _ in 0..40 {
        store.put("a", "3").await.unwrap();
        tokio::task::yield_now().await;
    }
    let put = store.put("b", "").await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().revision, put);
    stop(tasks).await;
}

#[tokio::test]
async fn above_the_limit_on_what_is_kept_only_deletions_pass() {
    let tasks = tree();
    let options = Options {
        live_bytes_max: 1_000,
        ..Options::default()
    };
    let store = in_memory(options, &tasks);
    store.put("a", vec![0_u8; 900]).await.unwrap();
    let error = store.put("b", vec![0_u8; 100]).await.unwrap_err();
    assert_eq!(error, StoreError::OverLimit { limit_bytes: 1_000 });
    store.put("a", vec![0_u8; 500]).await.unwrap();
    store.put("b", vec![0_u8; 100]).await.unwrap();
    store.delete("a").await.unwrap();
    store.put("b", vec![0_u8; 900]).await.unwrap();
    stop(tasks).await;
}

/// A real file behind a disk that fails when told to.
#[derive(Debug)]
struct FalseDisk {
    path: PathBuf,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Bytes that may still be written; none left is a full disk.
    room_bytes: AtomicU64,
    /// Syncs fail.
    sync_fails: AtomicBool,
    /// Opening fails, as when the device is away.
    gone: AtomicBool,
    /// Asking for the file's length ends in a panic: any defect beside redb's own.
    panics: AtomicBool,
}

#[derive(Debug)]
struct FalseBackend(FileBackend, Arc<Faults>);

impl FalseDisk {
    fn with(room_bytes: u64, dir: &Path) -> (Arc<Self>, Arc<Faults>) {
        let faults = Arc::new(Faults::default());
        faults.room_bytes.store(room_bytes, Ordering::SeqCst);
        let disk = Self {
            path: dir.join("store.redb"),
            faults: Arc::clone(&faults),
        };
        (Arc::new(disk), faults)
    }
}

impl Medium for FalseDisk {
    fn connect(&self, builder: &mut Builder) -> Result<Database, DatabaseError> {
        if self.faults.gone.load(Ordering::SeqCst) {
            return Err(io::Error::other("no such device").into());
        }
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).open(&self.path)?;
        let backend = FalseBackend(FileBackend::new(file)?, Arc::clone(&self.faults));
        builder.create_with_backend(backend)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        assert!(!self.faults.panics.load(Ordering::SeqCst), "on purpose");
        Ok(std::fs::metadata(&self.path)?.len())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl StorageBackend for FalseBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.1.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("medium error"));
        }
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let room = &self.1.room_bytes;
        let take = |left: u64| left.checked_sub(data.len() as u64);
        let taken = room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        if let Err(left) = taken {
            // Half of it arrives, as on a real disk.
            let part = usize::try_from(left).unwrap().min(data.len());
            self.0.write(offset, &data[..part])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, from: Bound<u64>, to: Bound<u64>) -> Result<bool, redb::BackendError> {
        self.0.try_lock_range(from, to)
    }
}

const ROOMY: u64 = u64::MAX / 2;

/// A store on a false disk, with one key in it.
async fn on_false_disk(dir: &Path) -> (Store, Arc<Faults>, Arc<FalseDisk>, Tasks) {
    let (store, tasks) = reopen(dir, Options::default()).await;
    store.put("before", "").await.unwrap();
    stop(tasks).await;
    let (medium, faults) = FalseDisk::with(ROOMY, dir);
    let (disk, loaded) = Disk::open(medium.clone()).unwrap();
    let tasks = tree();
    let store = start(Some(disk), loaded, Options::default(), &tasks);
    (store, faults, medium, tasks)
}

#[tokio::test]
async fn a_full_disk_refuses_writes_loses_none_and_recovers() {
    for room_bytes in [0, 100, 4_096, 10_000, 20_000, 40_000] {
        let dir = tempfile::tempdir().unwrap();
        let (store, faults, _, tasks) = on_false_disk(dir.path()).await;
        let mut acknowledged = vec![Key::from("before")];
        let start = store.list("").await.unwrap().revision;
        let mut watch = store.watch(Span::all(), start).await.unwrap();
        faults.room_bytes.store(room_bytes, Ordering::SeqCst);
        let mut refusals = 0;
        for number in 0..40 {
            let key = format!("full/{number:02}");
            match store.put(key.as_str(), vec![1; 5_000]).await {
                Ok(_) => acknowledged.push(key.into()),
                Err(
                    StoreError::DiskFull { .. }
                    | StoreError::Uncertain { .. }
                    | StoreError::Unavailable(_),
                ) => refusals += 1,
                Err(other) => panic!("{other}"),
            }
            let there = keys(&store).await;
            assert!(acknowledged.iter().all(|key| there.contains(key)));
        }
        assert!(refusals > 0);
        faults.room_bytes.store(ROOMY, Ordering::SeqCst);
        let again = store.put("room/again", "").await.unwrap();
        acknowledged.push("room/again".into());
        let there = keys(&store).await;
        assert!(acknowledged.iter().all(|key| there.contains(key)));
        // Watches saw what readers see, each revision once.
        let mut seen = vec![Key::from("before")];
        let mut next = start.0 + 1;
        while next <= again.0 {
            let changes = watch.next().await.unwrap();
            assert_eq!(changes.revision.0, next);
            seen.extend(changes.events.iter().map(|event| event.key.clone()));
            next += 1;
        }
        assert_eq!(seen, there);
        stop(tasks).await;
        let (store, tasks) = reopen(dir.path(), Options::default()).await;
        assert_eq!(keys(&store).await, there, "room {room_bytes}");
        stop(tasks).await;
    }
}

#[tokio::test]
async fn a_failed_sync_is_not_acknowledged_and_the_outcome_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults, _, tasks) = on_false_disk(dir.path()).await;
    faults.sync_fails.store(true, Ordering::SeqCst);
    let error = store.put("lost?", "").await.unwrap_err();
    let expected = matches!(
        error,
        StoreError::Uncertain { .. } | StoreError::Disk { .. }
    );
    assert!(expected, "{error}");
    faults.gone.store(true, Ordering::SeqCst);
    let error = store.put("while/away", "").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // Reads go on.
    assert!(store.get("before").await.unwrap().is_some());
    faults.sync_fails.store(false, Ordering::SeqCst);
    faults.gone.store(false, Ordering::SeqCst);
    store.put("after", "").await.unwrap();
    let there = keys(&store).await;
    assert!(!there.contains(&Key::from("while/away")));
    stop(tasks).await;
    let (store, tasks) = reopen(dir.path(), Options::default()).await;
    assert_eq!(keys(&store).await, there, "memory and disk agree");
    stop(tasks).await;
}

#[tokio::test]
async fn a_store_whose_writer_panicked_acknowledges_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults, _, tasks) = on_false_disk(dir.path()).await;
    faults.panics.store(true, Ordering::SeqCst);
    for key in ["first", "second"] {
        let refused = store.put(key, "").await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{key}: {refused:?}"
        );
    }
    let granted = store.grant(Duration::from_secs(1)).await;
    assert!(granted.is_err(), "{granted:?}");
    // Reads go on.
    assert!(store.get("before").await.unwrap().is_some());
    stop(tasks).await;
}

#[tokio::test]
async fn a_lease_whose_end_the_disk_refused_ends_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults, _, tasks) = on_false_disk(dir.path()).await;
    let lease = store.grant(Duration::from_millis(50)).await.unwrap().id;
    let put = Txn::of([Op::put_leased("a", "", lease)]);
    let revision = store.commit(put).await.unwrap().revision;
    faults.room_bytes.store(0, Ordering::SeqCst);
    while store.keep_alive(lease).await.is_ok() {
        let left = store.lease(lease).await.map(|state| state.remaining);
        tokio::time::sleep(left.unwrap_or_default()).await;
    }
    assert!(
        store.get("a").await.unwrap().is_some(),
        "not gone until it is durable"
    );
    faults.room_bytes.store(ROOMY, Ordering::SeqCst);
    let mut watch = store.watch("a", revision).await.unwrap();
    assert!(watch.next().await.unwrap().events[0].after.is_none());
    stop(tasks).await;
}

/// A disk whose power is cut: of what was not synced, any part may have arrived, in
/// any order, and a write may have arrived by half.
#[derive(Clone, Debug, Default)]
struct CutDisk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// What is read back while there is power.
    seen: Vec<u8>,
    /// What is there for certain.
    synced: Vec<u8>,
    unsynced: Vec<Write>,
    /// Writes until the power goes; none while it stays.
    cut_after: Option<usize>,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

impl Write {
    fn to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(len) => bytes.resize(usize::try_from(*len).unwrap(), 0),
            Self::Bytes(offset, data) => {
                let offset = usize::try_from(*offset).unwrap();
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }

    fn by_sectors(&self) -> Vec<Self> {
        match self {
            Self::Length(_) => vec![self.clone()],
            Self::Bytes(offset, data) => {
                let sectors = data.chunks(SECTOR_BYTES).enumerate();
                let at = |index: usize| offset + (index * SECTOR_BYTES) as u64;
                sectors
                    .map(|(index, sector)| Self::Bytes(at(index), sector.to_vec()))
                    .collect()
            }
        }
    }
}

impl CutDisk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    fn write(&self, write: Write) -> io::Result<()> {
        let mut platter = self.platter();
        if let Some(left) = &mut platter.cut_after {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
        }
        write.to(&mut platter.seen);
        platter.unsynced.push(write);
        Ok(())
    }

    /// The power comes back.
    fn restore(&self, random: &mut atoll_runtime::Random) {
        let mut platter = self.platter();
        let unsynced = std::mem::take(&mut platter.unsynced);
        let mut sectors: Vec<Write> = unsynced.iter().flat_map(Write::by_sectors).collect();
        // Nearly none, nearly all, or any part.
        let keep = [0.05, 0.5, 0.95][random.below(3)];
        sectors.retain(|_| random.unit() < keep);
        for sector in sectors {
            sector.to(&mut platter.synced);
        }
        platter.seen = platter.synced.clone();
        platter.cut_after = None;
    }
}

impl Medium for CutDisk {
    fn connect(&self, builder: &mut Builder) -> Result<Database, DatabaseError> {
        if self.platter().cut_after == Some(0) {
            return Err(io::Error::other("no power").into());
        }
        builder.create_with_backend(self.clone())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.platter().seen.len() as u64)
    }

    fn path(&self) -> &Path {
        Path::new("cut.redb")
    }
}

impl StorageBackend for CutDisk {
    fn len(&self) -> io::Result<u64> {
        self.len_bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let from = usize::try_from(offset).unwrap();
        let found = platter.seen.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write(Write::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        if platter.cut_after == Some(0) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for write in std::mem::take(&mut platter.unsynced) {
            write.to(&mut platter.synced);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Self::write(self, Write::Bytes(offset, data.to_vec()))
    }
}

#[tokio::test]
async fn a_power_cut_loses_nothing_acknowledged_whatever_part_was_written() {
    const CUTS: u64 = 150;
    let options = Options {
        history_revisions_max: 20,
        ..Options::default()
    };
    for seed in 0..CUTS {
        let mut random = atoll_runtime::Random::from_seed(seed);
        let cut = CutDisk::default();
        let builder = Database::builder();
        disk::initialise(builder.create_with_backend(cut.clone()).unwrap()).unwrap();
        let mut acknowledged = std::collections::BTreeMap::new();
        let mut tried = 0_u64;
        for round in 0..3 {
            let context = format!("seed {seed}, round {round}");
            let opened = Disk::open(Arc::new(cut.clone()));
            let (disk, loaded) = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
            let tasks = tree();
            let store = start(Some(disk), loaded, options, &tasks);
            for (key, number) in &acknowledged {
                let found = store.get(Key::clone(key)).await.unwrap();
                let found = found.unwrap_or_else(|| panic!("{context}: {key:?} is lost"));
                let found = u64::from_le_bytes(*found.value.first_chunk().unwrap());
                assert!(
                    (*number..=tried).contains(&found),
                    "{context}: {key:?} {found}"
                );
            }
            cut.platter().cut_after = Some(20 + random.below(400));
            let tried_before = tried;
            while cut.platter().cut_after != Some(0) {
                tried += 1;
                assert!(
                    tried < tried_before + 1_000,
                    "{context}: nothing is written"
                );
                let key = Key::from(format!("k{}", random.below(30)));
                let mut value = tried.to_le_bytes().to_vec();
                value.resize(8 + random.below(6_000), 1);
                if store.put(key.clone(), value).await.is_ok() {
                    acknowledged.insert(key, tried);
                }
            }
            stop(tasks).await;
            cut.restore(&mut random);
        }
        assert!(!acknowledged.is_empty(), "seed {seed} tried nothing");
    }
}
