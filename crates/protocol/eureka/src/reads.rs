//! What is shown: all applications, what changed of them, one, by VIP, one instance, and
//! how the server itself is.
//!
//! Each answer is made from one look at the registry, so that its list and its hash code
//! agree, as a client checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_model::{Catalog, Revision};
use atoll_registry::{Detail, Touched};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::answer::Answer;
use crate::changes::{Book, Named};
use crate::translate::{self, Now};
use crate::wire::{self, Action, Format, InstanceInfo, Shape, Status};

/// How long a change stays in the delta (`retentionTimeInMSInDeltaQueue`).
const DELTA_WINDOW: Duration = Duration::from_secs(180);
/// What a full answer says of its version; clients only look for -1.
const FULL_VERSION: &str = "1";
/// What an answer by VIP says.
const VIP_VERSION: &str = "-1";

/// The hash code of the last catalogue that was asked for: it changes only with that.
#[derive(Debug, Default)]
pub(crate) struct HashMemo(Mutex<Option<(Revision, String)>>);

impl HashMemo {
    fn of(&self, catalog: &Catalog) -> String {
        let mut memo = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, hash)) = memo.as_ref()
            && *revision == catalog.revision
        {
            return hash.clone();
        }
        let all = catalog.services.values().flat_map(|list| list.iter());
        let hash = wire::hash_code(all.map(|instance| translate::status(instance)));
        *memo = Some((catalog.revision, hash.clone()));
        hash
    }
}

/// Instances by application, in the order of their names.
#[derive(Default)]
struct Apps(BTreeMap<String, Vec<Value>>);

impl Apps {
    fn add(&mut self, info: &InstanceInfo, shape: Shape) {
        let app = info.app.clone().unwrap_or_default();
        let value = info.to_value(shape);
        self.0.entry(app).or_default().push(value);
    }

    fn answer(self, version: &str, hash: &str) -> Answer {
        let value = wire::applications(version, hash, self.0.into_iter().collect());
        Answer::Document(StatusCode::OK, "applications", value)
    }
}

/// All applications.
pub(crate) async fn all(book: &Book, shape: Shape) -> Result<Answer, Answer> {
    let details = book.registry.checks(None).await?;
    Ok(list(&details, &book.now(), shape, |_| true, FULL_VERSION))
}

/// Those whose `which` (`vipAddress` or `secureVipAddress`) names `vip`; none is an
/// empty list, not an error.
pub(crate) async fn by_vip(
    book: &Book,
    shape: Shape,
    which: &str,
    vip: &str,
) -> Result<Answer, Answer> {
    let details = book.registry.checks(None).await?;
    let named = |info: &InstanceInfo| translate::answers_to(info, which, vip);
    Ok(list(&details, &book.now(), shape, named, VIP_VERSION))
}

fn list(
    details: &[Detail],
    now: &Now,
    shape: Shape,
    wanted: impl Fn(&InstanceInfo) -> bool,
    version: &str,
) -> Answer {
    let infos = || {
        let infos = details.iter().map(|detail| translate::info(detail, now));
        infos.filter(|info| wanted(info))
    };
    if shape.format == Format::Json {
        // One instance after the other: a tree of a hundred thousand would take several
        // times the memory of all the registry.
        let mut statuses = Vec::new();
        let mut list = wire::ListWriter::default();
        for info in infos() {
            statuses.push(info.status);
            list.add(&info, shape);
        }
        let hash = wire::hash_code(statuses.into_iter());
        return Answer::JsonText(list.finish(version, &hash));
    }
    let mut apps = Apps::default();
    let mut statuses = Vec::new();
    for info in infos() {
        statuses.push(info.status);
        apps.add(&info, shape);
    }
    apps.answer(version, &wire::hash_code(statuses.into_iter()))
}

/// What changed in the last three minutes, with the hash code of everything.
///
/// Its version is the catalogue's revision: py-eureka-client skips a delta whose version
/// and hash it has seen. Where not all changes are known (after a restart, or when they
/// were too many), everything there is stands in it as added: then a client that missed
/// a removal sees by the hash that it must fetch all.
pub(crate) async fn delta(book: &Book, memo: &HashMemo, shape: Shape) -> Result<Answer, Answer> {
    let recently = book.registry.recently(DELTA_WINDOW).await?;
    let now = book.now();
    let mut apps = Apps::default();
    let mut put = |detail: &Detail, action: Action| {
        let mut info = translate::info(detail, &now);
        info.action = action;
        apps.add(&info, shape);
    };
    if !recently.complete {
        let details = book.registry.checks(None).await?;
        details.iter().for_each(|detail| put(detail, Action::Added));
        let statuses = details.iter().map(|it| translate::status(&it.instance));
        let hash = wire::hash_code(statuses);
        return Ok(apps.answer(&recently.catalog.revision.to_string(), &hash));
    }
    for touched in &recently.changes {
        if let Touched::Put { detail, anew } = touched {
            put(
                detail,
                if *anew {
                    Action::Added
                } else {
                    Action::Modified
                },
            );
        }
    }
    for touched in &recently.changes {
        if let Touched::Gone(instance) = touched {
            let mut info = translate::last_known(instance, &now);
            info.action = Action::Deleted;
            apps.add(&info, shape);
        }
    }
    let hash = memo.of(&recently.catalog);
    Ok(apps.answer(&recently.catalog.revision.to_string(), &hash))
}

