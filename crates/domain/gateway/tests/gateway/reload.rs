//! Configurations and instances change under load, and no request notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atoll_gateway::config::{Config, Rewrite};
use atoll_model::Health;

use crate::harness::{World, config, echo, get, named, post};

/// Asks without a pause until told to stop; gives the number of good answers.
/// Panics at the first bad one.
async fn load(world: &World, stop: &AtomicBool, done: &AtomicUsize) {
    let mut client = world.connect().await;
    while !stop.load(Ordering::SeqCst) {
        for request in [get("/", ""), post("hello")] {
            client.send(request).await;
            let response = client.response().await;
            assert_eq!(response.status, 200, "{}", response.text());
            done.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Runs `change` under the load of four clients, then lets a hundred more requests
/// pass.
async fn under_load(world: &World, change: impl AsyncFnOnce()) {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let changes = async {
        crate::harness::eventually("the load begins", || done.load(Ordering::SeqCst) > 0).await;
        change().await;
        let so_far = done.load(Ordering::SeqCst);
        crate::harness::eventually("the load goes on", || {
            done.load(Ordering::SeqCst) > so_far + 100
        })
        .await;
        stop.store(true, Ordering::SeqCst);
    };
    let client = || load(world, &stop, &done);
    tokio::join!(changes, client(), client(), client(), client());
}

#[tokio::test]
async fn reloads_lose_nothing() {
    let world = World::with(config(), echo).await;
    under_load(&world, async || {
        for number in 0..200_u32 {
            let mut next = config();
            next.routes[0].name = format!("route-{}", number % 3);
            next.routes[0].retry.attempts = 1 + number % 3;
            next.routes[0].rewrite = match number % 2 {
                0 => Rewrite::Keep,
                _ => Rewrite::Template("/else/{rest}".to_owned()),
            };
            let generation = world.gateway.publish(next).await.unwrap();
            assert_eq!(generation, u64::from(number) + 2);
        }
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let world = World::with(config(), echo).await;
    let mut wrong = config();
    wrong.routes[0].backends.clear();
    assert!(world.gateway.publish(wrong).await.is_err());
    assert_eq!(world.gateway.snapshot().generation, 1);
    assert_eq!(world.ask(&get("/", "")).await.status, 200);
}

#[tokio::test]
async fn replacing_the_only_instance_over_and_over_loses_nothing() {
    let world = World::start(config()).await;
    let addresses = [
        world.upstream("a", named("a")).await,
        world.upstream("b", named("b")).await,
    ];
    under_load(&world, async || {
        for number in 0..100 {
            let (new, old) = (["a", "b"][number % 2], ["b", "a"][number % 2]);
            // The old one leaves before the new one is there: nobody is, for a moment.
            world.deregister(new).await;
            world.deregister(old).await;
            world.register(new, addresses[number % 2]).await;
        }
    })
    .await;
}

#[tokio::test]
async fn instances_that_drain_and_come_back_lose_nothing() {
    let world = World::start(config()).await;
    for id in ["a", "b", "c"] {
        world.upstream(id, named("ok")).await;
    }
    under_load(&world, async || {
        for number in 0..100 {
            let id = ["a", "b", "c"][number % 3];
            world.set_health(id, Health::Draining).await;
            let (service, instance) = ("users".parse().unwrap(), id.parse().unwrap());
            world.gateway.idle(&service, &instance).await;
            world.set_health(id, Health::Passing).await;
        }
    })
    .await;
}

#[tokio::test]
async fn limits_change_for_connections_that_are_open() {
    let world = World::with(config(), echo).await;
    let mut client = world.connect().await;
    let large = get("/", &format!("X-Large: {}\r\n", "a".repeat(5_000)));
    client.send(&large).await;
    assert_eq!(client.response().await.status, 200);
    let mut tight = config();
    tight.limits.head_bytes_max = 4_096;
    world.gateway.publish(tight).await.unwrap();
    client.send(&large).await;
    assert_eq!(client.response().await.status, 431);
}

#[tokio::test]
async fn a_request_keeps_the_configuration_that_it_began_with() {
    let world = World::with(
        with_timeout(Duration::from_secs(30)),
        |mut conn| async move {
            let head = conn.head().await.unwrap();
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
                .await;
            conn.body(&head).await;
            conn.send("1\r\nb\r\n0\r\n\r\n").await;
        },
    )
    .await;
    let mut client = world.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        .await;
    client.head().await.unwrap();
    assert_eq!(client.line().await, "1\r\n");
    let mut gone = with_timeout(Duration::from_millis(1));
    gone.routes[0].body_bytes_max = Some(0);
    gone.routes[0].name = "another".to_owned();
    world.gateway.publish(gone).await.unwrap();
    client.send("x").await;
    assert_eq!(client.take(3).await, b"a\r\n");
    assert_eq!(client.chunks().await.0, b"b");
}

fn with_timeout(request: Duration) -> Config {
    let mut config = config();
    config.routes[0].timeouts.request = request;
    config
}

#[tokio::test]
async fn instances_killed_under_load_lose_no_idempotent_request() {
    use tokio::sync::watch;
    let world = Arc::new(World::start(config()).await);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let kills = async {
        let mut previous: Option<watch::Sender<bool>> = None;
        for number in 0..30 {
            let (kill, killed) = watch::channel(false);
            let address = mortal(&world, killed).await;
            world.register(&format!("r{number}"), address).await;
            if let Some(kill) = previous.replace(kill) {
                // First it dies, then the catalogue learns of it.
                kill.send_replace(true);
                let so_far = done.load(Ordering::SeqCst);
                crate::harness::eventually("requests meet the dead", || {
                    done.load(Ordering::SeqCst) > so_far + 20
                })
                .await;
                world.deregister(&format!("r{}", number - 1)).await;
            }
        }
        stop.store(true, Ordering::SeqCst);
        previous
    };
    let gets = async || {
        let mut client = world.connect().await;
        while !stop.load(Ordering::SeqCst) {
            client.send(get("/", "")).await;
            let response = client.response().await;
            assert_eq!(response.status, 200, "{}", response.text());
            done.fetch_add(1, Ordering::SeqCst);
        }
    };
    tokio::join!(kills, gets(), gets(), gets());
}

/// A server that, once killed, drops its listener and all connections at once, as a
/// process does that is killed.
async fn mortal(
    world: &World,
    mut killed: tokio::sync::watch::Receiver<bool>,
) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = world.tasks.clone();
    drop(world.tasks.once("mortal", async move {
        let mut dead = killed.clone();
        let accept = async {
            while let Ok((stream, _)) = listener.accept().await {
                let mut dead = killed.clone();
                let serve = named("ok")(crate::harness::Conn::new(stream, 0));
                drop(tasks.once("mortal-connection", async move {
                    tokio::select! {
                        _ = dead.wait_for(|dead| *dead) => {}
                        () = serve => {}
                    }
                }));
            }
        };
        tokio::select! {
            _ = dead.wait_for(|dead| *dead) => {}
            () = accept => {}
        }
        killed.mark_unchanged();
    }));
    address
}
