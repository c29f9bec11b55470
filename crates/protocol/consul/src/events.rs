//! `/v1/event`: user events, the latest 256 of them.
//!
//! Consul's go from agent to agent by gossip. Ours stand in the store, so that all that
//! share it see them, in one order; the index is that of any other query on keys. Who an
//! event is for (`node`, `service`, `tag`) is tried when it is listed, as each agent does
//! for itself.

use std::sync::Arc;

use atoll_store::{KeyValue, Op, Span, Txn};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::acl::Resource;
use crate::filter::small_regex;
use crate::server::{Answer, Asked, Front};
use crate::translate::{definition, shown_name};
use crate::wire::{Refusal, Reply, base64};

/// Events, by name and id.
const EVENTS: &str = "consul/events/";
/// Nothing is deleted but by what comes after it, so that no marker is ever written.
const EVENTS_MARK: &str = "consul/marks/events";
/// As many as Consul's agents remember.
const EVENTS_MAX: usize = 256;
/// Oldest events that go with one new one: more than one when several fire at once.
const FORGOTTEN_MAX: usize = 64;
/// Serf's `UserEventSizeLimit`: bytes of an event with all that it says.
const EVENT_BYTES_MAX: usize = 512;
/// Consul's `userEventMaxVersion`.
const VERSION: u32 = 1;

/// What there is below `event`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Fire(String),
    List,
}

impl Endpoint {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        match parts {
            ["fire", name @ ..] => Some(Self::Fire(name.join("/"))),
            ["list"] => Some(Self::List),
            _ => None,
        }
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Self::Fire(_) => &[Method::PUT],
            Self::List => &[Method::GET],
        }
    }
}

