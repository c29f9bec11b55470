//! A service that has lost its last instance a moment ago is waited for.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Health;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::harness::{Conn, World, closed_address, config, get, named, post};

/// Sends `request` and gives the client once the gateway waits for an instance.
async fn waiting(world: &World, request: &str) -> Conn {
    let mut client = world.connect().await;
    client.send(request).await;
    let in_flight = "atoll_gateway_requests_in_flight{route=\"all\"}";
    crate::harness::eventually("the request waits", || world.metric(in_flight) >= 1).await;
    client
}

#[tokio::test]
async fn a_request_waits_for_the_next_instance_after_the_last_has_left() {
    let world = World::with(config(), named("first")).await;
    assert_eq!(world.ask(&get("/", "")).await.text(), "first");
    for (leave, request) in [("one", get("/", "")), ("two", post("hello"))] {
        world.deregister(leave).await;
        let mut client = waiting(&world, &request).await;
        let next = if leave == "one" { "two" } else { "three" };
        world.upstream(next, named("next")).await;
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, "next"));
    }
}

#[tokio::test]
async fn it_does_not_matter_how_the_last_instance_was_lost_or_comes_back() {
    let world = World::with(config(), named("one")).await;
    for health in [Health::Critical, Health::Draining, Health::Starting] {
        world.set_health("one", health).await;
        let mut client = waiting(&world, &get("/", "")).await;
        // News of something else is no instance.
        world.register("other/1", closed_address()).await;
        world.set_health("one", Health::Passing).await;
        assert_eq!(client.response().await.text(), "one", "{health:?}");
    }
}

#[tokio::test]
async fn a_service_that_never_had_an_instance_is_not_waited_for() {
    let world = World::start(config()).await;
    let begun = Instant::now();
    assert_eq!(world.ask(&get("/", "")).await.status, 503);
    world.upstream("one", named("one")).await;
    // Never fit is as never there.
    let world = World::start(config()).await;
    world.register("one", closed_address()).await;
    world.set_health("one", Health::Starting).await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn nobody_waits_longer_than_five_seconds_after_the_loss() {
    let world = World::with(config(), named("one")).await;
    world.ask(&get("/", "")).await;
    let lost = Instant::now();
    world.deregister("one").await;
    let response = world.ask(&get("/", "")).await;
    assert_eq!(response.status, 503);
    assert!(response.text().contains("no_endpoint"));
    let waited = lost.elapsed();
    assert!(waited >= Duration::from_millis(4_900), "{waited:?}");
    assert!(waited < Duration::from_secs(9), "{waited:?}");
    // From here on everybody is told at once.
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(world.ask(&get("/", "")).await.status, 503);
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn the_limit_of_the_whole_request_holds_while_it_waits() {
    let mut config = config();
    config.routes[0].timeouts.request = Duration::from_millis(50);
    let world = World::with(config, named("one")).await;
    world.deregister("one").await;
    let response = world.ask(&get("/", "")).await;
    assert_eq!(response.status, 504);
    assert!(response.text().contains("request_timeout"));
}

#[tokio::test]
async fn a_refused_request_waits_for_the_catalogue_to_learn_of_it() {
    let world = World::start(config()).await;
    world.register("killed", closed_address()).await;
    for request in [get("/", ""), post("hello")] {
        let mut client = waiting(&world, &request).await;
        world.deregister("killed").await;
        world.upstream("new", named("new")).await;
        assert_eq!(client.response().await.text(), "new");
        world.deregister("new").await;
        world.register("killed", closed_address()).await;
    }
}

#[tokio::test]
async fn a_service_that_stays_unreachable_makes_nobody_wait_but_the_first() {
    let world = World::start(config()).await;
    world.register("dead", closed_address()).await;
    let begun = Instant::now();
    assert_eq!(world.ask(&get("/", "")).await.status, 502);
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(world.ask(&get("/", "")).await.status, 502);
    }
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_request_that_was_sent_does_not_wait() {
    let arrived = Arc::new(Notify::new());
    let die = Arc::new(Notify::new());
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&die));
    let world = World::with(config(), move |mut conn: Conn| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            conn.head().await;
            tell.notify_one();
            wait.notified().await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    arrived.notified().await;
    world.deregister("one").await;
    let begun = Instant::now();
    die.notify_one();
    let response = client.response().await;
    assert_eq!(response.status, 502);
    assert!(response.text().contains("upstream_closed"));
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_retry_knows_instances_that_came_after_the_request() {
    let arrived = Arc::new(Notify::new());
    let die = Arc::new(Notify::new());
    let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&die));
    let world = World::with(config(), move |mut conn: Conn| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            conn.head().await;
            tell.notify_one();
            wait.notified().await;
        }
    })
    .await;
    let mut client = world.connect().await;
    client.send(get("/", "")).await;
    arrived.notified().await;
    world.upstream("two", named("two")).await;
    world.deregister("one").await;
    die.notify_one();
    assert_eq!(client.response().await.text(), "two");
}

#[tokio::test]
async fn no_more_than_1024_wait_on_one_worker() {
    let world = World::with(config(), named("one")).await;
    world.ask(&get("/", "")).await;
    world.deregister("one").await;
    let mut clients = Vec::new();
    for _ in 0..1_030 {
        let mut client = world.connect().await;
        client.send(get("/", "")).await;
        clients.push(client);
    }
    let refused = "atoll_gateway_requests_total{route=\"all\",class=\"5xx\",status=\"503\"}";
    crate::harness::eventually("six are refused", || world.metric(refused) == 6).await;
    world.upstream("two", named("two")).await;
    let mut served = 0;
    for client in &mut clients {
        served += usize::from(client.response().await.status == 200);
    }
    assert_eq!(served, 1_024);
}

#[tokio::test]
async fn whoever_waits_for_an_endpoint_to_be_idle_does_not_wait_for_the_waiting() {
    let world = World::start(config()).await;
    world.register("killed", closed_address()).await;
    let mut client = waiting(&world, &get("/", "")).await;
    world.set_health("killed", Health::Draining).await;
    let (service, id) = ("users".parse().unwrap(), "killed".parse().unwrap());
    world.gateway.idle(&service, &id).await;
    world.upstream("new", named("new")).await;
    assert_eq!(client.response().await.text(), "new");
}
