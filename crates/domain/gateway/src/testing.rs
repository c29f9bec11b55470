//! Routes, catalogues and requests for this crate's tests.

use std::sync::Arc;

use atoll_model::{Address, Catalog, Health, Instance, Revision};

use crate::config::{
    Backend, Balance, Config, HeaderEdit, Match, PathMatch, Retry, Rewrite, Route, Segment,
    Timeouts,
};

/// A pattern as the config file writes it.
pub(crate) fn path_match(pattern: &str) -> PathMatch {
    let relative = pattern.strip_prefix('/').expect("begins with `/`");
    let words = relative.split('/').filter(|_| !relative.is_empty());
    let segments = words.map(|word| {
        match word
            .strip_prefix('{')
            .and_then(|word| word.strip_suffix('}'))
        {
            None => Segment::Literal(word.to_owned()),
            Some(name) => match name.strip_suffix('*') {
                None => Segment::Param(name.to_owned()),
                Some(name) => Segment::Rest(name.to_owned()),
            },
        }
    });
    PathMatch {
        pattern: pattern.to_owned(),
        segments: segments.collect(),
    }
}

/// A route of one pattern to one service, all else by default.
pub(crate) fn route_of(name: &str, pattern: &str, service: &str) -> Route {
    Route {
        name: name.to_owned(),
        hostnames: Vec::new(),
        matches: vec![Match {
            path: path_match(pattern),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        backends: vec![backend(service, 1)],
        balance: Balance::LeastRequest,
        rewrite: Rewrite::Keep,
        request_headers: HeaderEdit::default(),
        response_headers: HeaderEdit::default(),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        body_bytes_max: None,
        origin: format!("atoll.yaml:{name}"),
    }
}

pub(crate) fn backend(service: &str, weight: u32) -> Backend {
    Backend {
        service: service.parse().expect("a service's name"),
        weight,
    }
}

pub(crate) fn config_of(routes: Vec<Route>) -> Arc<Config> {
    Arc::new(Config {
        routes,
        ..Config::default()
    })
}

/// `service/id health[*weight]`, listening at a port of its own.
pub(crate) fn catalog(revision: u64, instances: &[&str]) -> Catalog {
    let mut catalog = Catalog {
        revision: Revision(revision),
        ..Catalog::default()
    };
    let mut services = std::collections::BTreeMap::<_, Vec<_>>::new();
    for line in instances {
        let (name, state) = line.split_once(' ').expect("a space");
        let (service, id) = name.split_once('/').expect("a slash");
        let (health, weight) = state.split_once('*').unwrap_or((state, "1"));
        let port = 1_000
            + id.bytes()
                .fold(0, |sum, byte| (sum * 7 + u16::from(byte)) % 50_000);
        let instance = Instance {
            id: id.parse().expect("an id"),
            service: service.parse().expect("a name"),
            address: Address::new("127.0.0.1", port).expect("an address"),
            weight: weight.parse().expect("a weight"),
            health: Health::from_word(health).expect("a health"),
            note: String::new(),
            tags: Vec::new(),
            metadata: Default::default(),
        };
        services
            .entry(instance.service.clone())
            .or_default()
            .push(Arc::new(instance));
    }
    for (service, list) in services {
        catalog.services.insert(service, list.into());
    }
    catalog
}
