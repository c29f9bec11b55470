//! Changes, kills and removals at random: no replica ever has two processes, the fleet
//! settles on what was asked last, and leaves nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use atoll_runtime::Random;

use crate::world::{World, eventually, kill_9, processes_of, runs};

const ROUNDS: usize = 80;

/// Two processes that are both the same replica.
fn twins(folder: &Path) -> Option<(String, u32, u32)> {
    let mut seen = BTreeMap::new();
    for pid in processes_of(folder) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let mut pairs = environment.split('\0');
        let Some(id) = pairs.find_map(|pair| pair.strip_prefix("ATOLL_INSTANCE=")) else {
            continue;
        };
        if let Some(other) = seen.insert(id.to_owned(), pid) {
            return Some((id.to_owned(), other, pid));
        }
    }
    None
}

#[tokio::test]
async fn whatever_happens_no_replica_has_two_processes() {
    let world = World::new().await;
    let folder = world.folder.path().to_owned();
    let mut random = Random::from_seed(20_261_123);
    let (users, products) = (
        world.service("users", 2, &[]),
        world.service("products", 1, &[]),
    );
    let mut wanted = vec![users, products];
    for round in 0..ROUNDS {
        match random.below(5) {
            0 | 1 => {
                let pids = processes_of(&folder);
                if let Some(pid) = pids.get(random.below(pids.len())) {
                    // It may have ended by itself just now.
                    if runs(*pid) {
                        kill_9(*pid);
                    }
                }
            }
            2 => {
                let environment = &mut wanted[0].environment;
                environment.insert("ROUND".to_owned(), round.to_string());
            }
            3 => wanted[0].replicas = 1 + u32::try_from(random.below(3)).unwrap(),
            _ => {
                let products = world.service("products", 1, &[]);
                wanted.truncate(1);
                world.fleet.apply(wanted.clone()).await.unwrap();
                wanted.push(products);
            }
        }
        world.fleet.apply(wanted.clone()).await.unwrap();
        // Not a wait for something: it varies how far things have come.
        let pause_ms = random.below(60) as u64;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        if let Some((id, one, two)) = twins(&folder) {
            // Unless one ended while the list was made.
            let both = runs(one) && runs(two) && twins(&folder).is_some();
            assert!(!both, "{id} has processes {one} and {two} in round {round}");
        }
    }
    let replicas = wanted[0].replicas as usize;
    // The last kill may not have been noticed yet.
    let serving = |name| world.neighbours.serving(name).len();
    eventually("it settles on what was asked last", || {
        processes_of(&folder).len() == replicas + 1
            && (serving("users"), serving("products")) == (replicas, 1)
    })
    .await;
    world.until_settled("users", replicas).await;
    world.fleet.stop().await;
    assert_eq!(processes_of(&folder), []);
    assert!(world.neighbours.serving("users").is_empty());
}
