//! A writer is killed with SIGKILL at random points; then nothing that it was told
//! is durable may be missing, and nothing may be there by half.
//!
//! The writer is this test binary again (`writer`, ignored otherwise), so that it is
//! always the same build. It prints what it begins and what is acknowledged, one
//! line each. `ATOLL_STORE_CRASH_RUNS` says how often; 25 if it is not set.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as it may"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Clock, Random, Tasks};
use atoll_store::embedded::{self, Options};
use atoll_store::{LeaseId, Op, Span, Store, Txn};

const RUNS_USUAL: u64 = 25;
const WRITERS: usize = 4;
/// Keys that each transaction writes at once.
const KEYS_EACH: usize = 4;

const DIR: &str = "ATOLL_STORE_CRASH_DIR";
const RUNS: &str = "ATOLL_STORE_CRASH_RUNS";

#[expect(
    clippy::disallowed_methods,
    reason = "a test's parameter, and how the test hands itself its directory"
)]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Little history and often compacted, so that crashes meet that as well.
fn options() -> Options {
    Options {
        history_revisions_max: 64,
        ..Options::default()
    }
}

/// Each writer sets its four keys to one number in one transaction, again and again,
/// and says `begin` before and `ack` after. In between leases come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other half of the crash test, which starts it"]
async fn writer() {
    let dir = environment(DIR).expect("only the crash test starts this");
    let tasks = Tasks::root(Clock::system());
    let store = embedded::open(&dir, options(), &tasks).await.unwrap();
    say("ready");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tasks.once("writer", write_for_ever(store.clone(), writer)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write_for_ever(store: Store, writer: usize) {
    let first = format!("w{writer}/0");
    let found = store.get(first.as_str()).await.unwrap();
    let mut number = found.map_or(0, |kv| number_in(&kv.value));
    loop {
        number += 1;
        let lease = match number % 8 {
            0 => Some(store.grant(Duration::from_secs(3_600)).await.unwrap().id),
            _ => None,
        };
        say(&format!("begin {writer} {number}"));
        let mut ops: Vec<Op> = (0..KEYS_EACH)
            .map(|key| Op::put(format!("w{writer}/{key}"), value(number)))
            .collect();
        if let Some(lease) = lease {
            ops.push(Op::put_leased(format!("leased/{writer}"), "", lease));
        }
        let revision = store.commit(Txn::of(ops)).await.unwrap().revision;
        say(&format!("ack {writer} {number} {revision}"));
        if let Some(lease) = lease {
            store.revoke(lease).await.unwrap();
            say(&format!("gone {writer} {}", lease.0));
        }
    }
}

fn say(line: &str) {
    // One write, so that lines of several threads do not mix. When the pipe is gone
    // so is the parent, and this process has no more to do.
    let line = format!("\n{line}\n");
    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// Long enough for pages to be split, and each byte tells the number.
fn value(number: u64) -> Vec<u8> {
    let length = 20 + usize::try_from(number % 200).unwrap();
    let mut value = number.to_le_bytes().to_vec();
    value.resize(length, u8::try_from(number % 251).unwrap());
    value
}

fn number_in(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().unwrap())
}

/// What the writer said before it was killed.
#[derive(Debug, Default)]
struct Said {
    ready: bool,
    begun: BTreeMap<usize, u64>,
    acknowledged: BTreeMap<usize, u64>,
    /// Transactions acknowledged in all.
    acks: u64,
    revision: u64,
    gone: Vec<LeaseId>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        let writer = |index: usize| words[index].parse::<usize>().unwrap();
        match words[0] {
            "ready" => self.ready = true,
            "begin" => drop(self.begun.insert(writer(1), number(2))),
            "ack" => {
                self.acknowledged.insert(writer(1), number(2));
                self.acks += 1;
                self.revision = self.revision.max(number(3));
            }
            "gone" => self.gone.push(LeaseId(number(2))),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_at_random_points_loses_nothing_acknowledged() {
    let runs = environment(RUNS).map_or(RUNS_USUAL, |runs| runs.parse().unwrap());
    let seed = Random::from_entropy().bits();
    let mut random = Random::from_seed(seed);
    let mut dir = tempfile::tempdir().unwrap();
    let (mut acks, mut unready, mut underway) = (0, 0, 0);
    for run in 0..runs {
        // Mostly go on with the store of the last crash; now and then a new one, so
        // that crashes meet its creation too.
        if run % 10 == 0 {
            dir = tempfile::tempdir().unwrap();
        }
        let said = run_and_kill(dir.path(), &mut random);
        acks += said.acks;
        unready += u64::from(!said.ready);
        underway += u64::from(said.begun.iter().any(|(writer, number)| {
            said.acknowledged
                .get(writer)
                .is_none_or(|acked| acked < number)
        }));
        verify(dir.path(), &said, &format!("run {run}, seed {seed}")).await;
    }
    println!(
        "{runs} kills: {acks} transactions acknowledged, none lost; {underway} kills fell \
         into a transaction, {unready} before the store was open"
    );
    // Kills before the first line are wanted, but not only those.
    assert!(acks > 0, "no writer ever got as far as an acknowledgement");
}

fn run_and_kill(dir: &Path, random: &mut Random) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut said = Said::default();
    let lines_until_kill = match random.below(8) {
        // While it opens, or repairs what the last kill left.
        0 => 0,
        _ => 1 + random.below(120),
    };
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = |line: &str| {
        ["ready", "begin", "ack", "gone"]
            .iter()
            .any(|w| line.starts_with(w))
    };
    let mut heard = 0;
    while heard < lines_until_kill {
        let Some(line) = lines.next() else {
            panic!("the writer ended by itself: {:?}", child.wait());
        };
        let line = line.unwrap();
        heard += usize::from(told(&line));
        said.hear(&line);
    }
    // A moment more, so that the kill falls anywhere within a commit.
    std::thread::sleep(Duration::from_micros(random.below(4_000) as u64));
    kill(&mut child);
    for line in lines {
        // The pipe may end within a line, which was then not said. What ends
        // without a newline is the last, and only that can be cut.
        let line = line.unwrap();
        if told(&line) && complete(&line) {
            said.hear(&line);
        }
    }
    said
}

/// `Child::kill` is SIGKILL, to the child that was started here and no other.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Lines are written with one call below PIPE_BUF, hence whole (POSIX write); this
/// guards the test's own assumption.
fn complete(line: &str) -> bool {
    let words = match line.split(' ').next() {
        Some("ready") => 1,
        Some("begin" | "gone") => 3,
        Some("ack") => 4,
        _ => return false,
    };
    line.split(' ').filter(|word| !word.is_empty()).count() == words
}

async fn verify(dir: &Path, said: &Said, context: &str) {
    let tasks = Tasks::root(Clock::system());
    let opened = embedded::open(dir, options(), &tasks).await;
    let store = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    let snapshot = store.list("").await.unwrap();
    assert!(snapshot.revision >= Revision(said.revision), "{context}");
    for writer in 0..WRITERS {
        let keys = store.list(format!("w{writer}/")).await.unwrap().items;
        let begun = said.begun.get(&writer).copied();
        let acknowledged = said.acknowledged.get(&writer).copied();
        if keys.is_empty() {
            assert_eq!(
                acknowledged, None,
                "{context}: all keys of writer {writer} lost"
            );
            continue;
        }
        assert_eq!(
            keys.len(),
            KEYS_EACH,
            "{context}: writer {writer} half-written"
        );
        let number = number_in(&keys[0].value);
        assert!(
            acknowledged.is_none_or(|acked| number >= acked),
            "{context}: lost {said:?}"
        );
        assert!(
            begun.is_none_or(|begun| number <= begun),
            "{context}: from nowhere"
        );
        for kv in &keys {
            assert_eq!(*kv.value, *value(number), "{context}: {:?} is torn", kv.key);
            assert_eq!(kv.mod_revision, keys[0].mod_revision, "{context}: mixed");
            assert_eq!(
                kv.version, number,
                "{context}: a put was lost or done twice"
            );
        }
    }
    let leases = store.leases().await.unwrap();
    for gone in &said.gone {
        assert!(!leases.contains(gone), "{context}: lease {gone} came back");
    }
    for kv in store.list("leased/").await.unwrap().items {
        let lease = kv.lease.unwrap();
        assert!(
            leases.contains(&lease),
            "{context}: {:?} on a lease that is gone",
            kv.key
        );
    }
    check_history(&store, snapshot.revision, context).await;
    tasks.stop(Duration::from_secs(60)).await.unwrap();
}

/// The history that is kept leads, change by change, to the state that is kept.
async fn check_history(store: &Store, revision: Revision, context: &str) {
    let mut oldest = Revision(revision.0.saturating_sub(32));
    let mut mirror = BTreeMap::new();
    loop {
        let range = atoll_store::Range::of(Span::all()).at(oldest);
        match store.read(range).await {
            Ok(snapshot) => {
                mirror.extend(snapshot.items.into_iter().map(|kv| (kv.key.clone(), kv)));
                break;
            }
            Err(error) if error.wants_resync() => oldest.0 += 1,
            Err(error) => panic!("{context}: {error}"),
        }
    }
    let mut watch = store.watch(Span::all(), oldest).await.unwrap();
    for expected in oldest.0 + 1..=revision.0 {
        if expected == 1 {
            continue; // An empty store is at 1 without a change.
        }
        let changes = watch.next().await.unwrap();
        assert_eq!(
            changes.revision.0, expected,
            "{context}: a gap in the history"
        );
        for event in changes.events.iter() {
            assert_eq!(event.before, mirror.remove(&event.key), "{context}");
            if let Some(after) = &event.after {
                mirror.insert(event.key.clone(), after.clone());
            }
        }
    }
    let now = store.list("").await.unwrap().items;
    assert_eq!(mirror.into_values().collect::<Vec<_>>(), now, "{context}");
}
