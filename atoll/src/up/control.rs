//! The admin API's questions, answered by the running parts.

use std::sync::Arc;
use std::time::Duration;

use atoll_console::{Control, Followed, Pending, wire};
use atoll_fleet::LogLine;
use atoll_gateway::explain::explain;
use atoll_gateway::view::PlainRequest;
use atoll_model::{Catalog, Check, Fault, FaultKind, Health, InstanceId, Probe, ServiceName};
use atoll_registry::{Registration, Source};
use http::{HeaderName, HeaderValue, Method, Uri};
use tokio::sync::{mpsc, oneshot, watch};

use super::live::Live;
use super::{metrics, routes, services};
use crate::config::{self, Loaded};

/// Lines that a follower of a log may lag behind before it slows down; what it
/// then misses is said in its place.
const FOLLOWED_LINES_MAX: usize = 256;

/// The admin API's view of a running Atoll.
pub(crate) struct OverLive {
    pub(crate) live: Arc<Live>,
    pub(crate) tasks: atoll_runtime::Tasks,
}

impl Control for OverLive {
    fn status(&self) -> wire::Status {
        status(&self.live)
    }

    fn not_ready(&self) -> Option<String> {
        self.live.not_ready()
    }

    fn metrics(&self) -> String {
        metrics::render(&self.live)
    }

    fn services(&self) -> wire::Services {
        services::all(&self.live)
    }

    fn service(&self, name: &ServiceName) -> Option<wire::Service> {
        services::one(&self.live, name)
    }

    fn catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.live.registry.catalog()
    }

    fn register(
        &self,
        service: ServiceName,
        id: InstanceId,
        instance: wire::Register,
    ) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async move {
            let registration = registration(service, id, instance)?;
            Ok(self.live.registry.register(registration).await?.0)
        })
    }

    fn renew(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        Box::pin(async move { Ok(self.live.registry.renew(service, id).await?) })
    }

    fn drain(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<u64, Fault>> {
        Box::pin(async move { Ok(self.live.registry.set_draining(service, id, true).await?.0) })
    }

    fn deregister(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<u64, Fault>> {
        let registry = &self.live.registry;
        Box::pin(async move { Ok(registry.deregister(service, id, Source::Client).await?.0) })
    }

    fn routes(&self) -> wire::Routes {
        let loaded = self.live.loaded();
        wire::Routes {
            routes: loaded.gateway.routes.iter().map(routes::route).collect(),
        }
    }

    fn explain(&self, request: &wire::ExplainRequest) -> Result<wire::Explanation, Fault> {
        let Some(gateway) = &self.live.gateway else {
            return Err(Fault::new(
                FaultKind::Unavailable,
                "the gateway is switched off (`listen.gateway: off`)",
            ));
        };
        let request = plain(request)?;
        let snapshot = gateway.snapshot();
        Ok(routes::explanation(
            &snapshot,
            explain(&snapshot, &request),
            &request,
        ))
    }

    fn logs(
        &self,
        service: &ServiceName,
        replica: Option<&str>,
        tail: usize,
        follow: bool,
    ) -> Result<Followed, Fault> {
        let fleet = &self.live.fleet;
        let replica = match replica {
            Some(id) => Some(id.parse::<InstanceId>().map_err(invalid)?),
            None => None,
        };
        // Followed first, so that no line falls between the two.
        let Some(follower) = fleet.follow(service) else {
            return Err(self.no_logs(service));
        };
        let kept = fleet.logs(service, replica.as_ref(), tail);
        let next = follow.then(|| {
            let (lines, next) = mpsc::channel(FOLLOWED_LINES_MAX);
            drop(self.tasks.once(
                "follow",
                pass_on(follower, replica, service.clone(), lines, kept.clone()),
            ));
            next
        });
        Ok(Followed {
            kept: kept.iter().map(line).collect(),
            next,
        })
    }

    fn reload(&self) -> Pending<'_, Result<wire::Reloaded, Fault>> {
        Box::pin(async move {
            let gone = || Fault::new(FaultKind::Unavailable, "Atoll is stopping");
            let (done, told) = oneshot::channel();
            self.live.reload.send(done).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())?
        })
    }

    fn config(&self) -> serde_json::Value {
        self.live.loaded().expanded()
    }
}

impl OverLive {
    fn no_logs(&self, service: &ServiceName) -> Fault {
        if self.live.fleet_status().services.contains_key(service) {
            return Fault::new(
                FaultKind::NotFound,
                format!("service `{service}` has printed nothing yet"),
            );
        }
        match services::one(&self.live, service) {
            Some(_) => Fault::new(
                FaultKind::NotFound,
                format!("service `{service}` is not run by Atoll, so its output is elsewhere"),
            ),
            None => Fault::new(
                FaultKind::NotFound,
                format!("no service is named `{service}`"),
            ),
        }
    }
}

fn status(live: &Live) -> wire::Status {
    let configured = live.configured();
    let (loaded, generation, last_reload) = (
        Arc::clone(&configured.loaded),
        configured.generation,
        configured.last_reload.clone(),
    );
    drop(configured);
    let reason = live.not_ready();
    let services = services::all(live).services;
    let uptime = live.clock.now().saturating_duration_since(live.started);
    wire::Status {
        name: loaded.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: millis(uptime),
        file: loaded.file.display().to_string(),
        ready: reason.is_none(),
        reason,
        generation,
        last_reload,
        listeners: live.listeners.clone(),
        catalog_revision: live.registry.current().revision.0,
        routed_revision: live
            .gateway
            .as_ref()
            .map_or(0, |gateway| gateway.snapshot().catalog_revision.0),
        store: store(live, &loaded),
        services: services.iter().map(services::summary).collect(),
    }
}

