//! Who asks, and what they may do: looked up anew each time, so that who waits for long
//! is judged by what holds when there is something to tell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use http::StatusCode;

use super::Acl;
use super::authority::Authority;
use super::rules::{Access, Resource};
use super::stored::ANONYMOUS;
use crate::wire::Refusal;

/// May do everything: ACLs are off.
static EVERYTHING: LazyLock<Arc<Authority>> = LazyLock::new(|| Arc::new(Authority::everything()));

/// Whoever sent a request.
pub(crate) struct Caller {
    acl: Option<Arc<Acl>>,
    secret: String,
    /// Whether something was left out because of what they may do.
    filtered: AtomicBool,
}

/// A token and what it may do at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) accessor: Arc<str>,
    pub(crate) authority: Arc<Authority>,
}

impl Caller {
    pub(crate) fn new(acl: Option<Arc<Acl>>, secret: &str) -> Self {
        Self {
            acl,
            secret: secret.to_owned(),
            filtered: AtomicBool::new(false),
        }
    }

    /// The token, as it is now.
    pub(crate) fn who(&self) -> Result<Who, Refusal> {
        match &self.acl {
            None => Ok(Who {
                accessor: "".into(),
                authority: Arc::clone(&EVERYTHING),
            }),
            Some(acl) => acl.who(&self.secret).ok_or_else(|| {
                // Consul's words, by which clients know it.
                Refusal::new(StatusCode::FORBIDDEN, "ACL not found")
            }),
        }
    }

    /// Remembers that something was left out.
    pub(crate) fn note_filtered(&self) {
        self.filtered.store(true, Ordering::Relaxed);
    }

    /// Whether something was left out.
    pub(crate) fn lacks_some(&self) -> bool {
        self.filtered.load(Ordering::Relaxed)
    }

    /// Whether to tell that something was left out. Who sends no token is not told, as
    /// in Consul: it would say that there is something.
    pub(crate) fn filtered(&self) -> bool {
        !self.secret.is_empty() && self.lacks_some()
    }
}

impl Who {
    /// Whether they show no token that anybody could not show.
    pub(crate) fn is_anonymous(&self) -> bool {
        *self.accessor == *ANONYMOUS
    }

    /// Refuses, in Consul's words, what they may not do.
    pub(crate) fn need(
        &self,
        resource: Resource,
        name: &str,
        access: Access,
    ) -> Result<(), Refusal> {
        match self.authority.allows(resource, name, access) {
            true => Ok(()),
            false => Err(self.lacks(resource, name, access)),
        }
    }

    pub(crate) fn need_read(&self, resource: Resource, name: &str) -> Result<(), Refusal> {
        self.need(resource, name, Access::Read)
    }

    pub(crate) fn need_write(&self, resource: Resource, name: &str) -> Result<(), Refusal> {
        self.need(resource, name, Access::Write)
    }

    /// Asked before something is looked up by an id: who may see nothing of its kind is
    /// not told whether there is one, nor whose it is.
    pub(crate) fn need_some(&self, resource: Resource) -> Result<(), Refusal> {
        match self.authority.reads_any(resource) {
            true => Ok(()),
            false => Err(self.lacks(resource, "", Access::Read)),
        }
    }

    /// That a right is lacking, as Consul says it (`PermissionDeniedError`).
    pub(crate) fn lacks(&self, resource: Resource, name: &str, access: Access) -> Refusal {
        let anonymous = self.is_anonymous();
        let token = match anonymous {
            true => "anonymous token".to_owned(),
            false => format!("token with AccessorID '{}'", self.accessor),
        };
        let mut text = format!(
            "Permission denied: {token} lacks permission '{}:{}'",
            resource.word(),
            access.word()
        );
        if !name.is_empty() {
            text.push_str(&format!(" on {name:?}"));
        }
        if anonymous {
            text.push_str(
                ". The anonymous token is used implicitly when a request does not specify a token.",
            );
        }
        Refusal::new(StatusCode::FORBIDDEN, text)
    }
}
