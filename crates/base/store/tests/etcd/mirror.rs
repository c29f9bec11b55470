//! What is mirrored goes on to be read while etcd is away.

use std::time::{Duration, Instant};

use atoll_store::{Op, Range, Snapshot, Span, Store, StoreError, Txn};

use crate::server::Etcd;
use crate::{alone, events, soon, until_away};

/// More than one page of a read.
const MANY: usize = 1_200;

/// The last segments of the keys, with their values.
fn shown(snapshot: &Snapshot) -> Vec<String> {
    let items = snapshot.items.iter().map(|item| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("{}={}", text(&item.key), text(&item.value))
    });
    items.collect()
}

fn all() -> Range {
    Range::of(Span::prefix("mirrored/"))
}

/// Waits until etcd, or what is known of it, shows this.
async fn until_shown(store: &Store, expected: &[&str]) {
    let shows = async {
        while shown(&store.read(all()).await.unwrap()) != expected {
            tokio::task::yield_now().await;
        }
    };
    soon("what was written last", shows).await;
}

/// Kills etcd until this is shown without it: all has to be read again first, and
/// nobody sees when that is done.
async fn until_shown_without(etcd: &mut Etcd, store: &Store, expected: &[&str]) {
    let mut standing = store.standing();
    let shows = async {
        loop {
            etcd.kill();
            until_away(&mut standing, true).await;
            if let Ok(found) = store.read(all()).await
                && shown(&found) == expected
            {
                return;
            }
            etcd.run_again();
            until_away(&mut standing, false).await;
        }
    };
    soon("what is known", shows).await;
}

/// Puts, changes and deletes keys until `b=2` and `c=1` are left; has the watch of this
/// process seen it, so that the mirror has, too.
async fn write(store: &Store) {
    let begin = store.put("mirrored/a", "1").await.unwrap();
    let mut watch = store.watch(Span::all(), begin).await.unwrap();
    store.put("mirrored/b", "1").await.unwrap();
    store.put("beside", "1").await.unwrap();
    let delete = Op::Delete("mirrored/a".into());
    let more = [Op::put("mirrored/b", "2"), Op::put("mirrored/c", "1")];
    store
        .commit(Txn::of(
            more.into_iter().chain([delete]).collect::<Vec<_>>(),
        ))
        .await
        .unwrap();
    let last = store.put("mirrored/c", "1").await.unwrap();
    while events(&mut watch).await[0]
        .after
        .as_ref()
        .is_none_or(|after| after.mod_revision != last)
    {}
}

const WRITTEN: [&str; 2] = ["mirrored/b=2", "mirrored/c=1"];

/// While it is away: the last state for what is mirrored, refusals for all else.
async fn check_away(store: &Store, before: &Snapshot) {
    let begun = Instant::now();
    assert_eq!(&store.read(all()).await.unwrap(), before);
    let one = store.read(all().limit(1)).await.unwrap();
    assert_eq!((shown(&one), one.more), (vec![WRITTEN[0].to_owned()], true));
    let got = store.get("mirrored/c").await.unwrap().unwrap();
    assert_eq!(*got.value, *b"1");
    assert_eq!(store.get("mirrored/a").await.unwrap(), None);
    let unavailable = |error: StoreError| {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    };
    unavailable(store.list("").await.unwrap_err());
    unavailable(store.get("beside").await.unwrap_err());
    let earlier = all().at(before.revision);
    unavailable(store.read(earlier).await.unwrap_err());
    unavailable(store.put("mirrored/b", "3").await.unwrap_err());
    unavailable(store.grant(Duration::from_secs(60)).await.unwrap_err());
    assert_eq!(store.get("").await, Err(StoreError::EmptyKey));
    assert!(begun.elapsed() < Duration::from_secs(1), "known to be away");
}

#[tokio::test]
async fn while_etcd_is_dead_reads_show_the_last_state_and_after_it_the_present_one() {
    let (store, (_tasks, mut etcd)) = alone().await;
    let mut standing = store.standing();
    write(&store).await;
    let before = store.read(all()).await.unwrap();
    assert_eq!(shown(&before), WRITTEN);
    for _ in 0..2 {
        etcd.kill();
        until_away(&mut standing, true).await;
        check_away(&store, &before).await;
        etcd.run_again();
        until_away(&mut standing, false).await;
    }
    // By somebody else.
    etcd.ctl(&["put", "/atoll/mirrored/d", "1"]);
    let now = ["mirrored/b=2", "mirrored/c=1", "mirrored/d=1"];
    assert_eq!(shown(&store.read(all()).await.unwrap()), now);
    // A watch of what is known goes on from there.
    let mut watch = store.watch(Span::all(), before.revision).await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"mirrored/d");
    etcd.kill();
    until_away(&mut standing, true).await;
    until_shown(&store, &now).await;
}

