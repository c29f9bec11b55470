//! Envoy with one worker, and without the identifiers and headers of its own that the
//! others do not add either.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Running, Task};
use crate::process::{Process, free_address};
use crate::workload::route_prefix;

/// More of anything than a run can have: its defaults would refuse 2,000 connections.
const PLENTY: u32 = 100_000;

pub(super) fn start(folder: &Path, task: &Task<'_>) -> Result<Running> {
    let address = free_address()?;
    let settings = serde_json::to_string_pretty(&settings(address.port(), task))?;
    let file = folder.join("envoy.json");
    fs::write(&file, &settings)?;
    let mut command = vec![task.tools.envoy()?.display().to_string()];
    command.extend(["-c".to_owned(), file.display().to_string()]);
    command
        .extend(["--concurrency", "1", "--disable-hot-restart", "-l", "error"].map(str::to_owned));
    let mut process = Process::start("envoy", Some(task.core), folder, &command)?;
    process.wait_for_listener(address)?;
    Ok(Running {
        address,
        process,
        settings,
    })
}

fn settings(port: u16, task: &Task<'_>) -> Value {
    let types = "type.googleapis.com/envoy.extensions.filters";
    let connections = json!({
        "@type": format!("{types}.network.http_connection_manager.v3.HttpConnectionManager"),
        "codec_type": if task.workload.is_h2() { "HTTP2" } else { "HTTP1" },
        "stat_prefix": "clients",
        "use_remote_address": true,
        "generate_request_id": false,
        "route_config": { "name": "routes", "virtual_hosts": [virtual_host(task)] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": format!("{types}.http.router.v3.Router"),
                "suppress_envoy_headers": true,
            },
        }],
    });
    let listener = json!({
        "name": "clients",
        "address": address("127.0.0.1", port),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": connections,
        }] }],
    });
    let upstream = address(&task.upstream.ip().to_string(), task.upstream.port());
    let cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": upstream } }] }],
        },
        "circuit_breakers": { "thresholds": [{
            "max_connections": PLENTY,
            "max_pending_requests": PLENTY,
            "max_requests": PLENTY,
        }] },
    });
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

fn address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

/// One route as a list, many as a tree by prefix, for which the cost does not grow.
fn virtual_host(task: &Task<'_>) -> Value {
    let to_upstream = |prefix: &str| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster": "upstream" },
        })
    };
    let mut host = json!({ "name": "all", "domains": ["*"] });
    if task.workload.routes() == 1 {
        host["routes"] = json!([to_upstream("/")]);
        return host;
    }
    let mut map = Map::new();
    for route in 0..task.workload.routes() {
        let prefix = format!("{}/", route_prefix(route));
        let mut route = to_upstream(&prefix);
        route["@type"] = "type.googleapis.com/envoy.config.route.v3.Route".into();
        let action = json!({ "action": { "name": "route", "typed_config": route } });
        map.insert(prefix, action);
    }
    host["matcher"] = json!({ "matcher_tree": {
        "input": {
            "name": "path",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                "header_name": ":path",
            },
        },
        "prefix_match_map": { "map": map },
    } });
    host
}
