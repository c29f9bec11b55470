//! Which instance gets a request.

use std::collections::HashMap;
use std::sync::Arc;

use atoll_gateway::config::{Backend, Balance, Config, HashKey};
use atoll_model::Health;
use tokio::sync::Notify;

use crate::harness::{Conn, World, closed_address, config, get, named};

fn balanced(balance: Balance) -> Config {
    let mut config = config();
    config.routes[0].balance = balance;
    config
}

/// A world with instances `a`, `b` and `c`, which name themselves.
async fn three(config: Config) -> World {
    let world = World::start(config).await;
    world.upstream("a", named("a")).await;
    world.upstream("b", named("b")).await;
    world.upstream("c", named("c")).await;
    world
}

/// Who answered how often.
async fn count(world: &World, requests: usize, fields: &str) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let mut client = world.connect().await;
    for _ in 0..requests {
        client.send(get("/", fields)).await;
        *counts
            .entry(client.response().await.text().to_owned())
            .or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn round_robin_gives_each_its_turn() {
    let world = three(balanced(Balance::RoundRobin)).await;
    let counts = count(&world, 30, "").await;
    assert_eq!(counts, ["a", "b", "c"].map(|id| (id.to_owned(), 10)).into());
}

#[tokio::test]
async fn an_instance_gets_turns_by_its_weight() {
    let world = World::start(balanced(Balance::RoundRobin)).await;
    let light = world.upstream("light/light", named("light")).await;
    let heavy = world.upstream("heavy/heavy", named("heavy")).await;
    world.register_weighing("light-1", light, 1).await;
    world.register_weighing("heavy-1", heavy, 3).await;
    let counts = count(&world, 40, "").await;
    assert_eq!((counts["light"], counts["heavy"]), (10, 30));
}

#[tokio::test]
async fn least_request_avoids_the_busy_one() {
    let (arrived, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let world = World::start(balanced(Balance::LeastRequest)).await;
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&go));
    world
        .upstream("busy", move |mut conn: Conn| {
            let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
            async move {
                while conn.head().await.is_some() {
                    tell.notify_one();
                    wait.notified().await;
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbusy")
                        .await;
                }
            }
        })
        .await;
    let mut stuck = world.connect().await;
    stuck.send(get("/", "")).await;
    arrived.notified().await;
    world.upstream("free", named("free")).await;
    let counts = count(&world, 50, "").await;
    assert_eq!(counts, [("free".to_owned(), 50)].into());
    go.notify_one();
    assert_eq!(stuck.response().await.text(), "busy");
}

#[tokio::test]
async fn backends_share_a_route_by_weight() {
    let mut config = config();
    config.routes[0].backends = [("stable", 90), ("canary", 10), ("off", 0)]
        .map(|(service, weight)| Backend {
            service: service.parse().unwrap(),
            weight,
        })
        .into();
    let world = World::start(config).await;
    world.upstream("stable/1", named("stable")).await;
    world.upstream("canary/1", named("canary")).await;
    world.upstream("off/1", named("off")).await;
    let counts = count(&world, 1_000, "").await;
    assert!((50..200).contains(&counts["canary"]), "{counts:?}");
    assert_eq!(counts.get("off"), None);
    // A backend that is down costs no request.
    world.set_health("1", Health::Critical).await;
    world.upstream("stable/2", named("stable")).await;
    let counts = count(&world, 100, "").await;
    assert_eq!(counts, [("stable".to_owned(), 100)].into());
}

#[tokio::test]
async fn a_key_sticks_to_its_instance_and_only_its_own_moves() {
    let header = HashKey::Header(http::HeaderName::from_static("x-tenant"));
    let cookie = HashKey::Cookie("session".to_owned());
    for (key, field) in [(header, "X-Tenant: "), (cookie, "Cookie: a=b; session=")] {
        let world = three(balanced(Balance::Hash(key))).await;
        let mut homes = HashMap::new();
        for tenant in 0..30 {
            let counts = count(&world, 4, &format!("{field}{tenant}\r\n")).await;
            assert_eq!(counts.len(), 1, "{tenant} stays where it is");
            homes.insert(tenant, counts.into_keys().next().unwrap());
        }
        let used: std::collections::HashSet<_> = homes.values().collect();
        assert_eq!(used.len(), 3, "keys are spread");
        world.set_health("b", Health::Draining).await;
        for (tenant, home) in &homes {
            let counts = count(&world, 1, &format!("{field}{tenant}\r\n")).await;
            let now = counts.into_keys().next().unwrap();
            assert_ne!(now, "b");
            assert!(
                home == "b" || now == *home,
                "{tenant} moved from {home} to {now}"
            );
        }
    }
}

#[tokio::test]
async fn a_client_sticks_by_its_address() {
    let world = three(balanced(Balance::Hash(HashKey::ClientIp))).await;
    assert_eq!(
        count(&world, 30, "X-Forwarded-For: 9.9.9.9\r\n")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn whatever_the_balance_a_request_ends_at_the_instance_that_lives() {
    for balance in [
        Balance::LeastRequest,
        Balance::RoundRobin,
        Balance::Hash(HashKey::Header(http::HeaderName::from_static("x-key"))),
    ] {
        let world = World::start(balanced(balance)).await;
        world.register("dead", closed_address()).await;
        world.upstream("live", named("live")).await;
        for key in 0..20 {
            let counts = count(&world, 2, &format!("X-Key: {key}\r\n")).await;
            assert_eq!(counts, [("live".to_owned(), 2)].into());
        }
    }
}

#[tokio::test]
async fn only_fit_instances_get_requests() {
    let world = three(config()).await;
    for health in [Health::Starting, Health::Critical, Health::Draining] {
        world.set_health("a", health).await;
        let counts = count(&world, 20, "").await;
        assert_eq!((counts.get("a"), counts.len()), (None, 2), "{health:?}");
    }
    world.set_health("a", Health::Warning).await;
    assert_eq!(count(&world, 30, "").await.len(), 3);
}
