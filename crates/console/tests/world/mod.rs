//! The smallest world that the console can be asked about.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use atoll_console::ports::{
    CatalogChange, CatalogEvent, CheckView, Directory, ExplainRequest, ExplainedBackend,
    ExplainedInstance, ExplainedRoute, Explanation, Flow, InstanceView, ListenerView, LogEvent,
    LogQuery, NewInstance, Operations, Pending, ProcessView, Reload, RouteView, Routing,
    ServiceSummary, Status,
};
use atoll_console::{Console, Settings};
use atoll_model::{
    Address, Catalog, Fault, FaultKind, Health, Instance, InstanceId, Revision, ServiceName,
};
use atoll_runtime::{Clock, Tasks};
use futures_util::{StreamExt, stream};

/// A console on a free port; what it was asked is kept.
pub(crate) struct World {
    pub(crate) tasks: Tasks,
    pub(crate) address: Address,
    pub(crate) registered: Arc<Mutex<Vec<NewInstance>>>,
    pub(crate) explained: Arc<Mutex<Vec<ExplainRequest>>>,
    pub(crate) logs: Arc<Mutex<Vec<LogQuery>>>,
    pub(crate) since: Arc<Mutex<Vec<u64>>>,
    pub(crate) not_ready: Arc<Mutex<Option<String>>>,
}

#[derive(Default)]
struct Fake {
    known: Mutex<Vec<(ServiceName, InstanceId)>>,
    revision: Mutex<u64>,
    registered: Arc<Mutex<Vec<NewInstance>>>,
    explained: Arc<Mutex<Vec<ExplainRequest>>>,
    logs: Arc<Mutex<Vec<LogQuery>>>,
    since: Arc<Mutex<Vec<u64>>>,
    not_ready: Arc<Mutex<Option<String>>>,
}

impl World {
    pub(crate) fn start(token: Option<&str>) -> Self {
        let tasks = Tasks::root(Clock::system());
        let fake = Arc::new(Fake::default());
        let listener = atoll_net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let console = Console {
            directory: fake.clone(),
            operations: fake.clone(),
            routing: fake.clone(),
            settings: Arc::new(Settings {
                token: token.map(str::to_owned),
                hosts: Vec::new(),
            }),
        };
        let address = atoll_console::serve(&tasks, listener, console).unwrap();
        Self {
            tasks,
            address: address.into(),
            registered: fake.registered.clone(),
            explained: fake.explained.clone(),
            logs: fake.logs.clone(),
            since: fake.since.clone(),
            not_ready: fake.not_ready.clone(),
        }
    }
}

fn ready<T: Send + 'static>(value: T) -> Pending<'static, T> {
    Box::pin(std::future::ready(value))
}

fn unknown(id: &InstanceId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("no instance `{id}`"))
}

fn instance(service: &ServiceName, id: &InstanceId) -> Arc<Instance> {
    Arc::new(Instance {
        id: id.clone(),
        service: service.clone(),
        address: "10.0.0.1:80".parse().unwrap(),
        weight: 1,
        health: Health::Passing,
        note: "GET /healthz: 200 OK".to_owned(),
        tags: Vec::new(),
        metadata: BTreeMap::new(),
    })
}

impl Fake {
    fn next(&self) -> Revision {
        let mut revision = self.revision.lock().unwrap();
        *revision += 1;
        Revision(*revision)
    }

    fn find(&self, service: &ServiceName, id: &InstanceId) -> Result<usize, Fault> {
        let known = self.known.lock().unwrap();
        let at = known.iter().position(|(s, i)| s == service && i == id);
        at.ok_or_else(|| unknown(id))
    }
}

