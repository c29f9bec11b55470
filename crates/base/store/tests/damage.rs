//! A file that was cut short or altered: what opens must be right, and what does not
//! open must say so and be left in place.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic as it may"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use atoll_runtime::{Clock, Random, Tasks};
use atoll_store::embedded::{self, Options};
use atoll_store::{Key, Store, StoreError, Value};

type Contents = BTreeMap<Key, Value>;

const FILE: &str = "store.redb";

async fn contents(store: &Store) -> (u64, Contents) {
    let snapshot = store.list("").await.unwrap();
    let items = snapshot.items.iter();
    let items = items.map(|kv| (kv.key.clone(), kv.value.clone()));
    (snapshot.revision.0, items.collect())
}

/// What the store held at each revision, and its file as a `kill -9` would leave it.
async fn written(dir: &Path) -> (BTreeMap<u64, Contents>, Vec<u8>) {
    let tasks = Tasks::root(Clock::system());
    let store = embedded::open(dir, Options::default(), &tasks)
        .await
        .unwrap();
    let mut history = BTreeMap::from([contents(&store).await]);
    for number in 0..120_u8 {
        let value = vec![number; 300];
        store.put(format!("k{}", number % 40), value).await.unwrap();
        history.extend([contents(&store).await]);
    }
    let image = std::fs::read(dir.join(FILE)).unwrap();
    tasks.stop(Duration::from_secs(60)).await.unwrap();
    (history, image)
}

/// Whether it opened; panics if it opened to anything wrong.
async fn check(history: &BTreeMap<u64, Contents>, image: &[u8], what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    std::fs::write(&file, image).unwrap();
    let tasks = Tasks::root(Clock::system());
    let opened = embedded::open(dir.path(), Options::default(), &tasks).await;
    let store = match opened {
        Ok(store) => store,
        Err(error) => {
            let said = matches!(
                error,
                StoreError::Damaged { .. } | StoreError::Format { .. }
            );
            assert!(said, "{what}: {error}");
            let text = error.to_string();
            assert!(text.contains(FILE), "{what}: {text}");
            let left = std::fs::read(&file).unwrap();
            assert!(left == image, "{what}: the damaged file was changed");
            return false;
        }
    };
    let (revision, found) = contents(&store).await;
    let (last, _) = history.last_key_value().unwrap();
    // The newest commit is all that an unfinished write may cost.
    assert!(
        revision + 1 >= *last,
        "{what}: back at {revision} of {last}"
    );
    assert_eq!(Some(&found), history.get(&revision), "{what}");
    store.put("on", "").await.unwrap();
    tasks.stop(Duration::from_secs(60)).await.unwrap();
    true
}

#[tokio::test]
async fn the_file_of_a_killed_process_opens_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (history, image) = written(dir.path()).await;
    assert!(check(&history, &image, "whole").await);
}

#[tokio::test]
async fn a_file_that_was_cut_short_never_opens_to_something_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (history, image) = written(dir.path()).await;
    let mut random = Random::from_seed(1);
    for round in 0..40 {
        let keep = match round {
            0..10 => image.len() - 1 - random.below(512),
            10..20 => image.len() - 1 - random.below(16 * 1_024),
            _ => random.below(image.len()),
        };
        check(&history, &image[..keep], &format!("cut to {keep}")).await;
    }
    assert!(
        !check(&history, &[], "empty").await,
        "an empty file is lost data"
    );
}

#[tokio::test]
async fn a_file_with_flipped_bits_never_opens_to_something_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (history, image) = written(dir.path()).await;
    let mut random = Random::from_seed(2);
    let mut refused = 0;
    for round in 0..60 {
        let mut altered = image.clone();
        // At the end, in the head, anywhere.
        let range = match round % 3 {
            0 => altered.len() - 4_096..altered.len(),
            1 => 0..320,
            _ => 0..altered.len(),
        };
        for _ in 0..1 + random.below(8) {
            let at = range.start + random.below(range.len());
            altered[at] ^= 1 << random.below(8);
        }
        let what = format!("round {round}");
        refused += usize::from(!check(&history, &altered, &what).await);
    }
    assert!(refused > 0, "no flip was noticed at all");
}

#[tokio::test]
async fn a_file_that_is_something_else_is_refused_and_left_alone() {
    for (bytes, what) in [
        (&b"PRAGMA nothing;"[..], "text"),
        (&[0; 8_192], "zeros"),
        (&[0xff; 100_000], "ones"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        std::fs::write(&file, bytes).unwrap();
        let tasks = Tasks::root(Clock::system());
        let opened = embedded::open(dir.path(), Options::default(), &tasks).await;
        let error = opened.unwrap_err();
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{what}: {error}"
        );
        assert!(error.to_string().contains("mv "), "{what}: {error}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{what}");
    }
}
