//! One request to each endpoint, for tests of who is told what.

use serde_json::{Value, json};

use crate::endpoint::Endpoint;

/// A method, a path and a body.
type Step = (&'static str, &'static str, Value);

/// One request to each endpoint, to what is there in a seeded world and to what is not.
pub(super) fn walk(session: &str, query: &str) -> Vec<(&'static str, String, Value)> {
    let all = [
        of_the_agent(),
        of_the_catalogue(),
        of_keys(),
        of_acls(),
        of_the_rest(),
    ];
    let all = all.concat();
    let filled = all.into_iter().map(|(method, path, body)| {
        let path = path.replace("{session}", session).replace("{query}", query);
        (method, format!("/v1/{path}"), body)
    });
    filled.collect()
}

fn get(path: &'static str) -> Step {
    ("GET", path, Value::Null)
}

fn put(path: &'static str, body: Value) -> Step {
    ("PUT", path, body)
}

fn of_the_agent() -> Vec<Step> {
    let taken = json!({ "Name": "hidden-svc", "ID": "hidden-id", "Port": 9 });
    let of_service = json!({ "Name": "hidden-check", "ServiceID": "hidden-id", "TTL": "1m" });
    let of_node = json!({ "Name": "hidden-check", "TTL": "1m" });
    let critical = json!({ "Status": "critical" });
    vec![
        get("agent/self"),
        get("agent/members"),
        get("agent/services"),
        get("agent/service/hidden-id"),
        get("agent/health/service/id/hidden-id"),
        get("agent/health/service/name/hidden-svc"),
        put("agent/service/register", taken),
        put("agent/service/deregister/hidden-id", Value::Null),
        put(
            "agent/service/maintenance/hidden-id?enable=true",
            Value::Null,
        ),
        get("agent/checks"),
        put("agent/check/register", of_service),
        put("agent/check/register", of_node),
        put("agent/check/deregister/hidden-check", Value::Null),
        put("agent/check/pass/hidden-check", Value::Null),
        put("agent/check/warn/hidden-check", Value::Null),
        put("agent/check/fail/hidden-check", Value::Null),
        put("agent/check/update/hidden-check", critical.clone()),
        put("agent/check/deregister/hidden-own", Value::Null),
        put("agent/check/pass/hidden-own", Value::Null),
        put("agent/check/update/hidden-own", critical),
        get("status/leader"),
        get("status/peers"),
        get("snapshot"),
        put("agent/maintenance?enable=true", Value::Null),
    ]
}

fn of_the_catalogue() -> Vec<Step> {
    let node =
        json!({ "Node": "hidden-node", "Address": "10.9.9.9", "NodeMeta": { "hidden": "meta" } });
    let mut with_service = node.clone();
    with_service["Service"] = json!({ "Service": "hidden-far", "ID": "hidden-far", "Port": 3 });
    let mut with_check = node.clone();
    with_check["Check"] =
        json!({ "ServiceID": "hidden-far", "CheckID": "c", "Status": "critical" });
    let gone = |what: &str, id: &str, node: &str| json!({ "Node": node, what: id });
    vec![
        put("atoll/copies", json!({ "CopiedFrom": "x", "Entries": [] })),
        get("catalog/datacenters"),
        get("catalog/nodes"),
        get("catalog/nodes?filter=Meta.hidden==meta"),
        get("catalog/services"),
        get("catalog/service/hidden-svc"),
        get("catalog/node/hidden-node"),
        get("catalog/node-services/hidden-node"),
        put("catalog/register", node),
        put("catalog/register", with_service),
        put("catalog/register", with_check),
        put("catalog/deregister", json!({ "Node": "hidden-node" })),
        put(
            "catalog/deregister",
            gone("ServiceID", "hidden-far", "hidden-node"),
        ),
        put("catalog/deregister", gone("CheckID", "hidden-check", "n")),
        put("catalog/deregister", gone("CheckID", "hidden-own", "n")),
        put(
            "catalog/deregister",
            gone("CheckID", "hidden-far-check", "hidden-node"),
        ),
        get("health/service/hidden-svc"),
        get("health/service/hidden-svc?passing&pretty"),
        get("health/checks/hidden-svc"),
        get("health/node/hidden-node"),
        get("health/state/any"),
    ]
}

