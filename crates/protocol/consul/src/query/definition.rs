//! What a prepared query says. Kept as it is shown, in Consul's own documented form, so
//! that there is one reader for both.

use std::time::Duration;

use serde_json::{Value, json};

use super::{failed, template};
use crate::wire::{Fields, Refusal, duration};

/// Bytes of a name: longer ones could not be asked for in DNS (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// What is shown instead of a token.
const HIDDEN: &str = "<hidden>";

/// A query, or a template of queries.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Definition {
    pub(super) name: String,
    /// The session that the query ends with; may be empty.
    pub(super) session: String,
    token: String,
    /// `Template.Type`; empty, or [`template::PREFIX`].
    kind: String,
    pub(super) regexp: String,
    pub(super) remove_empty_tags: bool,
    /// What is looked for; every text in it may hold variables of a template.
    pub(super) service: Value,
    ttl: String,
}

/// What is looked for, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) service: String,
    pub(super) only_passing: bool,
    pub(super) ignored_checks: Vec<String>,
    pub(super) near: String,
    pub(super) tags: Vec<String>,
    pub(super) node_meta: Vec<(String, String)>,
    pub(super) service_meta: Vec<(String, String)>,
}

impl Definition {
    /// Reads the body of a request.
    pub(super) fn parse(fields: &Fields) -> Result<Self, Refusal> {
        let invalid = |what: &str| failed(format!("Invalid prepared query: {what}"));
        let definition = Self::read(fields)?;
        let Self { name, token, .. } = &definition;
        if definition.kind.is_empty() && name.is_empty() && definition.session.is_empty() {
            return Err(invalid("Must be bound to a session"));
        }
        if name.len() > NAME_BYTES_MAX {
            let what = format!("the name is longer than {NAME_BYTES_MAX} bytes");
            return Err(invalid(&what));
        }
        // Consul's order of finding is id before name, so that such a name would steal.
        if is_uuid(name) {
            return Err(invalid(&format!(
                "name '{name}' looks like the ID of a query"
            )));
        }
        if token == HIDDEN {
            return Err(invalid(&format!(
                "Bad Token '{HIDDEN}', it looks like a query definition with a redacted token was submitted"
            )));
        }
        if definition.wanted()?.service.is_empty() {
            return Err(invalid("Must provide a Service name to query"));
        }
        if !definition.ttl.is_empty() && duration(&definition.ttl).is_none() {
            let what = format!("Bad DNS TTL '{}': it must be like 10s", definition.ttl);
            return Err(invalid(&what));
        }
        if definition.is_template() {
            // Consul tries it with the shortest name that it is for.
            template::rendered(&definition, name)
                .map_err(|what| failed(format!("failed compiling template: {what}")))?;
        }
        Ok(definition)
    }

    /// Reads what is kept.
    pub(super) fn of_kept(bytes: &[u8]) -> Option<Self> {
        Self::read(&Fields::of_body(bytes).ok()?).ok()
    }

    fn read(fields: &Fields) -> Result<Self, Refusal> {
        let template = fields.object("template")?.unwrap_or_default();
        let dns = fields.object("dns")?.unwrap_or_default();
        Ok(Self {
            name: fields.text("name")?,
            session: fields.text("session")?,
            token: fields.text("token")?,
            kind: template.text("type")?,
            regexp: template.text("regexp")?,
            remove_empty_tags: template.flag("removeemptytags")?,
            service: service(&fields.object("service")?.unwrap_or_default())?,
            ttl: dns.text("ttl")?,
        })
    }

    pub(super) fn is_template(&self) -> bool {
        !self.kind.is_empty()
    }

    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// How long an answer in DNS may be kept, if it was said.
    pub(super) fn ttl(&self) -> Option<Duration> {
        duration(&self.ttl)
    }

    pub(super) fn wanted(&self) -> Result<Wanted, Refusal> {
        let fields = Fields::of(self.service.clone(), "Service")?;
        Ok(Wanted {
            service: fields.text("service")?,
            only_passing: fields.flag("onlypassing")?,
            ignored_checks: fields.texts("ignorecheckids")?,
            near: fields.text("near")?,
            tags: fields.texts("tags")?,
            node_meta: fields.pairs("nodemeta")?,
            service_meta: fields.pairs("servicemeta")?,
        })
    }

    pub(super) fn dns(&self) -> Value {
        json!({ "TTL": self.ttl })
    }

    /// As it is kept.
    pub(super) fn to_value(&self) -> Value {
        json!({
            "Name": self.name,
            "Session": self.session,
            "Token": self.token,
            "Template": {
                "Type": self.kind,
                "Regexp": self.regexp,
                "RemoveEmptyTags": self.remove_empty_tags,
            },
            "Service": self.service,
            "DNS": self.dns(),
        })
    }

    /// As it is shown: with an id, and without its secret.
    pub(super) fn shown(&self, id: &str) -> Value {
        let mut shown = json!({ "ID": id });
        if let (Value::Object(shown), Value::Object(kept)) = (&mut shown, self.to_value()) {
            shown.extend(kept);
        }
        if !self.token.is_empty() {
            shown["Token"] = json!(HIDDEN);
        }
        shown
    }
}

