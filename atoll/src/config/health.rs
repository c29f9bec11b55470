//! `health:` and Compose's `healthcheck:`.

use std::time::Duration;

use atoll_model::{Check, Probe};

use super::decode::{Context, Fields};
use super::keys;
use super::tree::{Entry, Node, Value};

/// Who runs what is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// Atoll, which needs to know when a replica is ready.
    Ours,
    /// Others: the check may be left out.
    Elsewhere,
}

/// The check of a service; by default whether it accepts TCP connections.
pub(crate) fn decode(
    cx: &Context<'_>,
    fields: &Fields<'_>,
    checked: Checked,
) -> Result<Option<Check>, ()> {
    match fields.either(cx, "health", "healthcheck") {
        None => Ok(Some(Check::new(Probe::Tcp))),
        Some(entry) => health(cx, entry, checked),
    }
}

fn health(cx: &Context<'_>, entry: &Entry, checked: Checked) -> Result<Option<Check>, ()> {
    let node = &entry.node;
    if matches!(node.value, Value::Map(_)) {
        return healthcheck(cx, node, checked);
    }
    let word = cx.words(node).ok_or(())?;
    match &word.text[..] {
        "tcp" => Ok(Some(Check::new(Probe::Tcp))),
        "none" => without(cx, node, checked),
        path => Ok(Some(Check::new(http(cx, node, path)?))),
    }
}

fn http(cx: &Context<'_>, node: &Node, path: &str) -> Result<Probe, ()> {
    if !path.starts_with('/') {
        let message = format!("`{path}` is no health check: a path begins with `/`");
        cx.error_with(
            node.span,
            message,
            format!("did you mean `/{path}`? (or `tcp`)"),
        );
        return Err(());
    }
    if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        cx.error(
            node.span,
            "a path is visible ASCII without `#`; encode the rest as %XX",
        );
        return Err(());
    }
    Ok(Probe::Http {
        path: path.to_owned(),
    })
}

fn without(cx: &Context<'_>, node: &Node, checked: Checked) -> Result<Option<Check>, ()> {
    match checked {
        Checked::Elsewhere => Ok(None),
        Checked::Ours => {
            let message = "a service that Atoll runs is always checked, so that it gets no request too early; the least is `tcp`";
            cx.error(node.span, message);
            Err(())
        }
    }
}

fn healthcheck(cx: &Context<'_>, node: &Node, checked: Checked) -> Result<Option<Check>, ()> {
    let fields = Fields::of(cx, node, &keys::HEALTHCHECK).ok_or(())?;
    let disabled = fields.get("disable").map(|node| (cx.flag(node), node));
    let path = fields.either(cx, "path", "http");
    let tcp = fields.get("tcp").map(|node| (cx.flag(node), node));
    let pause = |name| fields.get(name).map(|node| cx.pause(node));
    let interval = pause("interval");
    let timeout = pause("timeout");
    let start_interval = pause("start_interval");
    let start_period = fields.get("start_period").map(|node| cx.duration(node));
    let count = |name| fields.get(name).map(|_| fields.count::<u32>(cx, name));
    let retries = count("retries");
    let warning = count("failures_before_warning");
    let passing = count("success_before_passing");
    fields.finish();
    if let Some((Some(true), node)) = disabled {
        return without(cx, node, checked);
    }
    let probe = match (path, tcp) {
        (Some(entry), None | Some((Some(false), _))) => {
            let word = cx.words(&entry.node).ok_or(())?;
            http(cx, &entry.node, &word.text)?
        }
        (None, None | Some((Some(true), _))) => Probe::Tcp,
        (Some(_), Some((_, node))) => {
            cx.error(node.span, "`tcp` and a path exclude each other");
            return Err(());
        }
        (None, Some((_, node))) => {
            cx.error(node.span, "without `tcp` give a `path`");
            return Err(());
        }
    };
    let usual = Check::new(probe);
    let or = |given: Option<Option<Duration>>, usual| given.unwrap_or(Some(usual)).ok_or(());
    let or_count = |given: Option<Option<u32>>, usual| given.unwrap_or(Some(usual)).ok_or(());
    Ok(Some(Check {
        interval: or(interval, usual.interval)?,
        start_interval: or(start_interval, usual.start_interval)?,
        start_period: or(start_period, usual.start_period)?,
        timeout: or(timeout, usual.timeout)?,
        success_before_passing: or_count(passing, usual.success_before_passing)?,
        failures_before_warning: or_count(warning, usual.failures_before_warning)?,
        failures_before_critical: or_count(retries, usual.failures_before_critical)?,
        ..usual
    }))
}