fn of_keys() -> Vec<Step> {
    let txn = |verb: &str, key: &str| {
        let op = json!({ "KV": { "Verb": verb, "Key": key, "Value": "YQ==" } });
        put("txn", json!([op]))
    };
    let node =
        |verb: &str, node: Value| put("txn", json!([{ "Node": { "Verb": verb, "Node": node } }]));
    let service = |verb: &str, id: &str| {
        let service = json!({ "ID": id, "Service": "hidden-svc", "Port": 9 });
        let op = json!({ "Verb": verb, "Node": "n", "Service": service });
        put("txn", json!([{ "Service": op }]))
    };
    let check = |verb: &str, id: &str| {
        let check = json!({ "Node": "n", "CheckID": id, "ServiceID": "hidden-id" });
        put(
            "txn",
            json!([{ "Check": { "Verb": verb, "Check": check } }]),
        )
    };
    vec![
        get("kv/hidden/key"),
        get("kv/hidden/key?raw"),
        get("kv/hidden?recurse"),
        get("kv/hidden?recurse&raw"),
        get("kv/hidden?keys"),
        get("kv/?keys&separator=/"),
        put("kv/hidden/key", json!("other")),
        put("kv/hidden/key?cas=0", json!("other")),
        ("DELETE", "kv/hidden/key", Value::Null),
        ("DELETE", "kv/?recurse", Value::Null),
        txn("get", "hidden/key"),
        txn("get-or-empty", "hidden/key"),
        txn("get-tree", ""),
        txn("check-not-exists", "hidden/key"),
        txn("check-index", "hidden/key"),
        txn("check-session", "hidden/key"),
        txn("delete-tree", ""),
        txn("delete-cas", "hidden/key"),
        txn("set", "hidden/key"),
        node("get", json!({ "Node": "hidden-node" })),
        node("get", json!({ "ID": "hidden-uuid", "Node": "other" })),
        node("delete", json!({ "Node": "hidden-node" })),
        node(
            "delete-cas",
            json!({ "Node": "hidden-node", "ModifyIndex": 3 }),
        ),
        node(
            "set",
            json!({ "Node": "hidden-node", "Address": "10.9.9.9" }),
        ),
        service("get", "hidden-id"),
        service("set", "hidden-id"),
        service("delete", "hidden-id"),
        service("delete-cas", "hidden-id"),
        check("get", "hidden-check"),
        check("set", "hidden-check"),
        check("delete", "hidden-check"),
        check("delete", "hidden-own"),
        put("session/create", Value::Null),
        put("session/create", json!({ "Node": "hidden-node" })),
        put("session/destroy/{session}", Value::Null),
        put("session/renew/{session}", Value::Null),
        get("session/info/{session}"),
        get("session/node/n"),
        get("session/list"),
    ]
}

fn of_the_rest() -> Vec<Step> {
    let entry = json!({ "Kind": "service-defaults", "Name": "hidden-svc", "Protocol": "http" });
    let coordinate = json!({ "Node": "hidden-node", "Coord": { "Vec": [0, 0, 0, 0, 0, 0, 0, 0] } });
    let query = json!({ "Name": "hidden-query", "Service": { "Service": "hidden-svc" } });
    vec![
        get("query"),
        ("POST", "query", query.clone()),
        get("query/{query}"),
        put("query/{query}", query),
        ("DELETE", "query/{query}", Value::Null),
        get("query/{query}/execute"),
        get("query/{query}/explain"),
        get("query/hidden-query/execute"),
        get("query/hidden-query/explain"),
        put("event/fire/hidden-event", Value::Null),
        get("event/list"),
        get("coordinate/datacenters"),
        get("coordinate/nodes"),
        get("coordinate/node/hidden-node"),
        put("coordinate/update", coordinate),
        get("operator/raft/configuration"),
        put("operator/raft/transfer-leader", Value::Null),
        get("operator/autopilot/configuration"),
        get("operator/autopilot/health"),
        get("operator/autopilot/state"),
        get("operator/keyring"),
        get("operator/usage"),
        get("agent/version"),
        get("agent/host"),
        get("agent/metrics"),
        put("agent/reload", Value::Null),
        put("agent/force-leave/hidden-node", Value::Null),
        get("internal/ui/nodes"),
        get("internal/ui/node/hidden-node"),
        get("internal/ui/services"),
        get("internal/ui/catalog-overview"),
        put("config", entry),
        get("config/service-defaults"),
        get("config/service-defaults/hidden-svc"),
        ("DELETE", "config/service-defaults/hidden-svc", Value::Null),
        get("catalog/connect/hidden-svc"),
        get("catalog/services?filter=ServiceName==hidden-svc"),
    ]
}

