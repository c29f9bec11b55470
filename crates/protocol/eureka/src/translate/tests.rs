use proptest::collection::btree_map;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::wire::{Shape, parse, write};

/// What text may be on both wires: no control characters, nothing that is trimmed.
fn words() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9&<>\"'é→/:._-]([a-zA-Z0-9&<>\"' é→/:._-]{0,20}[a-zA-Z0-9&<>\"'é→/:._-])?"
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    // `class` alone with one value would mark an empty map, and `@class` any.
    let key = prop_oneof![
        "[a-zA-Z_][a-zA-Z0-9_.$-]{0,12}".prop_filter("marks an empty map", |key| key != "class"),
        "eureka\\.(user\\.)?[a-zA-Z]{1,8}",
    ];
    btree_map(key, words(), 0..5)
}

fn ports() -> impl Strategy<Value = Port> {
    (0..=u16::MAX, any::<bool>()).prop_map(|(number, enabled)| Port { number, enabled })
}

fn statuses() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

prop_compose! {
    fn infos()(
        id in "[a-zA-Z0-9:._-]{1,30}",
        host_name in words(),
        app in "[A-Z0-9]([A-Z0-9._-]{0,20}[A-Z0-9])?",
        ip in (0..=255_u8, 0..=255_u8),
        (sid, coordinating) in (option::of("[a-m]{3}"), any::<bool>()),
        (status, country_id) in (statuses(), 0..9_i64),
        (mut port, secure_port) in (ports(), ports()),
        center in (words(), words(), pairs()),
        (renewal_secs, duration_secs) in (1..1000_u64, 1..1000_u64),
        metadata in pairs(),
        texts in btree_map(prop::sample::select(TEXTS.to_vec()), words(), 0..8),
        dirty_ms in option::of(1..2_000_000_000_000_u64),
    ) -> InstanceInfo {
        if port.number == 0 && secure_port.number == 0 {
            port.number = 80;
        }
        InstanceInfo {
            id: Some(id), host_name: Some(host_name), app: Some(app),
            ip_addr: Some(format!("10.0.{}.{}", ip.0, ip.1)), sid, status,
            overridden: Status::Unknown, port, secure_port, country_id,
            data_center: Some(DataCenter {
                class: center.0, name: Some(center.1), metadata: center.2,
            }),
            lease: Lease {
                renewal_secs, duration_secs, registered_ms: 0, renewed_ms: 0, evicted_ms: 0, up_ms: 0,
            },
            metadata, texts, coordinating, updated_ms: 7, dirty_ms, action: Action::Added,
        }
    }
}

/// What the registry would say of it at once.
fn registered(registration: Registration) -> Detail {
    let instance = Instance {
        id: registration.id,
        service: registration.service,
        address: registration.address,
        weight: registration.weight,
        health: registration.health,
        note: String::new(),
        tags: registration.tags,
        metadata: registration.metadata,
    };
    Detail {
        instance: Arc::new(instance),
        at: tokio::time::Instant::now().into_std(),
        source: registration.source,
        weight: registration.weight,
        warning_weight: registration.warning_weight,
        node_health: None,
        lease: registration.lease,
        expires_in: registration.lease,
        patient: registration.patient,
        own: Some(registration.health),
        maintenance: None,
        cared_for: true,
        forced: None,
        registered: Duration::ZERO,
        renewed: Duration::ZERO,
        changed: Duration::ZERO,
        up: None,
        checks: Vec::new(),
    }
}

/// Times are the server's and no part of what a client said.
fn without_times(mut info: InstanceInfo) -> InstanceInfo {
    info.lease = Lease {
        registered_ms: 0,
        renewed_ms: 0,
        up_ms: 0,
        ..info.lease
    };
    info.updated_ms = 0;
    info
}

proptest! {
    #[test]
    fn what_is_registered_is_shown_as_it_was(info in infos()) {
        let detail = registered(registration(&info).unwrap());
        prop_assert!(is_ours(&detail.instance));
        prop_assert_eq!(super::status(&detail.instance), info.status);
        let now = Now { ms: 9, anchor: (detail.at, 9) };
        let mut shown = super::info(&detail, &now);
        if info.dirty_ms.is_none() {
            shown.dirty_ms = None;
        }
        prop_assert_eq!(without_times(shown), without_times(info));
    }

    #[test]
    fn what_is_written_is_read_back(info in infos()) {
        for format in [Format::Json, Format::Xml] {
            let written = write(format, "instance", info.to_value(Shape { format, compact: false }));
            let document = parse(format, &written).unwrap();
            let read = InstanceInfo::from_document(format, &document).unwrap();
            prop_assert_eq!(&read, &info, "{}", String::from_utf8_lossy(&written));
        }
    }

    #[test]
    fn the_port_that_is_open_is_the_one_to_route_to(info in infos()) {
        let port = registration(&info).unwrap().address.port();
        let open = |port: Port| port.enabled && port.number != 0;
        if open(info.port) {
            prop_assert_eq!(port, info.port.number);
        } else if open(info.secure_port) {
            prop_assert_eq!(port, info.secure_port.number);
        }
    }
}

#[test]
fn the_hash_code_counts_statuses_in_the_order_of_their_names() {
    use crate::wire::hash_code;
    let up = std::iter::repeat_n(Status::Up, 41);
    let all = up.chain([Status::Down, Status::Starting, Status::OutOfService]);
    assert_eq!(hash_code(all), "DOWN_1_OUT_OF_SERVICE_1_STARTING_1_UP_41_");
    assert_eq!(hash_code(std::iter::empty()), "");
}
