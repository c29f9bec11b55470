//! What must hold for every catalogue and every question.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::name::ToName;
use domain::rdata::{A, Srv};
use proptest::prelude::*;

use super::*;
use crate::name::{Asked, address_name, place};
use crate::settings::Domain;

/// A service `many` of so many instances.
fn many(count: u32) -> Catalog {
    let service: ServiceName = "many".parse().unwrap();
    let instances = (0..count).map(|number| {
        Arc::new(Instance {
            id: format!("i{number}").parse().unwrap(),
            service: service.clone(),
            address: format!("{}:80", Ipv4Addr::from_bits(0x0a00_0000 + number))
                .parse()
                .unwrap(),
            weight: 1,
            health: Health::Passing,
            note: String::new(),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
        })
    });
    Catalog {
        revision: Revision(1),
        services: [(service.clone(), instances.collect())].into(),
    }
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "[a-z0-9_-]{1,12}",
        1 => prop::sample::select(vec![
            "web", "both", "alias", "loop", "blue", "service", "node", "addr", "query", "dc1",
            "dc", "_web", "_tcp", "_udp", "host-1", "lan", "consul", "atoll", "arpa", "in-addr",
        ]).prop_map(str::to_owned),
    ]
}

fn any_qtype() -> impl Strategy<Value = Rtype> {
    prop_oneof![
        prop::sample::select(vec![
            Rtype::A,
            Rtype::AAAA,
            Rtype::SRV,
            Rtype::ANY,
            Rtype::SOA,
            Rtype::NS,
            Rtype::TXT,
            Rtype::PTR,
            Rtype::CNAME,
            Rtype::MX,
        ]),
        any::<u16>().prop_filter_map("OPT is no question", |number| {
            (number != 41).then(|| Rtype::from_int(number))
        }),
    ]
}

/// `text` with each letter's case taken from a bit of `bits`.
fn cased(text: &str, bits: u64) -> String {
    let each = text.chars().enumerate();
    each.map(|(at, c)| match bits >> (at % 64) & 1 {
        1 => c.to_ascii_uppercase(),
        _ => c,
    })
    .collect()
}

proptest! {
    #[test]
    fn an_address_written_as_a_name_is_read_as_that_address(ip in any_ip()) {
        let settings = settings();
        let domain: Domain = "x.atoll".parse().unwrap();
        let name = address_name(ip, &domain, "dc1").unwrap();
        let found = place(&name, Rtype::A, &settings).unwrap();
        prop_assert_eq!(found.asked, Asked::Address(ip));
        prop_assert_eq!(found.domain, &domain);
    }

    #[test]
    fn a_reverse_name_is_read_as_its_address(ip in any_ip()) {
        let name = Name::<Vec<u8>>::reverse_from_addr(ip).unwrap();
        let settings = settings();
        let found = place(&name, Rtype::PTR, &settings).unwrap();
        prop_assert_eq!(found.asked, Asked::Reverse(ip));
    }

    #[test]
    fn any_question_gets_a_well_formed_answer_whatever_its_case(
        labels in prop::collection::vec(any_label(), 0..6),
        ours in any::<bool>(),
        qtype in any_qtype(),
        bits in any::<u64>(),
        edns in prop::option::of(any::<u16>()),
    ) {
        let mut name = labels.join(".");
        if ours || name.is_empty() {
            name = format!("{name}.consul").trim_start_matches('.').to_owned();
        }
        let front = front_of(settings(), catalog());
        let lower = sent(&front, &question(&name, qtype, edns), Transport::Udp, 3).unwrap();
        let upper = question(&cased(&name, bits), qtype, edns);
        let upper = sent(&front, &upper, Transport::Udp, 3).unwrap();
        prop_assert_eq!(shown(&lower).to_lowercase(), shown(&upper).to_lowercase());
        prop_assert!(lower.len() <= edns.map_or(512, |bytes| usize::from(bytes).clamp(512, 4096)));
        // Those who may not be named are not, in whatever way one asks for a service.
        if name.contains("service") {
            for hidden in ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.8"] {
                prop_assert!(!shown(&lower).contains(hidden));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_between_records_and_told(
        count in 1_u32..600,
        srv in any::<bool>(),
        edns in prop::option::of(0_u16..6000),
        seed in any::<u64>(),
    ) {
        let front = front_of(settings(), many(count));
        let qtype = if srv { Rtype::SRV } else { Rtype::A };
        let ask = question("many.service.consul", qtype, edns);
        let cut = sent(&front, &ask, Transport::Udp, seed).unwrap();
        let whole = sent(&front, &ask, Transport::Tcp, seed).unwrap();
        let most = edns.map_or(512, |bytes| usize::from(bytes).clamp(512, 4096));
        prop_assert!(cut.len() <= most);
        let message = Message::from_octets(&cut[..]).unwrap();
        let told = u32::from(message.header_counts().ancount());
        prop_assert!(told > 0);
        prop_assert_eq!(message.header().tc(), told < count);
        // Only as much is left out as must be.
        if told < count {
            let one = if srv { 60 } else { 16 };
            prop_assert!(cut.len() + one > most, "{} of {}", cut.len(), most);
        }
        let whole = Message::from_octets(&whole[..]).unwrap();
        prop_assert!(!whole.header().tc());
        prop_assert_eq!(u32::from(whole.header_counts().ancount()), count);
        let answers = message.answer().unwrap();
        let distinct: BTreeSet<String> = match srv {
            true => answers
                .limit_to::<Srv<_>>()
                .map(|record| record.unwrap().data().target().to_vec().to_string())
                .collect(),
            false => answers
                .limit_to::<A>()
                .map(|record| record.unwrap().data().to_string())
                .collect(),
        };
        prop_assert_eq!(distinct.len(), told as usize);
    }
}

#[test]
fn every_instance_comes_first_about_as_often() {
    let front = front_of(settings(), many(10));
    let ask = question("many.service.consul", Rtype::A, None);
    let mut firsts: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..2000 {
        let answer = sent(&front, &ask, Transport::Udp, seed).unwrap();
        let message = Message::from_octets(&answer[..]).unwrap();
        let first = message.answer().unwrap().limit_to::<A>().next().unwrap();
        *firsts.entry(first.unwrap().data().to_string()).or_default() += 1;
    }
    assert_eq!(firsts.len(), 10);
    assert!(
        firsts.values().all(|&n| (120..280).contains(&n)),
        "{firsts:?}"
    );
}
