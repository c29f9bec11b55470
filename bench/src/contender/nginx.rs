//! nginx, as its manual says for many kept connections.
//!
//! Its buffers are larger than its defaults, so that an answer of 16 KiB is read in
//! one piece: measured a quarter cheaper there, and no dearer with small answers.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Running, Task};
use crate::process::{Process, free_address};
use crate::workload::route_prefix;

pub(super) fn start(name: &str, folder: &Path, task: &Task<'_>) -> Result<Running> {
    let address = free_address()?;
    let settings = settings(&address.to_string(), folder, task);
    let file = folder.join("nginx.conf");
    fs::write(&file, &settings)?;
    let command = [
        task.tools.nginx()?.display().to_string(),
        "-p".to_owned(),
        folder.display().to_string(),
        "-c".to_owned(),
        file.display().to_string(),
    ];
    let mut process = Process::start(name, Some(task.core), folder, &command)?;
    process.wait_for_listener(address)?;
    Ok(Running {
        address,
        process,
        settings,
    })
}

/// Paths stand relative to the folder, which is the prefix.
fn settings(listen: &str, folder: &Path, task: &Task<'_>) -> String {
    let upstream = task.upstream;
    // Since 1.25.1 a directive of its own; before, a word that leaves no HTTP/1.
    let (listen_h2, http2) = match (task.workload.is_h2(), task.tools.nginx_has_http2_directive) {
        (false, _) => ("", ""),
        (true, false) => (" http2", ""),
        (true, true) => ("", "\n    http2 on;"),
    };
    let keepalive = task.connections.max(128);
    let locations: String = if task.workload.routes() == 1 {
        "    location / { proxy_pass http://upstream; }\n".to_owned()
    } else {
        (0..task.workload.routes())
            .map(route_prefix)
            .map(|route| format!("    location {route}/ {{ proxy_pass http://upstream; }}\n"))
            .collect()
    };
    let temporary = folder.display();
    format!(
        r#"daemon off;
worker_processes 1;
error_log stderr error;
pid nginx.pid;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_buffer_size 128k;
  client_body_temp_path {temporary}/body;
  proxy_temp_path {temporary}/proxy;
  fastcgi_temp_path {temporary}/fastcgi;
  uwsgi_temp_path {temporary}/uwsgi;
  scgi_temp_path {temporary}/scgi;
  upstream upstream {{
    server {upstream};
    keepalive {keepalive};
    keepalive_requests 1000000000;
  }}
  server {{
    listen {listen}{listen_h2} backlog=4096;{http2}
    proxy_http_version 1.1;
    proxy_buffering on;
    proxy_buffer_size 32k;
    proxy_buffers 8 32k;
    proxy_busy_buffers_size 64k;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
{locations}  }}
}}
"#
    )
}
