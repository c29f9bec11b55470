//! Three registries over one store, at random: registrations, removals and words through
//! any of them, while each in turn loses the store, its answers, or its membership.
//! Afterwards all three agree, with each other and with what was acknowledged.
//!
//! The seed is told with a failure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::together::{Together, id, name, registration};
use atoll_model::{Catalog, Health};
use atoll_registry::{RegistryError, Source, Word};
use atoll_runtime::Random;

const MEMBERS: usize = 3;
const INSTANCES: usize = 8;
const STEPS: usize = 120;
const SEEDS: u64 = 12;

/// What is known of one instance.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The last that was acknowledged: its tag, or none when it was removed.
    acknowledged: Option<Option<String>>,
    /// What was tried since and may or may not have happened.
    maybe: Vec<Option<String>>,
}

impl Known {
    fn did(&mut self, what: Option<String>, result: Result<(), RegistryError>) {
        match result {
            Ok(()) => {
                self.acknowledged = Some(what);
                self.maybe.clear();
            }
            Err(_) => self.maybe.push(what),
        }
    }

    fn allows(&self, found: Option<&str>) -> bool {
        let found = found.map(str::to_owned);
        self.acknowledged.clone().unwrap_or_default() == found || self.maybe.contains(&found)
    }
}

#[tokio::test]
async fn whatever_happens_in_between_all_agree_on_what_was_acknowledged() {
    for seed in 0..SEEDS {
        history(seed).await;
    }
}

/// One run: what happens, and what is known of it.
struct History {
    random: Random,
    together: Together,
    known: BTreeMap<usize, Known>,
    cut: [bool; MEMBERS],
    story: Vec<String>,
}

impl History {
    async fn step(&mut self, step: usize) {
        let member = self.random.below(MEMBERS);
        let number = self.random.below(INSTANCES);
        let instance = format!("u{number}");
        let registry = self.together.at(member);
        match self.random.below(20) {
            0..=7 => {
                let mut one = registration("users", &instance);
                let tag = format!("t{step}");
                one.tags = vec![tag.clone()];
                one.lease = Some(Duration::from_secs(600));
                let result = registry.register(one).await.map(drop);
                self.story
                    .push(format!("{step}: {member} registers {instance}: {result:?}"));
                self.known.entry(number).or_default().did(Some(tag), result);
            }
            8..=10 => {
                let result = registry
                    .deregister(name("users"), id(&instance), Source::Client)
                    .await
                    .map(drop);
                self.story
                    .push(format!("{step}: {member} removes {instance}: {result:?}"));
                if !matches!(result, Err(RegistryError::Unknown { .. })) {
                    self.known.entry(number).or_default().did(None, result);
                }
            }
            11..=13 => drop(registry.renew(name("users"), id(&instance)).await),
            14..=15 => {
                let health = [Health::Passing, Health::Warning][self.random.below(2)];
                let note = String::new();
                let word = Word::Own { health, note };
                let told = registry.report_health(name("users"), id(&instance), word);
                self.story.push(format!(
                    "{step}: {member} says of {instance}: {:?}",
                    told.await
                ));
            }
            16 => {
                self.together.lose_answers(member, true);
                self.story
                    .push(format!("{step}: {member} hears no answers"));
            }
            17 => {
                self.cut[member] = true;
                self.together.cut(member);
                self.story.push(format!("{step}: {member} is cut off"));
            }
            18 if self.cut[member] && self.random.below(3) == 0 => {
                self.together.forget(member).await;
                self.story
                    .push(format!("{step}: {member} is taken for gone"));
            }
            _ => {
                self.cut[member] = false;
                self.together.lose_answers(member, false);
                self.together.mend(member);
                self.story.push(format!("{step}: {member} is mended"));
            }
        }
    }
}

async fn history(seed: u64) {
    let mut history = History {
        random: Random::from_seed(seed),
        together: Together::of(MEMBERS).await,
        known: BTreeMap::new(),
        cut: [false; MEMBERS],
        story: Vec::new(),
    };
    for step in 0..STEPS {
        history.step(step).await;
    }
    let History {
        together,
        known,
        story,
        ..
    } = history;
    for member in 0..MEMBERS {
        together.lose_answers(member, false);
        together.mend(member);
    }
    // A change by each that all must hear of comes after all that they had to hear.
    for member in 0..MEMBERS {
        together
            .until(|| async {
                let mark = registration("marks", &format!("m{member}"));
                let registered = together.at(member).register(mark).await;
                registered.is_ok()
            })
            .await;
    }
    let agree = || async {
        let all: Vec<_> = (0..MEMBERS)
            .map(|member| seen(&together.at(member).current()))
            .collect();
        let cared = async |member| together.cares_for(member).await;
        let cared = cared(0).await + cared(1).await + cared(2).await;
        all.iter().all(|one| *one == all[0])
            && all[0].get("marks").map(BTreeMap::len) == Some(MEMBERS)
            && cared == all[0].values().map(BTreeMap::len).sum::<usize>()
    };
    let patience = Duration::from_secs(30);
    let agreed = tokio::time::timeout(patience, together.until(agree)).await;
    let story = story.join("\n");
    let now: Vec<_> = (0..MEMBERS)
        .map(|m| seen(&together.at(m).current()))
        .collect();
    let mut cared = Vec::new();
    for member in 0..MEMBERS {
        let all = together.at(member).checks(None).await.unwrap();
        let all = all.into_iter().filter(|detail| detail.cared_for);
        cared.push(all.map(|d| d.instance.id.to_string()).collect::<Vec<_>>());
    }
    assert!(
        agreed.is_ok(),
        "seed {seed}: no agreement: {now:#?} {cared:?}\n{story}"
    );
    let users = now[0].get("users").cloned().unwrap_or_default();
    for number in 0..INSTANCES {
        let found = users.get(&format!("u{number}")).map(|(tag, _)| &tag[..]);
        let known = known.get(&number).cloned().unwrap_or_default();
        assert!(
            known.allows(found),
            "seed {seed}: u{number} is {found:?}, known is {known:?}\n{story}"
        );
    }
}

/// What a catalogue shows, by service and id: the tag and the health.
fn seen(catalog: &Catalog) -> BTreeMap<String, BTreeMap<String, (String, Health)>> {
    let services = catalog.services.iter().map(|(service, all)| {
        let all = all.iter().map(|instance| {
            let tag = instance.tags.first().cloned().unwrap_or_default();
            (instance.id.to_string(), (tag, instance.health))
        });
        (service.to_string(), all.collect())
    });
    services.collect()
}
