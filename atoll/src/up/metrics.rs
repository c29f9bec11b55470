//! What Atoll itself has to say to Prometheus beside the gateway's counters.

use std::collections::BTreeMap;
use std::fmt::Write;

use atoll_model::Health;

use super::live::Live;

/// Everything as Prometheus reads it (text format 0.0.4). Label values are service
/// names and words of ours, which need no escaping.
pub(crate) fn render(live: &Live) -> String {
    let mut out = String::with_capacity(16 * 1024);
    if let Some(gateway) = &live.gateway {
        gateway.metrics(&mut out);
    }
    // Writing to a String cannot fail.
    write(live, &mut out).unwrap_or_default();
    out
}

fn write(live: &Live, out: &mut String) -> std::fmt::Result {
    let version = env!("CARGO_PKG_VERSION");
    head(out, "atoll_build_info", "gauge", "Version of Atoll.")?;
    writeln!(out, "atoll_build_info{{version=\"{version}\"}} 1")?;

    let uptime = live.clock.now().saturating_duration_since(live.started);
    head(
        out,
        "atoll_uptime_seconds",
        "gauge",
        "Since Atoll was started.",
    )?;
    writeln!(out, "atoll_uptime_seconds {}", uptime.as_secs())?;

    let (generation, reloaded) = {
        let configured = live.configured();
        let ok = configured.last_reload.as_ref().is_none_or(|last| last.ok);
        (configured.generation, ok)
    };
    head(
        out,
        "atoll_config_generation",
        "gauge",
        "Reloads that took effect, and 1.",
    )?;
    writeln!(out, "atoll_config_generation {generation}")?;
    head(
        out,
        "atoll_config_last_reload_successful",
        "gauge",
        "0 when the file as it is now was refused.",
    )?;
    writeln!(
        out,
        "atoll_config_last_reload_successful {}",
        u8::from(reloaded)
    )?;

    head(
        out,
        "atoll_store_available",
        "gauge",
        "0 while the store is away and nothing can be registered.",
    )?;
    let available = u8::from(live.store_away().is_none());
    writeln!(out, "atoll_store_available {available}")?;

    write_registry(live, out)?;
    write_fleet(live, out)
}

fn write_registry(live: &Live, out: &mut String) -> std::fmt::Result {
    let catalog = live.registry.current();
    head(
        out,
        "atoll_registry_revision",
        "gauge",
        "Revision of the catalogue.",
    )?;
    writeln!(out, "atoll_registry_revision {}", catalog.revision)?;
    head(
        out,
        "atoll_registry_instances",
        "gauge",
        "Instances by service and health.",
    )?;
    for (service, instances) in &catalog.services {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for instance in instances.iter() {
            *counts.entry(instance.health.as_str()).or_default() += 1;
        }
        for health in Health::ALL {
            let count = counts.get(health.as_str()).copied().unwrap_or_default();
            writeln!(
                out,
                "atoll_registry_instances{{service=\"{service}\",health=\"{health}\"}} {count}"
            )?;
        }
    }

    Ok(())
}

fn write_fleet(live: &Live, out: &mut String) -> std::fmt::Result {
    let fleet = live.fleet_status();
    head(
        out,
        "atoll_fleet_replicas_wanted",
        "gauge",
        "Replicas that should run.",
    )?;
    for (service, status) in &fleet.services {
        let wanted = status.replicas_wanted;
        writeln!(
            out,
            "atoll_fleet_replicas_wanted{{service=\"{service}\"}} {wanted}"
        )?;
    }
    head(
        out,
        "atoll_fleet_replica_restarts",
        "gauge",
        "Starts after an end, of the replicas there are now.",
    )?;
    for (service, status) in &fleet.services {
        for replica in &status.replicas {
            writeln!(
                out,
                "atoll_fleet_replica_restarts{{service=\"{service}\",replica=\"{}\"}} {}",
                replica.id, replica.restarts
            )?;
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}