impl Front {
    pub(crate) async fn event(&self, endpoint: Endpoint, asked: &Asked) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Fire(name) => self.event_fire(&name, asked).await,
            Endpoint::List => self.event_list(asked).await,
        }
    }

    async fn event_fire(&self, name: &str, asked: &Asked) -> Result<Answer, Refusal> {
        if name.is_empty() {
            return Err(Refusal::bad("Missing name"));
        }
        if name.starts_with('_') {
            let text = "names of events that begin with _ are reserved for Consul itself";
            return Err(Refusal::bad(text));
        }
        let failed = |text: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        let filter = |key| asked.query.get(key).unwrap_or_default();
        let filters = ["node", "service", "tag"].map(|key| (key, filter(key)));
        for (key, text) in filters {
            small_regex(text).map_err(|error| failed(format!("Invalid {key} filter: {error}")))?;
        }
        let [(_, node), (_, service), (_, tag)] = filters;
        if !tag.is_empty() && service.is_empty() {
            let text = "Cannot provide tag filter without service filter";
            return Err(failed(text.to_owned()));
        }
        let said = [node, service, tag]
            .map(str::len)
            .into_iter()
            .sum::<usize>();
        if name.len() + asked.body.len() + said > EVENT_BYTES_MAX {
            return Err(failed(format!(
                "user event exceeds configured limit of {EVENT_BYTES_MAX} bytes before encoding"
            )));
        }
        let payload = match asked.body.is_empty() {
            true => Value::Null,
            false => Value::String(base64(&asked.body)),
        };
        let id = self.uuid();
        let event = json!({
            "ID": id,
            "Name": name,
            "Payload": payload,
            "NodeFilter": node,
            "ServiceFilter": service,
            "TagFilter": tag,
            "Version": VERSION,
            "LTime": 0,
        });
        let mut known = self.store.list(EVENTS).await?.items;
        known.sort_by_key(|kept| kept.mod_revision);
        let over = (known.len() + 1)
            .saturating_sub(EVENTS_MAX)
            .min(FORGOTTEN_MAX);
        let mut ops = vec![Op::put(format!("{EVENTS}{name}/{id}"), event.to_string())];
        let oldest = known.into_iter().take(over);
        ops.extend(oldest.map(|kept| Op::Delete(Span::Key(kept.key.clone()))));
        self.store.commit(Txn::of(ops)).await?;
        Ok(Reply::json(event).into())
    }

    async fn event_list(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let name = asked.query.get("name").filter(|name| !name.is_empty());
        let span = match name {
            Some(name) => Span::prefix(format!("{EVENTS}{name}/")),
            None => Span::prefix(EVENTS),
        };
        let found = self.keys_after(span.clone(), EVENTS_MARK, 0, asked).await?;
        let mut events = self.events_of(&found.items, name, asked)?;
        if asked.wait.index != 0 && asked.wait.index == index_of(&events) {
            let seen = found.index;
            let found = self.keys_after(span, EVENTS_MARK, seen, asked).await?;
            events = self.events_of(&found.items, name, asked)?;
        }
        Ok(Answer::at(index_of(&events), Reply::json(events)))
    }

    /// The latest events that are for us and that the caller may see, oldest first. Who
    /// may not see the last one cannot compute an index that is made of it.
    fn events_of(
        &self,
        items: &[Arc<KeyValue>],
        name: Option<&str>,
        asked: &Asked,
    ) -> Result<Vec<Value>, Refusal> {
        let authority = asked.caller.who()?.authority;
        let mut items = items.to_vec();
        items.sort_by_key(|kept| kept.mod_revision);
        let mut ours = Vec::new();
        for event in items.iter().filter_map(shown) {
            // `a/b` stands below `a`, too.
            if name.is_some_and(|name| event["Name"] != name) || !self.is_for_us(&event)? {
                continue;
            }
            let name = event["Name"].as_str().unwrap_or_default();
            match authority.reads(Resource::Event, name) {
                true => ours.push(event),
                false => asked.caller.note_filtered(),
            }
        }
        let over = ours.len().saturating_sub(EVENTS_MAX);
        ours.drain(..over);
        Ok(ours)
    }

    /// Whether an event's filters name this agent.
    fn is_for_us(&self, event: &Value) -> Result<bool, Refusal> {
        let filter = |key| {
            let text = event[key].as_str().filter(|text| !text.is_empty());
            text.map(small_regex).transpose().map_err(Refusal::bad)
        };
        let (node, service) = (filter("NodeFilter")?, filter("ServiceFilter")?);
        let tag = filter("TagFilter")?;
        if node.is_some_and(|node| !node.is_match(&self.node.name)) {
            return Ok(false);
        }
        let Some(service) = service else {
            return Ok(true);
        };
        Ok(self.local().iter().any(|instance| {
            let named = service.is_match(shown_name(instance, &definition(instance)));
            let mut tags = instance.tags.iter();
            let tagged = tag
                .as_ref()
                .is_none_or(|tag| tags.any(|known| tag.is_match(known)));
            named && tagged
        }))
    }
}

/// The index of a list of events is made of the id of its last one, and clients compute
/// the same to find what is new in it (`Event.IDToIndex` of Consul's Go client).
fn index_of(events: &[Value]) -> u64 {
    let id = events.last().and_then(|event| event["ID"].as_str());
    let digits: String = id.unwrap_or_default().split('-').collect();
    let half = |range| {
        let half = digits.get(range).map(|half| u64::from_str_radix(half, 16));
        half.and_then(Result::ok).unwrap_or(0)
    };
    // Not 0, with which nobody would wait.
    (half(0..16) ^ half(16..32)).max(1)
}

/// An event with its time, which is when it came into the store.
fn shown(kept: &Arc<KeyValue>) -> Option<Value> {
    let mut event: Value = serde_json::from_slice(&kept.value).ok()?;
    event["LTime"] = json!(kept.mod_revision.0);
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_list_is_that_of_its_last_event() {
        let event = |id: &str| json!({ "ID": id });
        // By hand: 0xb54fe110_7af5_4afc ^ 0xb8f7_9ca37b2a1c05.
        let one = event("b54fe110-7af5-4afc-b8f7-9ca37b2a1c05");
        let index = 0xb54f_e110_7af5_4afc_u64 ^ 0xb8f7_9ca3_7b2a_1c05;
        assert_eq!(index_of(&[event("0-0-0-0-0"), one]), index);
        assert_eq!(index_of(&[]), 1);
        assert_eq!(index_of(&[event("strange")]), 1);
    }
}
