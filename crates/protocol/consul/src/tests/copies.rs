//! Both ends of a migration: what one front lists is told to another.

use super::*;
use crate::copying::{self, Listed};

impl World {
    async fn tell(&self, dry_run: bool, items: Vec<Value>) -> Vec<(u16, String)> {
        let batch = copying::batch("http://old:8500", dry_run, items);
        let asked = self.asked("", std::str::from_utf8(&batch).unwrap());
        let (_, results) = read(self.front.copies(&asked).await);
        copying::answers(results.to_string().as_bytes()).unwrap()
    }

    async fn statuses(&self, items: Vec<Value>) -> Vec<u16> {
        let told = self.tell(false, items).await;
        told.into_iter().map(|(status, _)| status).collect()
    }

    async fn catalog(&self, body: &Value) {
        let asked = self.asked("", &body.to_string());
        assert!(self.front.catalog_register(&asked).await.is_ok());
    }

    async fn listed(&self, service: &str) -> Vec<Listed> {
        let (_, rows) = self.health(service, "").await;
        copying::read_instances(rows.to_string().as_bytes()).unwrap()
    }
}

/// `web-1` on a node, as somebody's Consul may have it.
fn web(node: &str, status: &str) -> Value {
    json!({
        "Node": node, "Address": "10.0.0.1", "ID": "5f0e0000-0000-4000-8000-000000000001",
        "NodeMeta": { "rack": "7" },
        "Service": {
            "Service": "Web", "ID": "web-1", "Port": 8080, "Tags": ["blue", "v2"],
            "Meta": { "team": "shop" }, "Weights": { "Passing": 3, "Warning": 2 },
            "EnableTagOverride": true,
        },
        "Checks": [{
            "CheckID": "alive", "Name": "Alive", "Status": status, "Output": "so it says",
            "Notes": "as ever", "ServiceID": "web-1",
        }],
    })
}

#[tokio::test]
async fn a_copy_looks_as_its_original() {
    let (source, target) = (world().await, world().await);
    for node in ["a", "n"] {
        source.catalog(&web(node, "warning")).await;
    }
    let originals = source.listed("web").await;
    assert_eq!(originals.len(), 2);
    let items = || {
        originals
            .iter()
            .map(|it| copying::register(&it.body))
            .collect()
    };
    let dry = target.tell(true, items()).await;
    assert!(dry.iter().all(|(status, _)| *status == 200), "{dry:?}");
    assert!(target.listed("web").await.is_empty());
    let (index, nodes) = read(target.front.catalog_nodes(&target.asked("", "")).await);
    assert_eq!(
        (index, nodes.as_array().unwrap().len()),
        (1, 1),
        "not even its node"
    );

    assert_eq!(target.statuses(items()).await, [200, 200]);
    assert_eq!(target.listed("web").await, originals);
    let without_times = |(_, mut rows): (u64, Value)| {
        for row in rows.as_array_mut().unwrap() {
            row["Node"]["CreateIndex"].take();
            row["Node"]["ModifyIndex"].take();
            row["Service"]["CreateIndex"].take();
            row["Service"]["ModifyIndex"].take();
            for check in row["Checks"].as_array_mut().unwrap() {
                check["CreateIndex"].take();
                check["ModifyIndex"].take();
            }
        }
        rows
    };
    let original = without_times(source.health("web", "").await);
    assert_eq!(without_times(target.health("web", "").await), original);
    assert_eq!(original[0]["Service"]["Weights"]["Warning"], 2);

    // A change at the source, and a renewal; the second is of nothing new.
    source.catalog(&web("a", "critical")).await;
    // By their ids in the registry: our own node's first.
    let changed = &source.listed("web").await[1];
    let items = vec![
        copying::register(&changed.body),
        copying::renew("web", "web-1", "a"),
        copying::renew("web", "web-2", "a"),
    ];
    assert_eq!(target.statuses(items).await, [200, 200, 404]);
    assert_eq!(target.listed("web").await[0].status, "warning");
    assert_eq!(target.listed("web").await[1].status, "critical");
}