/// `Service` in full, checked.
fn service(fields: &Fields) -> Result<Value, Refusal> {
    if fields.flag("connect")? {
        return Err(Refusal::unsupported("a prepared query with Connect"));
    }
    if !fields.text("peer")?.is_empty() {
        return Err(Refusal::unsupported("a prepared query with Peer"));
    }
    for key in ["namespace", "partition"] {
        if !matches!(&fields.text(key)?[..], "" | "default") {
            return Err(Refusal::bad(format!(
                "Invalid prepared query: {key} needs Consul Enterprise"
            )));
        }
    }
    let texts = |key| -> Result<Value, Refusal> {
        match fields.raw(key) {
            None => Ok(Value::Null),
            Some(_) => Ok(json!(fields.texts(key)?)),
        }
    };
    let pairs = |key| -> Result<Value, Refusal> {
        match fields.raw(key) {
            None => Ok(Value::Null),
            Some(_) => Ok(Value::Object(
                fields
                    .pairs(key)?
                    .into_iter()
                    .map(|(key, value)| (key, Value::String(value)))
                    .collect(),
            )),
        }
    };
    Ok(json!({
        "Service": fields.text("service")?,
        "Failover": failover(&fields.object("failover")?.unwrap_or_default())?,
        "OnlyPassing": fields.flag("onlypassing")?,
        "IgnoreCheckIDs": texts("ignorecheckids")?,
        "Near": fields.text("near")?,
        "Tags": texts("tags")?,
        "NodeMeta": pairs("nodemeta")?,
        "ServiceMeta": pairs("servicemeta")?,
        "Connect": false,
    }))
}

/// Where else to look. There is one datacenter, so that what is named here is kept and
/// asked for in vain.
fn failover(fields: &Fields) -> Result<Value, Refusal> {
    let invalid = |what: &str| failed(format!("Invalid prepared query: {what}"));
    let nearest = match fields.raw("nearestn") {
        None => 0,
        Some(number) => match number.as_i64() {
            Some(number) if number >= 0 => number,
            _ => return Err(invalid(&format!("Bad NearestN '{number}', must be >= 0"))),
        },
    };
    let datacenters = fields.texts("datacenters")?;
    let targets = fields.objects("targets")?;
    if !targets.is_empty() && (nearest > 0 || !datacenters.is_empty()) {
        return Err(invalid(
            "Targets cannot be populated with NearestN or Datacenters",
        ));
    }
    let mut kept = Vec::new();
    for target in &targets {
        for key in ["peer", "peername"] {
            if !target.text(key)?.is_empty() {
                return Err(Refusal::unsupported("failover to a peer"));
            }
        }
        kept.push(json!({ "Datacenter": target.text("datacenter")? }));
    }
    let listed = |empty: bool, list: Value| if empty { Value::Null } else { list };
    Ok(json!({
        "NearestN": nearest,
        "Datacenters": listed(datacenters.is_empty(), json!(datacenters)),
        "Targets": listed(kept.is_empty(), json!(kept)),
    }))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &Value) -> Result<Definition, String> {
        let fields = Fields::of_body(body.to_string().as_bytes()).unwrap();
        Definition::parse(&fields).map_err(|refusal| refusal.text)
    }

    #[test]
    fn what_is_kept_is_read_back_and_keys_of_meta_keep_their_case() {
        let body = json!({
            "Name": "q", "token": "secret", "DNS": { "TTL": "10s" },
            "Service": {
                "Service": "web", "only_passing": true, "NodeMeta": { "Rack_A": "1" },
                "Failover": { "NearestN": 3, "Datacenters": ["dc1", "dc2"] },
            },
        });
        let query = parse(&body).unwrap();
        let kept = query.to_value().to_string();
        assert_eq!(Definition::of_kept(kept.as_bytes()), Some(query.clone()));
        let wanted = query.wanted().unwrap();
        assert!(wanted.only_passing);
        assert_eq!(wanted.node_meta, [("Rack_A".to_owned(), "1".to_owned())]);
        assert_eq!(query.ttl(), Some(Duration::from_secs(10)));
        assert!(!query.shown("id").to_string().contains("secret"));
    }

    #[test]
    fn bad_queries_say_why() {
        for (body, why) in [
            (
                json!({ "Service": { "Service": "web" } }),
                "bound to a session",
            ),
            (json!({ "Name": "q" }), "Service name"),
            (
                json!({ "Name": "q", "Service": { "Service": "w" }, "DNS": { "TTL": "1d" } }),
                "TTL",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "w" }, "Token": "<hidden>" }),
                "redacted",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "w", "Connect": true } }),
                "Connect",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "w", "Failover": { "NearestN": -1 } } }),
                "NearestN",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "w", "Failover": { "Targets": [{ "Peer": "p" }] } } }),
                "peer",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "${x}" }, "Template": { "Type": "name_prefix_match" } }),
                "compiling",
            ),
            (
                json!({ "Name": "q", "Service": { "Service": "w" }, "Template": { "Type": "odd" } }),
                "Template.Type",
            ),
            (
                json!({ "Name": "8f246b77-f3e1-ff88-5b48-8ec93abf3e05", "Service": { "Service": "w" } }),
                "ID",
            ),
        ] {
            let told = parse(&body).unwrap_err();
            assert!(told.contains(why), "{body}: {told}");
        }
    }
}
