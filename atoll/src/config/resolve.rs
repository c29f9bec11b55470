//! What only shows when the whole file is known: dependencies, ports, and what
//! the gateway itself says of its routes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use atoll_fleet::workload::{Condition, RestartPolicy};
use atoll_gateway::config::Config;
use atoll_gateway::snapshot::Snapshot;
use atoll_model::{Catalog, ServiceName};

use super::Listen;
use super::decode::Context;
use super::gateway::Gateway;
use super::route;
use super::service::{Dependency, Placed, Service};
use super::source::Span;

/// The services of the file, those that could not be decoded included.
#[derive(Debug, Default)]
pub(crate) struct Names<'f> {
    written: Vec<&'f str>,
    /// Names are compared without case.
    lower: HashSet<String>,
}

impl<'f> Names<'f> {
    pub(crate) fn push(&mut self, name: &'f str) {
        self.written.push(name);
        self.lower.insert(name.to_ascii_lowercase());
    }

    /// Whether there is such a service; reports if not.
    pub(crate) fn check(&self, cx: &Context<'_>, name: &str, span: Span) -> bool {
        let known = self.has(name);
        if !known {
            cx.unknown(span, "service", name, &self.written);
        }
        known
    }

    fn has(&self, name: &str) -> bool {
        self.lower.contains(&name.to_ascii_lowercase())
    }
}

/// Looks up dependencies and compares ports.
pub(crate) fn services(
    cx: &Context<'_>,
    services: &mut [Placed],
    names: &Names<'_>,
    listen: Listen,
) {
    twice(cx, services);
    ports(cx, services, listen);
    let restarts: BTreeMap<ServiceName, Option<RestartPolicy>> = services
        .iter()
        .map(|placed| (placed.name().clone(), placed.restart()))
        .collect();
    for placed in services.iter_mut() {
        let own = placed.name().clone();
        let dependencies = std::mem::take(&mut placed.depends_on);
        for dependency in &dependencies {
            let found = look_up(cx, &own, dependency, names, &restarts);
            if let (Some(name), Service::Ours(workload)) = (found, &mut placed.service)
                && workload
                    .depends_on
                    .insert(name, dependency.condition)
                    .is_some()
            {
                cx.error(
                    dependency.span,
                    format!("`{}` stands here twice", dependency.service),
                );
            }
        }
        placed.depends_on = dependencies;
    }
    for stranded in cx.stranded.take() {
        if stranded.required {
            names.check(cx, &stranded.service, stranded.span);
        }
    }
    cycles(cx, services);
}

impl Placed {
    /// `None` when Atoll does not run it.
    fn restart(&self) -> Option<RestartPolicy> {
        match &self.service {
            Service::Ours(workload) => Some(workload.restart),
            Service::Elsewhere(_) => None,
        }
    }
}

/// Names are compared without case, keys with.
fn twice(cx: &Context<'_>, services: &[Placed]) {
    let mut seen = std::collections::BTreeSet::new();
    for placed in services {
        if !seen.insert(placed.name()) {
            let message = format!(
                "the service `{}` stands here twice: names have no case",
                placed.name()
            );
            cx.error(placed.span, message);
        }
    }
}

fn ports(cx: &Context<'_>, services: &[Placed], listen: Listen) {
    let mut taken: BTreeMap<u16, String> = BTreeMap::new();
    for (name, address) in listen.by_key() {
        if let Some(address) = address.filter(|address| address.port() != 0) {
            taken.insert(address.port(), format!("the {name}"));
        }
    }
    for placed in services {
        let Service::Ours(workload) = &placed.service else {
            continue;
        };
        let (Some(port), Some(span)) = (workload.port, placed.port) else {
            continue;
        };
        let owner = format!("`{}`", workload.service);
        if let Some(other) = taken.insert(port, owner) {
            cx.error(span, format!("port {port} is taken by {other}"));
        }
    }
}