/// One application.
pub(crate) async fn app(book: &Book, shape: Shape, app: &str) -> Result<Answer, Answer> {
    let missing = Answer::Bare(StatusCode::NOT_FOUND);
    let Ok(service) = app.parse() else {
        return Err(missing);
    };
    let details = book.registry.checks(Some(service)).await?;
    if details.is_empty() {
        return Err(missing);
    }
    let now = book.now();
    let instances = details
        .iter()
        .map(|detail| translate::info(detail, &now).to_value(shape));
    let value = wire::application(&app.to_uppercase(), instances.collect());
    Ok(Answer::Document(StatusCode::OK, "application", value))
}

/// One instance of an application.
pub(crate) async fn instance(
    book: &Book,
    shape: Shape,
    named: Option<&Named>,
) -> Result<Answer, Answer> {
    let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
    let detail = book.detail(named).await?;
    let value = translate::info(&detail, &book.now()).to_value(shape);
    Ok(Answer::Document(StatusCode::OK, "instance", value))
}

/// The instance with this id, of the first application that has one.
pub(crate) async fn instance_anywhere(
    book: &Book,
    shape: Shape,
    id: &str,
) -> Result<Answer, Answer> {
    let catalog = book.registry.current();
    let all = catalog.services.values().flat_map(|list| list.iter());
    let found = all.into_iter().find(|instance| instance.id.as_str() == id);
    let found = found.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
    let named = Named {
        service: found.service.clone(),
        id: found.id.clone(),
    };
    instance(book, shape, Some(&named)).await
}

/// `serverinfo/statusoverrides`: ids with the status that is forced on them.
pub(crate) async fn overrides(book: &Book) -> Result<Answer, Answer> {
    let details = book.registry.checks(None).await?;
    let now = book.now();
    let infos = details.iter().map(|detail| translate::info(detail, &now));
    let forced = infos.filter(|info| info.overridden != Status::Unknown);
    let map: Map<String, Value> = forced
        .map(|info| (info.id.unwrap_or_default(), json!(info.overridden.as_str())))
        .collect();
    Ok(Answer::Json(Value::Object(map)))
}

/// `StatusInfo`, with how self-preservation stands among the general figures.
pub(crate) async fn status(
    book: &Book,
    shape: Shape,
    uptime: Duration,
    at: Option<SocketAddr>,
) -> Result<Answer, Answer> {
    let preservation = book.registry.preservation().await?;
    let (minutes, settings) = (uptime.as_secs() / 60, preservation.settings);
    let (days, hours) = (minutes / 60 / 24, minutes / 60 % 24);
    let days = match days {
        0 => String::new(),
        1 => "1 day ".to_owned(),
        days => format!("{days} days "),
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let value = json!({
        "generalStats": {
            "server-uptime": format!("{days}{hours:02}:{:02}", minutes % 60),
            "environment": "atoll",
            "num-of-cpus": cpus.to_string(),
            "self-preservation-enabled": settings.enabled.to_string(),
            "self-preservation-lapsed-percent-max": settings.lapsed_percent_max.to_string(),
            "self-preservation-leases-min": settings.leases_min.to_string(),
            "self-preservation-holding": preservation.holding.to_string(),
            "leases": preservation.leases.to_string(),
            "leases-lapsed-and-kept": preservation.lapsed.to_string(),
            "leases-expired-in-last-minute": preservation.expired.to_string(),
        },
        // No peer is told anything: there are none.
        "applicationStats": {
            "registered-replicas": "",
            "available-replicas": "",
            "unavailable-replicas": "",
        },
        "instanceInfo": itself(book, at).to_value(shape),
        "isHeathly": true,
    });
    Ok(Answer::Document(StatusCode::OK, "status", value))
}

/// Atoll as an instance of `EUREKA`.
fn itself(book: &Book, at: Option<SocketAddr>) -> InstanceInfo {
    let empty = Value::Object(Map::new());
    let ms = book.now().ms;
    let host = at.map_or_else(|| "localhost".to_owned(), |at| at.ip().to_string());
    InstanceInfo {
        id: Some("atoll".to_owned()),
        host_name: Some(host.clone()),
        ip_addr: Some(host),
        app: Some("EUREKA".to_owned()),
        port: wire::Port {
            number: at.map_or(0, |at| at.port()),
            enabled: at.is_some(),
        },
        data_center: Some(wire::DataCenter::own()),
        updated_ms: ms,
        dirty_ms: Some(ms),
        ..InstanceInfo::from_value(wire::Format::Json, &empty)
    }
}
