//! `consul:`.

use super::decode::{Context, Fields};
use super::keys;
use super::tree::{Node, Value};

/// How Consul's API behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consul {
    /// Who may do what.
    pub acl: Acl,
}

/// Whether tokens are asked for, and what is allowed where none says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// Whether tokens and policies count.
    pub enabled: bool,
    /// Whether what no policy speaks of is allowed. Consul's default is to allow; ours is
    /// to deny: who switches ACLs on wants them to keep somebody out.
    pub default_allow: bool,
}

/// `open` is whether others than this machine reach the API.
pub(crate) fn consul(cx: &Context<'_>, node: &Node, open: bool) -> Option<Consul> {
    let fields = Fields::of(cx, node, &keys::CONSUL)?;
    let acl = fields.get("acl").and_then(|node| acl(cx, node, open));
    fields.finish();
    let acl = acl.unwrap_or_default();
    Some(Consul { acl })
}

fn acl(cx: &Context<'_>, node: &Node, open: bool) -> Option<Acl> {
    let mut found = Acl::default();
    if !matches!(node.value, Value::Map(_)) {
        found.enabled = cx.flag(node)?;
        return Some(found);
    }
    let fields = Fields::of(cx, node, &keys::CONSUL_ACL)?;
    // Who writes the long form means it, unless they say otherwise.
    found.enabled = true;
    if let Some(enabled) = fields.get("enabled").and_then(|node| cx.flag(node)) {
        found.enabled = enabled;
    }
    if let Some(node) = fields.get("default_policy") {
        found.default_allow = cx.choice(node, &["allow", "deny"]) == Some("allow");
        if found.enabled && found.default_allow && open {
            cx.error_with(
                node.span,
                "with `default_policy: allow`, everybody who reaches `listen.consul` could change the fleet without a token",
                "use `deny`, and give the anonymous token a policy with what everybody may do",
            );
        }
    }
    fields.finish();
    Some(found)
}
