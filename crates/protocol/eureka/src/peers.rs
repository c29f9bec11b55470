//! What another Eureka server tells in batches: `peerreplication/batch`. Taken in as if
//! the clients themselves had said it, so that Atoll can join a cluster of Eureka's and
//! take it over. Nothing is told onwards.

use http::StatusCode;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::changes::{Book, Named};
use crate::copies::Migration;
use crate::wire::{Format, InstanceInfo, Shape, Status, list, text, unsigned};

/// Items of a batch; Eureka sends at most 250.
const ITEMS_MAX: usize = 5_000;

/// `ReplicationInstance`.
struct Item {
    named: Option<Named>,
    dirty_ms: Option<u64>,
    status: Option<String>,
    overridden: Option<String>,
    info: Option<InstanceInfo>,
    action: Option<String>,
}

impl Item {
    fn from_value(value: &Value) -> Self {
        let app = text(value, "appName").unwrap_or_default();
        let id = text(value, "id").unwrap_or_default();
        let info = value.get("instanceInfo").filter(|info| info.is_object());
        Self {
            named: Named::new(&app, &id),
            dirty_ms: unsigned(value.get("lastDirtyTimestamp")),
            status: text(value, "status"),
            overridden: text(value, "overriddenStatus"),
            info: info.map(|info| InstanceInfo::from_value(Format::Json, info)),
            action: text(value, "action"),
        }
    }
}

/// Does all of a batch and answers each item in its place.
pub(crate) async fn batch(book: &Book, document: &Value) -> Answer {
    let items = list(document.get("replicationList"));
    if items.len() > ITEMS_MAX {
        let said = format!("at most {ITEMS_MAX} items in a batch");
        return Answer::Said(StatusCode::PAYLOAD_TOO_LARGE, said);
    }
    let mut responses = Vec::with_capacity(items.len());
    if let Some(from) = text(document, "copiedFrom") {
        let dry_run = text(document, "dryRun").as_deref() == Some("true");
        let migration = Migration { from, dry_run };
        for item in items {
            responses.push(copy(book, &migration, &Item::from_value(item)).await);
        }
        return Answer::Json(json!({ "responseList": responses }));
    }
    for item in items {
        let (status, entity) = act(book, &Item::from_value(item)).await;
        let mut response = json!({ "statusCode": status.as_u16() });
        if let Some(entity) = entity {
            response["responseEntity"] = entity;
        }
        responses.push(response);
    }
    Answer::Json(json!({ "responseList": responses }))
}

async fn act(book: &Book, item: &Item) -> (StatusCode, Option<Value>) {
    let named = item.named.as_ref();
    let status = item.status.as_deref();
    let done = match item.action.as_deref() {
        Some("Register") => match &item.info {
            Some(info) => book.register(info).await,
            None => Err(Answer::Bare(StatusCode::INTERNAL_SERVER_ERROR)),
        },
        Some("Heartbeat") => return heartbeat(book, item).await,
        Some("Cancel") => book.cancel(named).await,
        Some("StatusUpdate") => book.override_status(named, status).await,
        Some("DeleteStatusOverride") => book.remove_override(named, status).await,
        _ => Err(Answer::Bare(StatusCode::INTERNAL_SERVER_ERROR)),
    };
    (
        done.err()
            .map_or(StatusCode::OK, |answer| item_status(&answer)),
        None,
    )
}

/// An item of a migration; unlike a peer it is told why something was refused.
async fn copy(book: &Book, migration: &Migration, item: &Item) -> Value {
    let named = item.named.as_ref();
    let done = match (item.action.as_deref(), &item.info) {
        (Some("Register"), Some(info)) => book.copy(migration, info).await,
        (Some("Heartbeat"), _) => book.renew_copy(named).await,
        (Some("Cancel"), _) => book.cancel_copy(migration, named).await,
        (action, _) => {
            let action = action.unwrap_or_default();
            let said = format!("a migration knows Register, Heartbeat and Cancel, not `{action}`");
            Err(Answer::Said(StatusCode::BAD_REQUEST, said))
        }
    };
    let Err(refused) = done else {
        return json!({ "statusCode": 200 });
    };
    let mut response = json!({ "statusCode": item_status(&refused).as_u16() });
    if let Answer::Said(_, said) = refused {
        response["said"] = Value::from(said);
    }
    response
}

async fn heartbeat(book: &Book, item: &Item) -> (StatusCode, Option<Value>) {
    let named = item.named.as_ref();
    match book.heartbeat(named, item.dirty_ms, true).await {
        Ok(None) => (StatusCode::OK, None),
        Ok(Some(newer)) => {
            let shape = Shape {
                format: Format::Json,
                compact: false,
            };
            (StatusCode::CONFLICT, Some(newer.to_value(shape)))
        }
        Err(answer) => {
            // The peer registers it next; an override that it knows of comes first
            // (`InstanceResource.renewLease`).
            let told = item.overridden.as_deref().and_then(Status::from_word);
            if let (Some(told), Some(named)) = (told, named)
                && told != Status::Unknown
                && book.registry.get(&named.service, &named.id).is_some()
            {
                drop(book.adopt_override(named, told).await);
            }
            (item_status(&answer), None)
        }
    }
}

/// A failing item does not fail the batch: it has its own status.
fn item_status(answer: &Answer) -> StatusCode {
    match answer {
        Answer::Bare(status) | Answer::Said(status, _) | Answer::Document(status, ..) => *status,
        Answer::Written(written) => written.status,
        Answer::Json(_) | Answer::JsonText(_) => StatusCode::OK,
    }
}

/// For fuzzing: reads the items of a batch.
pub(crate) fn fuzz(document: &Value) {
    for item in list(document.get("replicationList")) {
        drop(Item::from_value(item));
    }
}
