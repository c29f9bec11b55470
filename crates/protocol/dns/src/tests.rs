//! Questions as bytes, answers as text: goldens, and what must hold for all.

mod properties;
mod sockets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_model::{Catalog, Health, Instance, Revision, ServiceName};
use atoll_runtime::{Clock, Random};
use domain::base::iana::{Class, Rtype};
use domain::base::message_builder::AdditionalBuilder;
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use tokio::sync::watch;

use crate::front::{Front, Step};
use crate::settings::Settings;
use crate::wire::Transport;

/// What stands in the goldens' catalogue: service, host and port, health, weight, tags.
const INSTANCES: &[(&str, &str, Health, u16, &str)] = &[
    ("web", "10.0.0.1:80", Health::Passing, 1, "blue v1.2"),
    ("web", "10.0.0.1:81", Health::Passing, 5, "green"),
    ("web", "10.0.0.2:80", Health::Warning, 1, "Blue"),
    ("web", "10.0.0.3:80", Health::Critical, 1, "blue"),
    ("web", "10.0.0.4:80", Health::Starting, 1, "blue"),
    ("web", "10.0.0.5:80", Health::Draining, 1, "blue"),
    ("web", "10.0.0.6:80", Health::Passing, 0, "blue"),
    ("six", "[2001:db8::1]:443", Health::Passing, 1, ""),
    ("both", "10.0.0.7:1", Health::Passing, 1, "udp"),
    ("both", "[2001:db8::7]:1", Health::Passing, 1, "udp"),
    ("sick", "10.0.0.8:1", Health::Critical, 1, ""),
    ("named", "db.example.com:5432", Health::Passing, 1, ""),
    ("alias", "web.service.consul:80", Health::Passing, 1, ""),
    ("loop", "loop.service.consul:80", Health::Passing, 1, ""),
    ("far", "web.service.far:80", Health::Passing, 1, ""),
    ("mixed", "db.example.com:1", Health::Passing, 1, ""),
    ("mixed", "10.0.0.9:1", Health::Passing, 1, ""),
    ("orders.v2", "10.0.1.1:80", Health::Passing, 1, "eu"),
];

fn catalog() -> Catalog {
    let mut services: BTreeMap<ServiceName, Vec<Arc<Instance>>> = BTreeMap::new();
    for (number, (service, address, health, weight, tags)) in INSTANCES.iter().enumerate() {
        let service: ServiceName = service.parse().unwrap();
        let instance = Instance {
            id: format!("i{number}").parse().unwrap(),
            service: service.clone(),
            address: address.parse().unwrap(),
            weight: *weight,
            health: *health,
            note: String::new(),
            tags: tags.split_whitespace().map(str::to_owned).collect(),
            metadata: BTreeMap::new(),
        };
        services
            .entry(service)
            .or_default()
            .push(Arc::new(instance));
    }
    let services = services.into_iter();
    Catalog {
        revision: Revision(1),
        services: services.map(|(name, list)| (name, list.into())).collect(),
    }
}

