//! What a source says while it is followed, in the words of both kinds.

use atoll_consul::copying::{self as consul, Pair};
use atoll_eureka::copying as eureka;

use super::mirror::{Item, Key};

/// One thing that was seen at the source.
#[derive(Debug)]
pub(super) enum Seen {
    /// Everything that there is, of one service or of all.
    Whole {
        service: Option<String>,
        items: Vec<Item>,
    },
    /// What changed.
    Changes { put: Vec<Item>, gone: Vec<Key> },
    /// All keys.
    Keys(Vec<Pair>),
    /// It began anew and may not know yet what there is.
    Anew,
    /// It did not answer, or not as it should.
    Failed(anyhow::Error),
}

/// Messages of a source that may wait: little, so that a slow Atoll slows the questions.
pub(super) const SEEN_MAX: usize = 16;

pub(super) fn of_eureka(listed: eureka::Listed) -> Item {
    Item {
        key: Key {
            service: listed.app,
            id: listed.id,
            node: String::new(),
        },
        status: listed.status.to_owned(),
        address: listed.address,
        body: listed.body.to_string(),
    }
}

pub(super) fn of_consul(listed: consul::Listed) -> Item {
    Item {
        key: Key {
            service: listed.service,
            id: listed.id,
            node: listed.node,
        },
        status: listed.status.to_owned(),
        address: listed.address,
        body: listed.body.to_string(),
    }
}
