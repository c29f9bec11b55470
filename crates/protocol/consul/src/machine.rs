//! What of `/v1/agent` is about the agent itself: its version, its machine, its figures,
//! and what it is told to do with itself, which is refused: one Atoll is no cluster, and
//! its life is its owner's.

use atoll_runtime::Clock;
use http::Method;
use serde_json::{Value, json};

use crate::agent::VERSION;
use crate::server::{Answer, Asked, Front};
use crate::wire::{Refusal, Reply};

/// Longest file of `/proc` that is read.
const PROC_BYTES_MAX: u64 = 256 * 1024;

/// What there is below `agent` beside services and checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Version,
    Host,
    Metrics,
    MetricsStream,
    Reload,
    Leave,
    Join,
    ForceLeave,
    Monitor,
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        match parts {
            ["version"] => Some(Self::Version),
            ["host"] => Some(Self::Host),
            ["metrics"] => Some(Self::Metrics),
            ["metrics", "stream"] => Some(Self::MetricsStream),
            ["reload"] => Some(Self::Reload),
            ["leave"] => Some(Self::Leave),
            ["join", _] => Some(Self::Join),
            ["force-leave", _] => Some(Self::ForceLeave),
            ["monitor"] => Some(Self::Monitor),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Version | Self::Host | Self::Metrics | Self::MetricsStream | Self::Monitor => {
                &[Method::GET]
            }
            Self::Reload | Self::Leave | Self::Join | Self::ForceLeave => &[Method::PUT],
        }
    }
}

impl Front {
    pub(crate) async fn machine(
        &self,
        endpoint: Endpoint,
        asked: &Asked,
    ) -> Result<Answer, Refusal> {
        let refused = |what, why| Err(Refusal::because(what, why));
        match endpoint {
            Endpoint::Version => Ok(Reply::json(json!({
                "SHA": "",
                // Go's zero time, which clients parse.
                "BuildDate": "0001-01-01T00:00:00Z",
                "HumanVersion": VERSION,
                "FIPS": "",
            }))
            .into()),
            Endpoint::Host => Ok(Reply::json(host(&self.clock).await).into()),
            Endpoint::Metrics => self.metrics(asked).await,
            Endpoint::MetricsStream => refused(
                "/v1/agent/metrics/stream",
                "poll /v1/agent/metrics, whose figures count from the start",
            ),
            Endpoint::Reload => refused(
                "/v1/agent/reload",
                "Atoll reloads its file by itself when it changes",
            ),
            Endpoint::Leave => refused(
                "/v1/agent/leave",
                "end Atoll by SIGINT or SIGTERM, upon which it drains",
            ),
            Endpoint::Join => refused(
                "/v1/agent/join",
                "there is no gossip; Atolls that share a store are one registry",
            ),
            Endpoint::ForceLeave => refused(
                "/v1/agent/force-leave",
                "there is no other member; remove a foreign node with catalog/deregister",
            ),
            Endpoint::Monitor => refused(
                "/v1/agent/monitor",
                "Atoll's log goes to its standard error",
            ),
        }
    }
}

/// What Linux tells of the machine. What cannot be read is left out and said.
async fn host(clock: &Clock) -> Value {
    let mut errors = vec!["Disk: not read".to_owned()];
    let mut read = async |path: &str| -> String {
        match proc_file(path).await {
            Ok(text) => text,
            Err(error) => {
                errors.push(format!("{path}: {error}"));
                String::new()
            }
        }
    };
    let memory = memory(&read("/proc/meminfo").await);
    let cpus = cpus(&read("/proc/cpuinfo").await);
    let name = read("/proc/sys/kernel/hostname").await;
    let kernel = read("/proc/sys/kernel/osrelease").await;
    let uptime = read("/proc/uptime").await;
    let uptime = uptime.split('.').next().unwrap_or_default();
    let uptime: u64 = uptime.trim().parse().unwrap_or(0);
    let now_s = clock.wall_unix_ms() / 1000;
    json!({
        "Memory": memory,
        "CPU": cpus,
        "Host": {
            "hostname": name.trim(),
            "uptime": uptime,
            "bootTime": now_s.saturating_sub(uptime),
            "os": std::env::consts::OS,
            "kernelVersion": kernel.trim(),
            "kernelArch": std::env::consts::ARCH,
        },
        "Disk": null,
        "CollectionTime": clock.wall_unix_ms().saturating_mul(1_000_000),
        "Errors": errors,
    })
}

async fn proc_file(path: &str) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(PROC_BYTES_MAX).read_to_string(&mut text).await?;
    Ok(text)
}

/// `/proc/meminfo` in bytes.
fn memory(text: &str) -> Value {
    let bytes = |key: &str| -> u64 {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| *name == key);
        let number = found.and_then(|(_, rest)| rest.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let (total, available) = (bytes("MemTotal"), bytes("MemAvailable"));
    let used = total.saturating_sub(available);
    json!({
        "total": total,
        "available": available,
        "used": used,
        "usedPercent": used as f64 * 100.0 / total.max(1) as f64,
        "free": bytes("MemFree"),
        "buffers": bytes("Buffers"),
        "cached": bytes("Cached"),
    })
}

/// `/proc/cpuinfo`, one for each processor.
fn cpus(text: &str) -> Vec<Value> {
    let blocks = text.split("\n\n").filter(|block| !block.trim().is_empty());
    let shown = blocks.enumerate().map(|(number, block)| {
        let field = |key: &str| {
            let mut lines = block.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(name, _)| name.trim() == key);
            found.map_or("", |(_, value)| value.trim())
        };
        json!({
            "cpu": number,
            "vendorId": field("vendor_id"),
            "modelName": field("model name"),
            "cores": 1,
            "mhz": field("cpu MHz").parse::<f64>().unwrap_or(0.0),
        })
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_read_as_it_writes() {
        let told = memory("MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  250 kB\n");
        assert_eq!(told["total"], 1_024_000);
        assert_eq!(told["usedPercent"], 75.0);
        assert_eq!(memory("")["total"], 0);
        let told =
            cpus("processor\t: 0\nmodel name\t: A b\ncpu MHz\t\t: 2.5\n\nprocessor\t: 1\n\n");
        assert_eq!(told.len(), 2);
        assert_eq!(
            (&told[0]["modelName"], &told[0]["mhz"]),
            (&json!("A b"), &json!(2.5))
        );
    }

    #[tokio::test]
    async fn a_machine_is_described_without_anything_missing() {
        let told = host(&Clock::system()).await;
        assert!(told["Memory"]["total"].as_u64().unwrap() > 0, "{told}");
        assert_ne!(told["Host"]["hostname"], "");
        assert_eq!(told["Errors"], json!(["Disk: not read"]));
    }
}