fn settings() -> Settings {
    Settings {
        domains: vec!["consul".parse().unwrap(), "x.atoll".parse().unwrap()],
        node: "host-1.lan".to_owned(),
        node_address: [192, 0, 2, 10].into(),
        node_meta: [("rack", "b7"), ("rfc1035-note", "as it is")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ttl: Duration::from_secs(5),
        ..Settings::default()
    }
}

fn front_of(settings: Settings, catalog: Catalog) -> Front {
    let (_, catalog) = watch::channel(Arc::new(catalog));
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    Front {
        settings,
        catalog,
        addresses: Default::default(),
        clock: Clock::starting_at(wall),
        queries: None,
    }
}

/// A question as a client sends it; `edns` is the datagram that it can take.
fn question(name: &str, qtype: Rtype, edns: Option<u16>) -> Vec<u8> {
    let name: Name<Vec<u8>> = name.parse().unwrap();
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut section = builder.question();
    section.push((&name, qtype, Class::IN)).unwrap();
    let mut section: AdditionalBuilder<Vec<u8>> = section.additional();
    if let Some(bytes) = edns {
        let opt = section.opt(|opt| {
            opt.set_udp_payload_size(bytes);
            Ok(())
        });
        opt.unwrap();
    }
    section.finish()
}

fn sent(front: &Front, packet: &[u8], transport: Transport, seed: u64) -> Option<Vec<u8>> {
    match front.handle(packet, transport, &mut Random::from_seed(seed)) {
        Step::Send(answer) => Some(answer),
        Step::Silent | Step::Ask(_) => None,
    }
}

/// An answer in a stable order: its code and flags, then its records by section.
fn shown(answer: &[u8]) -> String {
    let message = Message::from_octets(answer).unwrap();
    let header = message.header();
    let mut text = message.opt_rcode().to_string();
    let flags = [
        ("aa", header.aa()),
        ("tc", header.tc()),
        ("rd", header.rd()),
        ("ra", header.ra()),
    ];
    let set = flags.into_iter().filter(|(_, set)| *set);
    set.for_each(|(flag, _)| text.push_str(&format!(" {flag}")));
    let mut lines = Vec::new();
    for record in &message {
        let (record, section) = record.unwrap();
        if record.rtype() == Rtype::OPT {
            lines.push("additional OPT".to_owned());
            continue;
        }
        let record = record
            .to_any_record::<AllRecordData<_, _>>()
            .expect("a well-formed record");
        let section = format!("{section:?}").to_lowercase();
        lines.push(format!(
            "{section} {} {} {} {}",
            record.owner().to_string().to_lowercase(),
            record.ttl().as_secs(),
            record.rtype(),
            record.data()
        ));
    }
    lines.sort();
    for line in lines {
        text.push_str(&format!("\n  {line}"));
    }
    text
}

#[test]
fn questions_are_answered_as_the_goldens_say() {
    let front = front_of(settings(), catalog());
    let golden = include_str!("../tests/golden/answers.txt");
    let mut actual = String::new();
    for line in golden.lines() {
        if line.is_empty() || line.starts_with('#') {
            actual.push_str(&format!("{line}\n"));
        }
        let Some(asked) = line.strip_prefix("> ") else {
            continue;
        };
        let (name, qtype) = asked.rsplit_once(' ').unwrap();
        let packet = question(name, qtype.parse().unwrap(), None);
        let answer = match front.handle(&packet, Transport::Tcp, &mut Random::from_seed(1)) {
            Step::Send(answer) => shown(&answer),
            Step::Silent => "nothing".to_owned(),
            Step::Ask(_) => "forwarded".to_owned(),
        };
        actual.push_str(&format!("{line}\n{answer}\n"));
    }
    assert!(actual == golden, "{actual}");
}

#[test]
fn warnings_are_left_out_when_only_passing_ones_are_wanted() {
    let only = Settings {
        only_passing: true,
        ..settings()
    };
    let ask = question("web.service.consul", Rtype::A, None);
    let both = [(settings(), true), (only, false)];
    for (settings, named) in both {
        let answer = sent(&front_of(settings, catalog()), &ask, Transport::Udp, 1);
        assert_eq!(shown(&answer.unwrap()).contains("10.0.0.2"), named);
    }
}

#[test]
fn the_case_of_the_question_comes_back() {
    let front = front_of(settings(), catalog());
    let name = "wEb.SeRvIcE.dC1.CoNsUl";
    let answer = sent(&front, &question(name, Rtype::A, None), Transport::Udp, 1).unwrap();
    let message = Message::from_octets(&answer[..]).unwrap();
    assert_eq!(message.sole_question().unwrap().qname().to_string(), name);
    assert_eq!(message.header_counts().ancount(), 2);
}

#[test]
fn names_that_are_not_ours_go_to_recursors_when_there_are_some() {
    let with = Settings {
        recursors: vec![([192, 0, 2, 1], 53).into()],
        ..settings()
    };
    let front = front_of(with, catalog());
    let step = |packet: &[u8]| front.handle(packet, Transport::Udp, &mut Random::from_seed(1));
    for name in ["example.com", "9.0.0.127.in-addr.arpa", "consul.example"] {
        let packet = question(name, Rtype::PTR, None);
        assert!(matches!(step(&packet), Step::Ask(_)), "{name}");
        let mut unwanted = packet.clone();
        unwanted[2] &= !1; // RD
        assert!(matches!(step(&unwanted), Step::Send(_)), "{name}");
    }
    let ours = question("web.service.consul", Rtype::A, None);
    let Step::Send(answer) = step(&ours) else {
        panic!("ours are answered here");
    };
    assert!(shown(&answer).starts_with("NOERROR aa rd ra\n"));
}

#[test]
fn what_is_no_question_gets_an_error_or_nothing() {
    let front = front_of(settings(), catalog());
    let says = |packet: &[u8]| match sent(&front, packet, Transport::Udp, 1) {
        Some(answer) => shown(&answer).lines().next().unwrap().to_owned(),
        None => "nothing".to_owned(),
    };
    let good = question("web.service.consul", Rtype::A, Some(1232));
    assert_eq!(says(&good), "NOERROR aa rd");
    assert_eq!(says(&good[..11]), "nothing");
    assert_eq!(says(&good[..20]), "FORMERR rd");
    assert_eq!(says(&good[..good.len() - 3]), "FORMERR rd");
    let with = |change: fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        says(&packet)
    };
    assert_eq!(with(|p| p[2] |= 0x80), "nothing", "an answer");
    assert_eq!(with(|p| p[2] |= 5 << 3), "NOTIMP rd", "an update");
    assert_eq!(with(|p| p[5] = 2), "FORMERR rd", "two questions");
    assert_eq!(with(|p| p[5] = 0), "FORMERR rd", "none");
    assert_eq!(with(|p| p[12] = 0xc0), "FORMERR rd", "a pointer to itself");
    assert_eq!(
        with(|p| {
            let at = p.len() - 5;
            p[at] = 1
        }),
        "BADVERS rd"
    );
    let twice = |p: &mut Vec<u8>| {
        let opt = p[p.len() - 11..].to_vec();
        p.extend(opt);
        p[11] = 2;
    };
    assert_eq!(with(twice), "FORMERR rd", "two OPT records");
    let chaos = |p: &mut Vec<u8>| {
        let at = p.len() - 12;
        p[at] = 3;
    };
    assert_eq!(with(chaos), "REFUSED rd", "class CH");
    let transfer = question("consul", Rtype::AXFR, None);
    assert_eq!(says(&transfer), "REFUSED rd");
}

#[test]
fn any_bytes_may_be_a_packet() {
    // Guided mutations of a corpus run in `atoll/tests/fuzz.rs`.
    for (name, qtype) in [
        ("many.service.consul", Rtype::SRV),
        ("loop.service.consul", Rtype::A),
    ] {
        crate::fuzz_packet(&question(name, qtype, Some(4096)));
    }
}