fn of_acls() -> Vec<Step> {
    let all = json!({ "Policies": [{ "Name": "global-management" }] });
    let rules = json!({ "Name": "x", "Rules": "acl = \"write\"" });
    let anonymous = "acl/token/00000000-0000-0000-0000-000000000002";
    let management = "acl/policy/00000000-0000-0000-0000-000000000001";
    vec![
        put("acl/bootstrap", Value::Null),
        get("acl/replication"),
        get("acl/tokens"),
        get(anonymous),
        get("acl/token/self"),
        put("acl/token", all.clone()),
        put(anonymous, all),
        ("DELETE", anonymous, Value::Null),
        put(
            "acl/token/00000000-0000-0000-0000-000000000003/clone",
            Value::Null,
        ),
        get("acl/policies"),
        put("acl/policy", rules),
        get("acl/policy/name/global-management"),
        get(management),
        ("DELETE", management, Value::Null),
        get("acl/roles"),
        put("acl/role", json!({ "Name": "x" })),
        get("acl/role/name/x"),
        get("acl/role/x"),
        put("acl/login", Value::Null),
    ]
}

/// Numbers the endpoints: one that is added must be walked.
pub(super) fn number(endpoint: &Endpoint) -> usize {
    use Endpoint as E;
    match endpoint {
        E::AgentSelf => 0,
        E::AgentMembers => 1,
        E::AgentServices => 2,
        E::AgentService(_) => 3,
        E::AgentHealthById(_) => 4,
        E::AgentHealthByName(_) => 5,
        E::AgentServiceRegister => 6,
        E::AgentServiceDeregister(_) => 7,
        E::AgentServiceMaintenance(_) => 8,
        E::AgentChecks => 9,
        E::AgentCheckRegister => 10,
        E::AgentCheckDeregister(_) => 11,
        E::AgentCheckPass(_) => 12,
        E::AgentCheckWarn(_) => 13,
        E::AgentCheckFail(_) => 14,
        E::AgentCheckUpdate(_) => 15,
        E::CatalogDatacenters => 16,
        E::CatalogNodes => 17,
        E::CatalogServices => 18,
        E::CatalogService(_) => 19,
        E::CatalogNode(_) => 20,
        E::CatalogNodeServices(_) => 21,
        E::CatalogRegister => 22,
        E::CatalogDeregister => 23,
        E::HealthService(_) => 24,
        E::HealthChecks(_) => 25,
        E::HealthNode(_) => 26,
        E::HealthState(_) => 27,
        E::StatusLeader => 28,
        E::StatusPeers => 29,
        E::Kv(_) => 30,
        E::Txn => 31,
        E::SessionCreate => 32,
        E::SessionDestroy(_) => 33,
        E::SessionRenew(_) => 34,
        E::SessionInfo(_) => 35,
        E::SessionNode(_) => 36,
        E::SessionList => 37,
        E::Acl(_) => 38,
        E::Unsupported(_) => 39,
        E::Query(_) => 40,
        E::Event(_) => 41,
        E::Coordinate(_) => 42,
        E::Operator(_) => 43,
        E::Machine(_) => 44,
        E::Ui(_) => 45,
        E::Config(_) => 46,
        E::Mesh(_) => 47,
        E::AgentMaintenance => 48,
        E::Copies => 49,
    }
}

pub(super) const NUMBERS: usize = 50;