fn look_up(
    cx: &Context<'_>,
    own: &ServiceName,
    dependency: &Dependency,
    names: &Names<'_>,
    restarts: &BTreeMap<ServiceName, Option<RestartPolicy>>,
) -> Option<ServiceName> {
    let Dependency { service, span, .. } = dependency;
    if !dependency.required && !names.has(service) {
        let message = format!("there is no service `{service}`; nothing waits for it");
        cx.warn(*span, message);
        return None;
    }
    if !names.check(cx, service, *span) {
        return None;
    }
    let name = service.parse::<ServiceName>().ok()?;
    if name == *own {
        cx.error(*span, format!("`{service}` cannot wait for itself"));
        return None;
    }
    match restarts.get(&name)? {
        None => {
            cx.error(
                *span,
                format!("`{service}` is not run by Atoll, so nothing can wait for it to start"),
            );
            None
        }
        Some(RestartPolicy::Always) if dependency.condition == Condition::CompletedSuccessfully => {
            cx.error_with(
                *span,
                format!("`{service}` is started again whenever it ends, so it never completes"),
                format!("give `{service}` a `restart: no`"),
            );
            None
        }
        Some(_) => Some(name),
    }
}

/// Reports one circle of services that wait for each other.
fn cycles(cx: &Context<'_>, services: &[Placed]) {
    let mut waiting: BTreeMap<&ServiceName, (usize, &Placed)> = BTreeMap::new();
    let mut awaited_by: BTreeMap<&ServiceName, Vec<&ServiceName>> = BTreeMap::new();
    for placed in services {
        if let Service::Ours(workload) = &placed.service {
            waiting.insert(&workload.service, (workload.depends_on.len(), placed));
            for on in workload.depends_on.keys() {
                awaited_by.entry(on).or_default().push(&workload.service);
            }
        }
    }
    // Whoever waits for nobody that is left may start.
    let free = waiting.iter().filter(|(_, (on, _))| *on == 0);
    let mut free: Vec<_> = free.map(|(name, _)| *name).collect();
    while let Some(name) = free.pop() {
        waiting.remove(name);
        for by in awaited_by.get(name).into_iter().flatten() {
            if let Some((left, _)) = waiting.get_mut(by) {
                *left -= 1;
                if *left == 0 {
                    free.push(by);
                }
            }
        }
    }
    let Some((&start, _)) = waiting.first_key_value() else {
        return;
    };
    // Each that is left waits for another that is left, so this comes round.
    let mut path = Vec::new();
    let mut places = BTreeMap::new();
    let mut next = Some(start);
    while let Some(name) = next {
        path.push(name);
        if let Some(begin) = places.insert(name, path.len() - 1) {
            path.drain(..begin);
            break;
        }
        let on = waiting
            .get(name)
            .and_then(|(_, placed)| match &placed.service {
                Service::Ours(workload) => Some(workload.depends_on.keys()),
                Service::Elsewhere(_) => None,
            });
        next = on.into_iter().flatten().find(|on| waiting.contains_key(on));
    }
    let [first, second, ..] = path[..] else {
        return;
    };
    let of_first = waiting.get(first).map(|(_, placed)| *placed);
    let span = of_first.map(|placed| {
        let mut on = placed.depends_on.iter();
        let found = on.find(|on| second.as_str().eq_ignore_ascii_case(&on.service));
        found.map_or(placed.span, |on| on.span)
    });
    let shown = path.iter().take(20).map(|name| format!("`{name}`"));
    let shown: Vec<_> = shown.collect();
    if let Some(span) = span {
        cx.error(
            span,
            format!("services wait for each other: {}", shown.join(" for ")),
        );
    }
}

/// The gateway's configuration, after it was asked itself.
pub(crate) fn gateway(cx: &Context<'_>, routes: Vec<route::Placed>, settings: &Gateway) -> Config {
    let spans: Vec<Span> = routes.iter().map(|placed| placed.span).collect();
    let config = Config {
        routes: routes.into_iter().map(|placed| placed.route).collect(),
        trusted_proxies: settings.trusted_proxies.clone(),
        access_log: settings.access_log.clone(),
        limits: settings.limits.clone(),
    };
    // The last of a name is the one that the gateway refuses.
    let places: HashMap<_, _> = config
        .routes
        .iter()
        .zip(&spans)
        .map(|(route, span)| ((&route.origin[..], &route.name[..]), *span))
        .collect();
    let span_of = |origin: &str, name: &str| {
        let place = places.get(&(origin, name)).copied();
        place.unwrap_or_else(|| Span::at(1, 1))
    };
    match Snapshot::compile(Arc::new(config.clone()), 0, &Catalog::default(), None) {
        Ok(snapshot) => {
            for warning in snapshot.warnings.iter() {
                let span = span_of(&warning.origin, &warning.route);
                cx.warn(span, warning.message.clone());
            }
        }
        Err(errors) => {
            for error in &errors.0 {
                cx.error(span_of(&error.origin, &error.route), error.message.clone());
            }
        }
    }
    config
}
