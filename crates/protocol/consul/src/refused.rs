//! Why there is not what there is not.

/// Reasons by the beginning of a path, as `endpoint::UNSUPPORTED` names it.
const REASONS: &[(&str, &str)] = &[
    ("agent/connect", "there is no mesh"),
    ("connect", "there is no mesh"),
    (
        "discovery-chain",
        "there is no mesh whose chains it could resolve",
    ),
    ("exported-services", "there are no peers to export to"),
    (
        "internal",
        "there is only what Consul's page shows of nodes and services",
    ),
    ("operator", "Consul Enterprise has it"),
    ("peering", "there are no peers"),
    ("peerings", "there are no peers"),
    (
        "snapshot",
        "copy Atoll's data directory, or the etcd that it keeps its state in",
    ),
];

/// Why the endpoints below `path` are not there, if there is more to say than that.
pub(crate) fn reason(path: &str) -> Option<&'static str> {
    let found = REASONS.iter().find(|(known, _)| *known == path);
    found.map(|(_, reason)| *reason)
}