fn store(live: &Live, loaded: &Loaded) -> wire::Store {
    let away = live.store_away();
    wire::Store {
        kind: match &loaded.store {
            config::Store::Embedded => "embedded".to_owned(),
            config::Store::Etcd(_) => "etcd".to_owned(),
        },
        addresses: match &loaded.store {
            config::Store::Embedded => Vec::new(),
            config::Store::Etcd(options) => {
                options.endpoints.iter().map(ToString::to_string).collect()
            }
        },
        away_ms: away.as_ref().map(|(away, _)| millis(*away)),
        reason: away.map(|(_, why)| why),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn invalid(error: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Invalid, error.to_string())
}

fn registration(
    service: ServiceName,
    id: InstanceId,
    given: wire::Register,
) -> Result<Registration, Fault> {
    let address = given.address.parse().map_err(invalid)?;
    let health = match given.health.as_deref() {
        None => Health::Passing,
        Some(word) => Health::from_word(word).ok_or_else(|| {
            let known = Health::ALL.map(Health::as_str).join(", ");
            invalid(format!("health `{word}` is none of {known}"))
        })?,
    };
    let checks = given.checks.iter().map(check).collect::<Result<_, _>>()?;
    Ok(Registration {
        weight: given.weight,
        tags: given.tags,
        metadata: given.metadata,
        lease: given.lease_ms.map(Duration::from_millis),
        checks,
        health,
        ..Registration::new(service, id, address, Source::Client)
    })
}

fn check(given: &wire::Check) -> Result<Check, Fault> {
    let probe = match (&given.http, given.tcp) {
        (Some(path), false) => Probe::Http { path: path.clone() },
        (None, true) => Probe::Tcp,
        _ => return Err(invalid("a check has either `http` or `tcp: true`")),
    };
    let mut check = Check::new(probe);
    if let Some(interval) = given.interval_ms {
        check.interval = Duration::from_millis(interval);
        check.start_interval = check.start_interval.min(check.interval);
    }
    if let Some(timeout) = given.timeout_ms {
        check.timeout = Duration::from_millis(timeout);
    }
    if let Some(failures) = given.failures_before_critical {
        if failures == 0 {
            return Err(invalid("failures_before_critical must be 1 or more"));
        }
        check.failures_before_critical = failures;
    }
    Ok(check)
}

/// The request to explain: a URL, or a path with the host in the headers.
fn plain(given: &wire::ExplainRequest) -> Result<PlainRequest, Fault> {
    let method = Method::from_bytes(given.method.as_bytes())
        .map_err(|_| invalid(format!("`{}` is not a method", given.method)))?;
    let uri: Uri = given
        .url
        .parse()
        .map_err(|error| invalid(format!("`{}` is not a URL: {error}", given.url)))?;
    let target = uri.path_and_query().map_or("/", |both| both.as_str());
    let mut request = PlainRequest::new(method, uri.host().unwrap_or_default(), target);
    for (name, value) in &given.headers {
        let parsed_name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid(format!("`{name}` is not a header's name")))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| invalid(format!("header `{name}` has a value that cannot be sent")))?;
        request.headers.append(parsed_name, value);
    }
    if request.host.is_empty()
        && let Some(host) = request.headers.get(http::header::HOST)
    {
        let host = host.to_str().unwrap_or_default();
        let authority: http::uri::Authority = host
            .parse()
            .map_err(|_| invalid(format!("`{host}` is not a host")))?;
        request.host = authority.host().to_owned();
    }
    Ok(request)
}

fn line(line: &LogLine) -> wire::LogLine {
    let at = line.at.duration_since(std::time::UNIX_EPOCH);
    wire::LogLine {
        replica: line.source.to_string(),
        stream: line.stream.as_str().to_owned(),
        at_unix_ms: millis(at.unwrap_or_default()),
        text: line.text.to_string(),
    }
}

/// Passes on what comes after `kept`, until nobody reads or the service is gone.
async fn pass_on(
    mut follower: atoll_fleet::Follower,
    replica: Option<InstanceId>,
    service: ServiceName,
    lines: mpsc::Sender<wire::LogLine>,
    mut kept: Vec<LogLine>,
) {
    loop {
        let next = tokio::select! {
            next = follower.next() => next,
            () = lines.closed() => return,
        };
        let said = match next {
            None => return,
            Some(atoll_fleet::Followed::Line(next)) => {
                if replica
                    .as_ref()
                    .is_some_and(|wanted| *wanted != next.source)
                {
                    continue;
                }
                // Written between the two looks: shown already.
                if let Some(at) = kept.iter().position(|shown| *shown == next) {
                    kept.remove(at);
                    continue;
                }
                line(&next)
            }
            Some(atoll_fleet::Followed::Dropped(count)) => wire::LogLine {
                replica: service.to_string(),
                stream: "atoll".to_owned(),
                at_unix_ms: 0,
                text: format!("{count} lines were printed too fast to be shown here"),
            },
        };
        if lines.send(said).await.is_err() {
            return;
        }
    }
}