impl Directory for Fake {
    fn services(&self) -> Pending<'_, Vec<ServiceSummary>> {
        let known = self.known.lock().unwrap();
        ready(
            known
                .iter()
                .map(|(service, _)| ServiceSummary {
                    name: service.clone(),
                    replicas_wanted: None,
                    health: BTreeMap::from([(Health::Passing, 1)]),
                    in_flight: 2,
                    note: String::new(),
                })
                .collect(),
        )
    }

    fn instances(&self, service: ServiceName) -> Pending<'_, Result<Vec<InstanceView>, Fault>> {
        let known = self.known.lock().unwrap();
        let views: Vec<InstanceView> = known
            .iter()
            .filter(|(known, _)| *known == service)
            .map(|(service, id)| InstanceView {
                instance: instance(service, id),
                source: "client",
                in_flight: 2,
                process: Some(ProcessView {
                    pid: Some(42),
                    restarts: 1,
                    uptime: Some(Duration::from_secs(3)),
                    state: "running".to_owned(),
                }),
                lease: None,
                expires_in: None,
                checks: vec![CheckView {
                    probe: "GET /healthz".to_owned(),
                    health: Health::Passing,
                    since: Duration::from_secs(1),
                    successes: 1,
                    failures: 0,
                    output: "GET /healthz: 200 OK".to_owned(),
                    last: Some((Duration::from_secs(1), Duration::from_millis(2))),
                }],
            })
            .collect();
        ready(if views.is_empty() {
            Err(Fault::new(
                FaultKind::NotFound,
                format!("no service `{service}`"),
            ))
        } else {
            Ok(views)
        })
    }

    fn register(&self, instance: NewInstance) -> Pending<'_, Result<Revision, Fault>> {
        let identity = (instance.service.clone(), instance.id.clone());
        self.known.lock().unwrap().push(identity);
        self.registered.lock().unwrap().push(instance);
        ready(Ok(self.next()))
    }

    fn renew(&self, service: ServiceName, id: InstanceId) -> Pending<'_, Result<(), Fault>> {
        ready(self.find(&service, &id).map(drop))
    }

    fn deregister(
        &self,
        service: ServiceName,
        id: InstanceId,
    ) -> Pending<'_, Result<Revision, Fault>> {
        ready(self.find(&service, &id).map(|at| {
            self.known.lock().unwrap().remove(at);
            self.next()
        }))
    }

    fn drain(
        &self,
        service: ServiceName,
        id: InstanceId,
        _draining: bool,
    ) -> Pending<'_, Result<Revision, Fault>> {
        ready(self.find(&service, &id).map(|_| self.next()))
    }

    fn watch(&self, since: Revision) -> Flow<CatalogEvent> {
        self.since.lock().unwrap().push(since.0);
        let (service, id) = ("users".parse().unwrap(), "u1".parse().unwrap());
        let list: Arc<[Arc<Instance>]> = Arc::new([instance(&service, &id)]);
        let catalog = Catalog {
            revision: Revision(6),
            services: BTreeMap::from([(service.clone(), list)]),
        };
        let gone = CatalogEvent::Changes {
            revision: Revision(7),
            changes: vec![CatalogChange::Gone(service, id)],
        };
        let first = stream::iter([CatalogEvent::Resync(Arc::new(catalog)), gone]);
        Box::pin(first.chain(stream::pending()))
    }
}

impl Operations for Fake {
    fn status(&self) -> Pending<'_, Status> {
        ready(Status {
            version: "0.1.0".to_owned(),
            name: "shop".to_owned(),
            uptime: Duration::from_millis(1500),
            pid: 7,
            config_path: "atoll.yaml".to_owned(),
            config_generation: 1,
            last_reload: None,
            listeners: vec![ListenerView {
                key: "gateway".to_owned(),
                address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            }],
            catalog_revision: Revision(9),
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn metrics(&self, text: &mut String) {
        text.push_str("atoll_up 1\n");
    }

    fn reload(&self) -> Pending<'_, Result<Reload, Fault>> {
        ready(Ok(Reload {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            applied: false,
            generation: 1,
            messages: vec!["atoll.yaml:3:1: unknown key `replica`".to_owned()],
        }))
    }

    fn config(&self) -> Pending<'_, Result<String, Fault>> {
        ready(Ok("{\"name\":\"shop\"}".to_owned()))
    }

    fn logs(&self, query: LogQuery) -> Pending<'_, Result<Flow<LogEvent>, Fault>> {
        let follow = query.follow;
        self.logs.lock().unwrap().push(query);
        let line = LogEvent::Line {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            replica: "users-1".parse().unwrap(),
            stream: "stdout",
            text: "hello".into(),
        };
        let lines = stream::iter([line, LogEvent::Missed(3)]);
        let flow: Flow<LogEvent> = if follow {
            Box::pin(lines.chain(stream::pending()))
        } else {
            Box::pin(lines)
        };
        ready(Ok(flow))
    }
}

impl Routing for Fake {
    fn routes(&self) -> Vec<RouteView> {
        vec![RouteView {
            name: "users".to_owned(),
            origin: "atoll.yaml:9".to_owned(),
            hostnames: Vec::new(),
            matches: vec!["/users/{path*}".to_owned()],
            backends: vec![("users".parse().unwrap(), 1)],
            policies: vec![("timeout".to_owned(), "2s".to_owned())],
        }]
    }

    fn explain(&self, request: ExplainRequest) -> Result<Explanation, Fault> {
        self.explained.lock().unwrap().push(request);
        let unfit = ExplainedInstance {
            id: "u1".to_owned(),
            address: "10.0.0.1:80".to_owned(),
            health: Health::Critical,
            excluded: Some("critical".to_owned()),
        };
        let backend = ExplainedBackend {
            service: "users".to_owned(),
            weight: 1,
            share_percent: 100.0,
            instances: vec![unfit],
        };
        let route = ExplainedRoute {
            name: "users".to_owned(),
            origin: "atoll.yaml:9".to_owned(),
            matched: vec!["path /users/{path*}".to_owned()],
            parameters: vec![("path".to_owned(), "7".to_owned())],
            upstream_path: "/users/7".to_owned(),
            policies: Vec::new(),
            backends: vec![backend],
        };
        Ok(Explanation {
            verdict: "routed",
            summary: "goes to `users`".to_owned(),
            status: None,
            route: Some(route),
            near_misses: vec![(
                "other".to_owned(),
                "atoll.yaml:12".to_owned(),
                "method".to_owned(),
            )],
        })
    }
}
