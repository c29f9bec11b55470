//! `registry:`.

use atoll_registry::{SelfPreservation, Settings};

use super::decode::{Context, Fields};
use super::keys;
use super::tree::{Node, Value};

pub(crate) fn registry(cx: &Context<'_>, node: &Node) -> Settings {
    let mut settings = Settings::default();
    let Some(fields) = Fields::of(cx, node, &keys::REGISTRY) else {
        return settings;
    };
    if let Some(node) = fields.get("self_preservation") {
        settings.self_preservation = self_preservation(cx, node);
    }
    if let Some(node) = fields.get("script_checks") {
        settings.script_checks = cx.flag(node).unwrap_or_default();
    }
    fields.finish();
    settings
}

fn self_preservation(cx: &Context<'_>, node: &Node) -> SelfPreservation {
    let mut found = SelfPreservation::default();
    if !matches!(node.value, Value::Map(_)) {
        found.enabled = cx.flag(node).unwrap_or(found.enabled);
        return found;
    }
    let Some(fields) = Fields::of(cx, node, &keys::SELF_PRESERVATION) else {
        return found;
    };
    let share = fields.get("lapsed_max").and_then(|node| cx.percent(node));
    // A share is at most 100.
    if let Some(share) = share.and_then(|share| u8::try_from(share).ok()) {
        found.lapsed_percent_max = share;
    }
    if let Some(least) = fields.count(cx, "leases_min") {
        found.leases_min = least;
    }
    if let Some(window) = fields.get("window").and_then(|node| cx.pause(node)) {
        found.window = window;
    }
    fields.finish();
    found
}
