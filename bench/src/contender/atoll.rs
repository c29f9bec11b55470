//! Atoll as a user starts it: `atoll up` in a folder with an `atoll.yaml`, with nothing
//! switched off.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{Running, Task};
use crate::process::Process;
use crate::workload::route_prefix;

pub(super) fn start(folder: &Path, task: &Task<'_>) -> Result<Running> {
    let settings = settings(task);
    fs::write(folder.join("atoll.yaml"), &settings)?;
    let command = [
        task.tools.atoll.display().to_string(),
        "up".to_owned(),
        ".".to_owned(),
    ];
    let mut process = Process::start("atoll", Some(task.core), folder, &command)?;
    let pid = process.pid();
    let address = process.wait_for(|| listening(folder, pid, "gateway"))?;
    process.wait_for_listener(address)?;
    Ok(Running {
        address,
        process,
        settings,
    })
}

/// Where the Atoll that works in this folder says that this listener is.
pub(crate) fn listening(folder: &Path, pid: u32, listener: &str) -> Option<SocketAddr> {
    let text = fs::read(folder.join(".atoll/run.json")).ok()?;
    let run: Value = serde_json::from_slice(&text).ok()?;
    (run["pid"].as_u64() == Some(u64::from(pid))).then_some(())?;
    run[listener].as_str()?.parse().ok()
}

fn settings(task: &Task<'_>) -> String {
    let mut yaml = format!(
        "name: bench\nlisten: {{ gateway: \"127.0.0.1:0\", console: \"127.0.0.1:0\", dns: off, eureka: off, consul: off }}\n\
         services:\n  upstream:\n    endpoints: [\"{}\"]\nroutes:\n",
        task.upstream
    );
    if task.workload.routes() == 1 {
        yaml.push_str("  /{path*}: upstream\n");
        return yaml;
    }
    for route in 0..task.workload.routes() {
        let prefix = route_prefix(route);
        yaml.push_str(&format!("  {prefix}/{{path*}}: upstream\n"));
    }
    yaml
}
