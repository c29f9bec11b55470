//! Several registries over one store, each of which can lose it for a while.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

mod churn;
mod together;

use std::time::Duration;

use atoll_model::{Check, Health, Probe, Revision};
use atoll_registry::{RegistryError, Source, Word};
use together::{Together, id, name, registration};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_one_takes_in_all_have_at_the_same_revision() {
    let together = Together::of(3).await;
    let (one, two, three) = (together.at(0), together.at(1), together.at(2));
    let revision = one.register(registration("users", "u1")).await.unwrap();
    assert!(
        one.current().revision >= revision,
        "it is shown when it is acknowledged"
    );
    for other in [two, three] {
        let catalog = other.wait_for(revision).await.unwrap();
        assert_eq!(catalog.instances("users").len(), 1);
        assert_eq!(catalog.revision, revision);
    }
    let word = Word::Own {
        health: Health::Critical,
        note: "no disk".to_owned(),
    };
    let revision = two
        .report_health(name("users"), id("u1"), word)
        .await
        .unwrap();
    for registry in [one, two, three] {
        let catalog = registry.wait_for(revision).await.unwrap();
        assert_eq!(catalog.instances("users")[0].health, Health::Critical);
        assert_eq!(catalog.instances("users")[0].note, "no disk");
    }
    let revision = three
        .deregister(name("users"), id("u1"), Source::Client)
        .await
        .unwrap();
    for registry in [one, two, three] {
        let catalog = registry.wait_for(revision).await.unwrap();
        assert!(catalog.instances("users").is_empty());
    }
    let gone = one.renew(name("users"), id("u1")).await;
    assert!(matches!(gone, Err(RegistryError::Unknown { .. })));
}

#[tokio::test]
async fn an_instance_belongs_to_whom_it_renews_with() {
    let together = Together::of(2).await;
    let (one, two) = (together.at(0), together.at(1));
    let mut leased = registration("users", "u1");
    leased.lease = Some(60 * SECOND);
    let revision = one.register(leased.clone()).await.unwrap();
    two.wait_for(revision).await.unwrap();
    assert!(together.watches(0, "u1").await);
    assert!(!together.watches(1, "u1").await);
    two.renew(name("users"), id("u1")).await.unwrap();
    together
        .until(|| async { !together.watches(0, "u1").await })
        .await;
    assert!(together.watches(1, "u1").await);
    // The same registration again is a renewal, too.
    one.register(leased).await.unwrap();
    together
        .until(|| async { !together.watches(1, "u1").await })
        .await;
    assert!(together.watches(0, "u1").await);
}

#[tokio::test]
async fn a_lease_that_ends_with_one_is_over_for_all() {
    let together = Together::of(2).await;
    let mut leased = registration("users", "u1");
    leased.lease = Some(SECOND / 5);
    let revision = together.at(0).register(leased).await.unwrap();
    together.at(1).wait_for(revision).await.unwrap();
    together.until_instances(&[0, 1], 0).await;
}

#[tokio::test]
async fn checks_are_asked_by_one_and_shown_by_all() {
    let together = Together::of(3).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut checked = registration("users", "u1");
    checked.address = listener.local_addr().unwrap().into();
    let mut check = Check::new(Probe::Tcp);
    check.name = "port".to_owned();
    check.interval = SECOND / 20;
    let mut told = Check::new(Probe::Told {
        ttl: Some(60 * SECOND),
    });
    told.name = "word".to_owned();
    checked.checks = vec![check, told];
    together.at(0).register(checked).await.unwrap();
    let said = together.at(1).report_check(
        name("users"),
        id("u1"),
        "word".to_owned(),
        Health::Warning,
        "nearly full".to_owned(),
    );
    // Not before the second has heard of it.
    together.until_instances(&[1], 1).await;
    said.await.unwrap();
    together.until_health(&[0, 1, 2], Health::Warning).await;
    for registry in 0..3 {
        let checks = together.at(registry).checks(None).await.unwrap();
        let checks = &checks[0].checks;
        assert_eq!(checks[0].health, Health::Passing);
        assert_eq!(checks[1].health, Health::Warning);
        assert_eq!(checks[1].output, "nearly full");
    }
    drop(listener);
    together.until_health(&[0, 1, 2], Health::Critical).await;
    // It was the second that asked: the first had given it up.
    let asked = |detail: &atoll_registry::Detail| detail.checks[0].last.is_some();
    assert!(asked(&together.at(1).checks(None).await.unwrap()[0]));
    assert!(!asked(&together.at(2).checks(None).await.unwrap()[0]));
}

