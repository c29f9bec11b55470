//! What a Consul without mesh answers to those who look for one: nothing is
//! Connect-capable, and no gateway stands before any service.

use http::Method;
use serde_json::Value;

use crate::catalog::named;
use crate::server::{Answer, Asked, Front};
use crate::view::Topic;
use crate::wire::{Refusal, Reply};

/// Lists that are always empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Empty {
    /// The service, or the gateway, whose list it is.
    of: String,
}

impl Empty {
    pub(crate) fn find(parts: &[&str]) -> Option<Self> {
        let of = match parts {
            ["catalog", "connect" | "gateway-services", of]
            | ["health", "connect" | "ingress", of]
            | [
                "internal",
                "ui",
                "gateway-services-nodes" | "gateway-intentions",
                of,
            ] => of,
            _ => return None,
        };
        let of = (*of).to_owned();
        Some(Self { of })
    }

    pub(crate) fn methods(&self) -> &'static [Method] {
        &[Method::GET]
    }
}

impl Front {
    /// Blocks as the service itself does, so that nobody asks again and again.
    pub(crate) async fn nothing(&self, list: Empty, asked: &Asked) -> Result<Answer, Refusal> {
        if list.of.is_empty() {
            return Err(Refusal::bad("Missing service name"));
        }
        let index = match named(&list.of) {
            Some(service) => self.settled(Topic::Service(service), asked).await,
            None => 1,
        };
        Ok(Answer::at(index, Reply::json(Vec::<Value>::new())))
    }
}
