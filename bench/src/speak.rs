//! What a service says to a registry, in each of the protocols that Atoll speaks:
//! registering, renewing, leaving, and the list of all that are there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::contender::atoll::listening;
use crate::http::{self, Http};
use crate::process::{Process, free_address};

/// For an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How somebody speaks to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Eureka,
    Consul,
    Admin,
}

/// An instance that somebody speaks for.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) service: String,
    /// Unlike that of any other, whatever its service.
    pub(crate) id: String,
    pub(crate) at: SocketAddr,
    pub(crate) lease: Duration,
}

/// Consul deregisters no earlier than this after a service became critical.
pub(crate) const CONSUL_DEREGISTERS_AFTER: Duration = Duration::from_secs(60);

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Eureka, Self::Consul, Self::Admin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eureka => "eureka",
            Self::Consul => "consul",
            Self::Admin => "admin",
        }
    }

    /// The listener that speaks it, as `run.json` calls it.
    pub(crate) fn listener(self) -> &'static str {
        match self {
            Self::Eureka => "eureka",
            Self::Consul => "consul",
            Self::Admin => "console",
        }
    }

    pub(crate) fn register(self, who: &Who) -> Vec<u8> {
        let Who {
            service,
            id,
            at,
            lease,
        } = who;
        let (host, port) = (at.ip().to_string(), at.port());
        match self {
            Self::Eureka => {
                let app = service.to_uppercase();
                // What Spring's client says of a small service.
                let body = json!({ "instance": {
                    "instanceId": id, "hostName": host, "app": app, "ipAddr": host,
                    "status": "UP", "overriddenStatus": "UNKNOWN",
                    "port": { "$": port, "@enabled": "true" },
                    "securePort": { "$": 443, "@enabled": "false" }, "countryId": 1,
                    "dataCenterInfo": {
                        "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                        "name": "MyOwn",
                    },
                    "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": lease.as_secs() },
                    "metadata": { "management.port": port.to_string() },
                    "homePageUrl": format!("http://{host}:{port}/"),
                    "statusPageUrl": format!("http://{host}:{port}/actuator/info"),
                    "healthCheckUrl": format!("http://{host}:{port}/actuator/health"),
                    "vipAddress": service, "secureVipAddress": service,
                }});
                http::request(
                    "POST",
                    &format!("/eureka/apps/{app}"),
                    &[],
                    &body.to_string(),
                )
            }
            Self::Consul => {
                let body = json!({
                    "Name": service, "ID": id, "Address": host, "Port": port,
                    "Tags": ["primary", "v1"], "Meta": { "version": "1.0" },
                    "Check": {
                        "TTL": format!("{}ms", lease.as_millis()), "Status": "passing",
                        "DeregisterCriticalServiceAfter":
                            format!("{}s", CONSUL_DEREGISTERS_AFTER.as_secs()),
                    },
                });
                http::request("PUT", "/v1/agent/service/register", &[], &body.to_string())
            }
            Self::Admin => {
                let body =
                    json!({ "address": at.to_string(), "lease_ms": lease.as_millis() as u64 });
                let path = format!("/api/v1/services/{service}/instances/{id}");
                http::request("PUT", &path, &[], &body.to_string())
            }
        }
    }

    pub(crate) fn renew(self, who: &Who) -> Vec<u8> {
        let Who { service, id, .. } = who;
        let (method, path) = match self {
            Self::Eureka => (
                "PUT",
                format!("/eureka/apps/{}/{id}", service.to_uppercase()),
            ),
            Self::Consul => ("PUT", format!("/v1/agent/check/pass/service:{id}")),
            Self::Admin => (
                "POST",
                format!("/api/v1/services/{service}/instances/{id}/renew"),
            ),
        };
        http::request(method, &path, &[], "")
    }

    pub(crate) fn leave(self, who: &Who) -> Vec<u8> {
        let Who { service, id, .. } = who;
        let (method, path) = match self {
            Self::Eureka => (
                "DELETE",
                format!("/eureka/apps/{}/{id}", service.to_uppercase()),
            ),
            Self::Consul => ("PUT", format!("/v1/agent/service/deregister/{id}")),
            Self::Admin => (
                "DELETE",
                format!("/api/v1/services/{service}/instances/{id}"),
            ),
        };
        http::request(method, &path, &[], "")
    }

    /// The question for all that are there.
    pub(crate) fn list(self) -> Vec<u8> {
        let path = match self {
            Self::Eureka => "/eureka/apps",
            Self::Consul => "/v1/agent/services",
            Self::Admin => "/api/v1/services",
        };
        http::request("GET", path, &[("Accept", "application/json")], "")
    }

    /// The ids in the answer, each with whether it takes requests, where that is told.
    pub(crate) fn listed(self, body: &[u8]) -> Result<BTreeMap<String, Option<bool>>> {
        let value: Value = serde_json::from_slice(body).context("the list is no JSON")?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut all = BTreeMap::new();
        match self {
            Self::Eureka => {
                ensure!(value["applications"].is_object(), "no applications");
                for app in list(&value["applications"]["application"]) {
                    for one in list(&app["instance"]) {
                        all.insert(text(&one["instanceId"]), Some(one["status"] == "UP"));
                    }
                }
            }
            Self::Consul => {
                let map = value.as_object().context("no map of services")?;
                all.extend(map.values().map(|one| (text(&one["ID"]), None)));
            }
            Self::Admin => {
                ensure!(value["services"].is_array(), "no services");
                for service in list(&value["services"]) {
                    for one in list(&service["instances"]) {
                        let fit = one["health"] == "passing" || one["health"] == "warning";
                        all.insert(text(&one["id"]), Some(fit));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// An Atoll with all its listeners, which are where they were after each start.
pub(crate) struct Atoll {
    binary: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
    addresses: BTreeMap<&'static str, SocketAddr>,
}

/// The listeners that are used here.
const LISTENERS: [&str; 5] = ["gateway", "console", "eureka", "consul", "dns"];

impl Atoll {
    /// Starts one in a folder without anything left from before.
    pub(crate) fn up(binary: &Path, folder: &Path, settings: &str) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder)?;
        }
        std::fs::create_dir_all(folder)?;
        let mut addresses = BTreeMap::new();
        let mut listen = Vec::new();
        for listener in LISTENERS {
            let address = free_address()?;
            listen.push(format!("{listener}: \"{address}\""));
            addresses.insert(listener, address);
        }
        let yaml = format!("listen: {{ {} }}\n{settings}", listen.join(", "));
        std::fs::write(folder.join("atoll.yaml"), yaml)?;
        let mut atoll = Self {
            binary: binary.to_owned(),
            folder: folder.to_owned(),
            process: None,
            addresses,
        };
        atoll.start()?;
        Ok(atoll)
    }

    /// Starts it again where it was; gives how long it took until it was ready.
    pub(crate) fn start(&mut self) -> Result<Duration> {
        let command = [self.binary.display().to_string(), "up".to_owned()];
        let began = Instant::now();
        let mut process = Process::start("atoll", None, &self.folder, &command)?;
        let (pid, folder) = (process.pid(), &self.folder);
        let ready = http::request("GET", "/readyz", &[], "");
        process.wait_for(|| {
            let console = listening(folder, pid, "console")?;
            let answer = Http::new(console, PATIENCE).ask(&ready).ok()?;
            (answer.status == 200).then_some(())
        })?;
        self.process = Some(process);
        Ok(began.elapsed())
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("Atoll does not run")?.pid())
    }

    pub(crate) fn at(&self, listener: &str) -> Result<SocketAddr> {
        let at = self.addresses.get(listener);
        at.copied()
            .with_context(|| format!("no listener {listener}"))
    }

    pub(crate) fn speaks(&self, protocol: Protocol) -> Result<SocketAddr> {
        self.at(protocol.listener())
    }

    /// Bytes of what it keeps on disk.
    pub(crate) fn kept_bytes(&self) -> u64 {
        bytes_in(&self.folder.join(".atoll"))
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() {
            bytes_in(&entry.path())
        } else {
            meta.len()
        })
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_all_protocols_are_read_alike() {
        let eureka = br#"{"applications":{"application":[{"instance":[{"instanceId":"a","status":"UP"},{"instanceId":"b","status":"DOWN"}]}]}}"#;
        let both = |fit: [Option<bool>; 2]| {
            BTreeMap::from([("a".to_owned(), fit[0]), ("b".to_owned(), fit[1])])
        };
        let told = both([Some(true), Some(false)]);
        assert_eq!(Protocol::Eureka.listed(eureka).unwrap(), told);
        let consul = br#"{"a":{"ID":"a"},"x:b":{"ID":"b"}}"#;
        assert_eq!(Protocol::Consul.listed(consul).unwrap(), both([None, None]));
        let admin = br#"{"services":[{"instances":[{"id":"a","health":"passing"}]},{"instances":[{"id":"b","health":"critical"}]}]}"#;
        assert_eq!(Protocol::Admin.listed(admin).unwrap(), told);
        for protocol in Protocol::ALL {
            protocol.listed(b"[]").unwrap_err();
        }
    }
}