#[tokio::test]
async fn what_belonged_to_one_that_is_gone_is_cared_for_by_one_of_the_others() {
    let mut together = Together::of(3).await;
    let mut last = Revision(0);
    for number in 0..20 {
        let mut leased = registration("users", &format!("u{number}"));
        leased.lease = Some(2 * SECOND);
        last = together.at(0).register(leased).await.unwrap();
    }
    together.at(2).wait_for(last).await.unwrap();
    together.kill(0).await;
    together
        .until(|| async {
            let mut both = [0, 0];
            for (at, count) in both.iter_mut().enumerate() {
                for detail in together.at(at + 1).checks(None).await.unwrap() {
                    *count += usize::from(detail.expires_in.is_some());
                }
            }
            both[0] + both[1] == 20 && both[0] > 0 && both[1] > 0
        })
        .await;
    for renewed in 0..10 {
        let renewed = id(&format!("u{renewed}"));
        together.at(1).renew(name("users"), renewed).await.unwrap();
    }
    together.at(1).renew(name("users"), id("u0")).await.unwrap();
    // Those that nobody renews end, if not all at once.
    together.until_instances(&[1, 2], 0).await;
}

#[tokio::test]
async fn without_its_store_each_goes_on_with_what_it_has() {
    let together = Together::of(2).await;
    let (one, two) = (together.at(0), together.at(1));
    let mut leased = registration("users", "u1");
    leased.lease = Some(SECOND / 2);
    let revision = one.register(leased).await.unwrap();
    two.wait_for(revision).await.unwrap();

    together.cut(0);
    let refused = one.register(registration("users", "u2")).await;
    assert!(matches!(refused, Err(RegistryError::Away)), "{refused:?}");
    let refused = one
        .deregister(name("users"), id("u1"), Source::Client)
        .await;
    assert!(matches!(refused, Err(RegistryError::Away)), "{refused:?}");
    // A renewal needs no store, and what Atoll runs itself is shown.
    one.renew(name("users"), id("u1")).await.unwrap();
    let mut own = registration("shop", "s1");
    own.source = Source::Fleet;
    let shown = one.register(own).await.unwrap();
    let catalog = one.wait_for(shown).await.unwrap();
    assert_eq!(catalog.instances("shop").len(), 1);
    assert_eq!(catalog.instances("users").len(), 1);

    // Meanwhile the other goes on.
    let revision = two.register(registration("users", "u3")).await.unwrap();
    assert!(
        two.wait_for(revision)
            .await
            .unwrap()
            .instances("users")
            .len()
            == 2
    );
    assert_eq!(one.current().instances("users").len(), 1, "a snapshot");
    together.mend(0);
    together
        .until(|| async {
            one.current()
                .instances("users")
                .iter()
                .any(|i| i.id == id("u3"))
        })
        .await;
    let revision = one.register(registration("users", "u4")).await.unwrap();
    let catalog = two.wait_for(revision).await.unwrap();
    assert!(catalog.instances("users").iter().any(|i| i.id == id("u4")));
}

