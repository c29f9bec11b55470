//! The door through which a fuzzer hands in any bytes as a packet.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::{Catalog, Health, Instance, Revision, ServiceName};
use atoll_runtime::{Clock, Random};
use domain::base::Message;
use tokio::sync::watch;

use crate::front::{Front, Step};
use crate::name::joined;
use crate::settings::Settings;
use crate::wire::{TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, addresses_behind, only_truncated};

/// Handles `bytes` as a packet from UDP and from TCP, and asserts what must hold
/// whatever they are: it does not panic; an answer is one to that packet, is well
/// formed, and is no longer than the transport allows. Takes them as a recursor's
/// answer, too.
///
/// # Panics
/// When one of these does not hold: a defect.
pub fn fuzz_packet(bytes: &[u8]) {
    if let Some(name) = joined(["web", "service", "consul"]) {
        addresses_behind(bytes, &name);
    }
    only_truncated(bytes);
    let (_publisher, catalog) = watch::channel(Arc::new(catalog()));
    let front = Front {
        settings: Settings {
            recursors: vec![([192, 0, 2, 1], 53).into()],
            ..Settings::default()
        },
        catalog,
        addresses: Default::default(),
        clock: Clock::system(),
        queries: None,
    };
    for (transport, most) in [
        (Transport::Udp, UDP_BYTES_MAX),
        (Transport::Tcp, TCP_BYTES_MAX),
    ] {
        let mut random = Random::from_seed(7);
        let Step::Send(answer) = front.handle(bytes, transport, &mut random) else {
            continue;
        };
        assert!(answer.len() <= most, "{} bytes", answer.len());
        assert_eq!(answer[..2], bytes[..2], "another number");
        let message = Message::from_octets(&answer[..]).expect("a header");
        assert!(message.header().qr(), "no answer");
        for record in &message {
            let (record, _) = record.expect("a record");
            let data = record.to_any_record::<domain::rdata::AllRecordData<_, _>>();
            assert!(data.is_ok(), "{data:?}");
        }
        if let (Ok(asked), Ok(told)) = (
            Message::from_slice(bytes).map(Message::sole_question),
            message.sole_question(),
        ) {
            assert_eq!(
                asked.map(|q| (q.qname().to_string(), q.qtype())),
                Ok((told.qname().to_string(), told.qtype())),
                "another question"
            );
        }
    }
}

/// A few services, one of them too large for a datagram.
fn catalog() -> Catalog {
    let instance = |service: &ServiceName, number: u8, host: &str| {
        Arc::new(Instance {
            id: format!("{service}-{number}").parse().expect("an id"),
            service: service.clone(),
            address: format!("{host}:80{number:02}").parse().expect("an address"),
            weight: 1,
            health: Health::Passing,
            note: String::new(),
            tags: vec!["blue".to_owned()],
            metadata: BTreeMap::new(),
        })
    };
    let mut all = Catalog {
        revision: Revision(1),
        ..Catalog::default()
    };
    for (name, hosts) in [
        ("web", vec!["10.0.0.1", "[2001:db8::1]"]),
        ("alias", vec!["web.service.consul"]),
        ("loop", vec!["loop.service.consul"]),
        ("a.b", vec!["example.com"]),
    ] {
        let service: ServiceName = name.parse().expect("a name");
        let instances = (0..)
            .zip(hosts)
            .map(|(n, host)| instance(&service, n, host));
        all.services.insert(service.clone(), instances.collect());
    }
    let many: ServiceName = "many".parse().expect("a name");
    let instances = (0..99).map(|n| instance(&many, n, &format!("10.1.0.{n}")));
    all.services.insert(many.clone(), instances.collect());
    all
}
