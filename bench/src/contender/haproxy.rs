//! HAProxy on one thread, with connections to the upstream shared by all clients.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Running, Task};
use crate::process::{Process, free_address};
use crate::workload::route_prefix;

pub(super) fn start(folder: &Path, task: &Task<'_>) -> Result<Running> {
    let address = free_address()?;
    let settings = settings(&address.to_string(), task);
    let file = folder.join("haproxy.cfg");
    fs::write(&file, &settings)?;
    fs::write(folder.join("routes.map"), routes(task))?;
    let command = [
        task.tools.haproxy()?.display().to_string(),
        "-db".to_owned(),
        "-f".to_owned(),
        file.display().to_string(),
    ];
    let mut process = Process::start("haproxy", Some(task.core), folder, &command)?;
    process.wait_for_listener(address)?;
    Ok(Running {
        address,
        process,
        settings,
    })
}

fn settings(listen: &str, task: &Task<'_>) -> String {
    let upstream = task.upstream;
    let h2 = if task.workload.is_h2() {
        " proto h2"
    } else {
        ""
    };
    // A map by prefix is a tree: its cost does not grow with the routes.
    let route = if task.workload.routes() > 1 {
        "use_backend %[path,map_beg(routes.map)]"
    } else {
        "default_backend upstream"
    };
    format!(
        "global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 1s
  timeout client 75s
  timeout server 30s
  timeout http-keep-alive 75s
  http-reuse always
  option forwardfor
frontend clients
  bind {listen}{h2} backlog 4096
  http-request set-header X-Forwarded-Proto http
  {route}
backend upstream
  server one {upstream}
"
    )
}

fn routes(task: &Task<'_>) -> String {
    (0..task.workload.routes())
        .map(|route| format!("{}/ upstream\n", route_prefix(route)))
        .collect()
}