#[tokio::test]
async fn while_etcd_is_silent_a_read_that_is_under_way_shows_the_last_state() {
    let (store, (_tasks, etcd)) = alone().await;
    let mut standing = store.standing();
    write(&store).await;
    let before = store.read(all()).await.unwrap();
    etcd.signal("STOP");
    let begun = Instant::now();
    // It counts as there still.
    assert_eq!(store.read(all()).await.unwrap(), before);
    assert!(begun.elapsed() < Duration::from_secs(4), "{begun:?}");
    until_away(&mut standing, true).await;
    check_away(&store, &before).await;
    etcd.signal("CONT");
    until_away(&mut standing, false).await;
    store.put("mirrored/b", "4").await.unwrap();
    let now = ["mirrored/b=4", "mirrored/c=1"];
    assert_eq!(shown(&store.read(all()).await.unwrap()), now);
}

#[tokio::test]
async fn what_was_there_at_the_start_is_shown_page_by_page() {
    let mut etcd = Etcd::start();
    let (first, _first) = etcd.store("/atoll").await;
    for chunk in (0..MANY).collect::<Vec<_>>().chunks(100) {
        let puts = chunk.iter();
        let puts = puts.map(|key| Op::put(format!("mirrored/{key:05}"), "x"));
        first
            .commit(Txn::of(puts.collect::<Vec<_>>()))
            .await
            .unwrap();
    }
    let (store, _tasks) = etcd.store("/atoll").await;
    let before = store.read(all()).await.unwrap();
    etcd.kill();
    until_away(&mut store.standing(), true).await;
    let after = store.read(all()).await.unwrap();
    assert_eq!(after.items.len(), MANY);
    assert_eq!(after, before);
}

#[tokio::test]
async fn history_that_was_dropped_meanwhile_is_no_harm() {
    let (store, (_tasks, mut etcd)) = alone().await;
    let mut standing = store.standing();
    write(&store).await;
    etcd.kill();
    until_away(&mut standing, true).await;
    etcd.run_again();
    // Before our watch is open again, or after: both may be.
    etcd.ctl(&["put", "/atoll/mirrored/b", "5"]);
    etcd.ctl(&["del", "/atoll/mirrored/c"]);
    let revision = store_revision(&etcd);
    etcd.ctl(&["compact", &revision]);
    until_away(&mut standing, false).await;
    let now = ["mirrored/b=5"];
    until_shown(&store, &now).await;
    let mut watch = store
        .watch(Span::all(), revision_of(&store).await)
        .await
        .unwrap();
    store.put("mirrored/b", "6").await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"mirrored/b");
    until_shown_without(&mut etcd, &store, &["mirrored/b=6"]).await;
}

async fn revision_of(store: &Store) -> atoll_model::Revision {
    store.list("").await.unwrap().revision
}

/// As etcd counts now.
fn store_revision(etcd: &Etcd) -> String {
    let told = etcd.ctl(&["get", "/", "--write-out=json"]);
    let (_, after) = told.split_once("\"revision\":").unwrap();
    let digits = after.chars().take_while(char::is_ascii_digit);
    digits.collect()
}

#[tokio::test]
async fn when_etcd_lost_all_what_is_known_is_of_its_new_life() {
    let (store, (_tasks, mut etcd)) = alone().await;
    let mut standing = store.standing();
    write(&store).await;
    etcd.kill();
    until_away(&mut standing, true).await;
    until_shown(&store, &WRITTEN).await;
    std::fs::remove_dir_all(etcd.dir.path().join("data")).unwrap();
    etcd.run_again();
    until_away(&mut standing, false).await;
    until_shown(&store, &[]).await;
    let begin = store.put("mirrored/new", "1").await.unwrap();
    let mut watch = store.watch(Span::all(), begin).await.unwrap();
    store.put("mirrored/new", "2").await.unwrap();
    assert_eq!(*events(&mut watch).await[0].key, *b"mirrored/new");
    until_shown_without(&mut etcd, &store, &["mirrored/new=2"]).await;
}