#[tokio::test]
async fn a_copy_takes_no_client_of_another_services_id_away() {
    let target = world().await;
    target
        .register(&json!({ "Name": "other", "ID": "web-1", "Port": 1 }))
        .await;
    let items = vec![copying::register(&web("n", "passing"))];
    target.statuses(items).await;
    let (_, rows) = target.health("other", "").await;
    assert_eq!(rows[0]["Service"]["ID"], "web-1");
}

#[tokio::test]
async fn what_has_switched_is_neither_changed_nor_removed() {
    let target = world().await;
    let items = |status: &str| {
        let bodies = [web("a", status), web("n", status)];
        bodies.iter().map(copying::register).collect::<Vec<_>>()
    };
    assert_eq!(target.statuses(items("passing")).await, [200, 200]);
    // The client on our own node registers with its agent, which is us now; a check of
    // the copy is none of its own until then.
    let asked = target.asked("", "");
    let said = target
        .front
        .agent_check_said("alive", "passing", &asked)
        .await;
    assert_eq!(said.err().map(|refusal| refusal.status.as_u16()), Some(404));
    let own = json!({ "Name": "Web", "ID": "web-1", "Address": "10.0.0.9", "Port": 8080 });
    target.register(&own).await;
    let items = items("critical");
    assert_eq!(target.statuses(items.clone()).await, [200, 409]);
    let items = vec![
        copying::renew("Web", "web-1", "n"),
        copying::deregister("Web", "web-1", "n"),
        items[1].clone(),
    ];
    let told = target.tell(false, items).await;
    assert!(
        told.iter()
            .all(|(status, said)| *status == 409 && said.contains("itself"))
    );
    let (_, rows) = target.health("web", "").await;
    let of_node = |node: &str| {
        let rows = rows.as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["Node"]["Node"] == node);
        rows.next().cloned().unwrap()
    };
    assert_eq!(of_node("n")["Service"]["Address"], "10.0.0.9");
    let checks = of_node("n")["Checks"].as_array().unwrap().len();
    assert_eq!(checks, 1, "the copy's check went with the copy");
    assert_eq!(of_node("a")["Checks"][1]["Status"], "critical");
}

#[tokio::test]
async fn a_client_of_another_node_takes_over_what_listens_at_its_address() {
    let target = world().await;
    let bodies = [web("a", "passing"), {
        let mut other = web("b", "passing");
        other["Address"] = json!("10.0.0.2");
        other
    }];
    let items = bodies.iter().map(copying::register).collect();
    assert_eq!(target.statuses(items).await, [200, 200]);
    let own = json!({ "Name": "web", "ID": "web-1", "Address": "10.0.0.1", "Port": 8080 });
    target.register(&own).await;
    let renewals = vec![
        copying::renew("web", "web-1", "a"),
        copying::renew("web", "web-1", "b"),
        copying::register(&bodies[0]),
    ];
    assert_eq!(target.statuses(renewals).await, [409, 200, 409]);
    let listed = target.listed("web").await;
    let nodes: Vec<&str> = listed.iter().map(|listed| &listed.node[..]).collect();
    assert_eq!(
        nodes,
        ["n", "b"],
        "the copy and its node went, since nothing else is there"
    );
    let asked = target.asked("", "");
    let (_, nodes) = read(target.front.catalog_nodes(&asked).await);
    assert_eq!(nodes.as_array().unwrap().len(), 2, "{nodes}");
    let gone = vec![
        copying::deregister("web", "web-1", "b"),
        copying::renew("web", "web-1", "b"),
    ];
    assert_eq!(target.statuses(gone).await, [200, 404]);
}

#[tokio::test]
async fn a_copy_that_nobody_renews_goes_and_what_cannot_be_copied_says_why() {
    let target = world().await;
    let mut proxy = web("a", "passing");
    proxy["Service"]["Kind"] = json!("connect-proxy");
    let mut nameless = web("a", "passing");
    nameless["Service"]["Service"] = json!("no host name");
    let items = [web("a", "passing"), proxy, nameless];
    let told = target
        .tell(false, items.iter().map(copying::register).collect())
        .await;
    let statuses: Vec<u16> = told.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 501, 400]);
    assert!(told[1].1.contains("Connect") && told[2].1.contains("Invalid service name"));
    let detail = target.front.registry.checks(None).await.unwrap().remove(0);
    assert_eq!(detail.lease, Some(copying::LEASE));
    assert!(!detail.patient);
}