#[tokio::test]
async fn one_that_was_cut_off_for_long_does_not_undo_what_others_took_in() {
    let together = Together::of(2).await;
    let (one, two) = (together.at(0), together.at(1));
    let mut leased = registration("users", "u1");
    leased.lease = Some(60 * SECOND);
    let revision = one.register(leased.clone()).await.unwrap();
    two.wait_for(revision).await.unwrap();
    together.cut(0);
    together.forget(0).await;
    together
        .until(|| async { together.watches(1, "u1").await })
        .await;
    leased.tags = vec!["new".to_owned()];
    two.register(leased).await.unwrap();
    // What the first hears of it meanwhile is old.
    let word = Word::Own {
        health: Health::Critical,
        note: String::new(),
    };
    drop(one.report_health(name("users"), id("u1"), word).await);
    together.mend(0);
    together
        .until(|| async {
            let catalog = one.current();
            let first = catalog.instances("users").first().cloned();
            first.is_some_and(|first| first.tags == ["new"] && first.health == Health::Passing)
        })
        .await;
    assert_eq!(two.current().instances("users")[0].tags, ["new"]);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_acknowledged_and_all_agree_on_it() {
    let together = Together::of(2).await;
    together.lose_answers(0, true);
    let uncertain = together.at(0).register(registration("users", "u1")).await;
    assert!(uncertain.is_err());
    together.lose_answers(0, false);
    together.until_instances(&[0, 1], 1).await;
    let revision = together
        .at(0)
        .deregister(name("users"), id("u1"), Source::Client)
        .await
        .unwrap();
    let catalog = together.at(1).wait_for(revision).await.unwrap();
    assert!(catalog.instances("users").is_empty());
}

#[tokio::test]
async fn a_restart_has_all_that_was_acknowledged() {
    let mut together = Together::of(1).await;
    for number in 0..300 {
        let one = registration("users", &format!("u{number}"));
        together.at(0).register(one).await.unwrap();
    }
    let last = together
        .at(0)
        .deregister(name("users"), id("u7"), Source::Client)
        .await
        .unwrap();
    together.stop(0).await;
    together.start().await;
    assert_eq!(together.at(1).current().instances("users").len(), 299);
    assert!(together.at(1).current().revision >= last);
    together
        .until(|| async { together.cares_for(1).await == 299 })
        .await;
}

#[tokio::test]
async fn one_registration_is_one_revision_and_wakes_nobody_again() {
    let together = Together::of(3).await;
    let mut revisions = Vec::new();
    for number in 0..5 {
        let one = registration("users", &format!("u{number}"));
        let revision = together.at(0).register(one).await.unwrap();
        revisions.push(revision.0);
        for member in 0..3 {
            let catalog = together.at(member).wait_for(revision).await.unwrap();
            assert_eq!(catalog.revision, revision);
        }
    }
    assert!(
        revisions.is_sorted_by(|one, next| one + 1 == *next),
        "{revisions:?}"
    );
}

#[tokio::test]
async fn what_atoll_itself_runs_is_shown_although_a_write_was_refused() {
    let together = Together::of(1).await;
    let mut own = registration("shop", "s1");
    own.source = Source::Fleet;
    together.refuse(0, true);
    let registering = tokio::time::timeout(10 * SECOND, together.at(0).register(own));
    let mending = async {
        tokio::time::sleep(SECOND / 5).await;
        together.refuse(0, false);
    };
    let (shown, ()) = tokio::join!(registering, mending);
    let shown = shown.expect("an answer").unwrap();
    let catalog = together.at(0).wait_for(shown).await.unwrap();
    assert_eq!(catalog.instances("shop").len(), 1);
}

#[tokio::test]
async fn the_same_registration_again_counts_though_it_was_removed_elsewhere_unheard() {
    let together = Together::of(2).await;
    let (one, two) = (together.at(0), together.at(1));
    let revision = one.register(registration("users", "u1")).await.unwrap();
    two.wait_for(revision).await.unwrap();
    together.blind(0, true);
    two.deregister(name("users"), id("u1"), Source::Client)
        .await
        .unwrap();
    let hearing = async {
        tokio::time::sleep(SECOND / 5).await;
        together.blind(0, false);
    };
    let (again, ()) = tokio::join!(one.register(registration("users", "u1")), hearing);
    again.unwrap();
    // What was told by now is heard before this.
    let last = one.register(registration("marks", "m1")).await.unwrap();
    for registry in [one, two] {
        let catalog = registry.wait_for(last).await.unwrap();
        assert_eq!(catalog.instances("users").len(), 1, "it was acknowledged");
    }
}
