//! What `atoll migrate eureka` tells: instances that it copies from a running Eureka.
//!
//! A copy is marked with where it comes from and lives by a lease that the migration
//! renews. Its client takes it over by registering here, which takes the mark away; from
//! then on the migration may neither change nor remove it and is told so with 409. To
//! get there a client's heartbeat of a copy is answered with 404, on which every client
//! of Eureka registers again. `copying.rs` is the other end.

use std::time::Duration;

use atoll_model::Instance;
use atoll_registry::Source;
use http::StatusCode;

use crate::answer::Answer;
use crate::changes::{Book, Named};
use crate::copying::LEASE;
use crate::translate::{self, COPIED_FROM, DURATION};
use crate::wire::{InstanceInfo, Status};

/// Who copies, and whether he only wants to know what would come of it.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) from: String,
    pub(crate) dry_run: bool,
}

/// Whether a migration told of an instance, and not its client.
pub(crate) fn is_copy(instance: &Instance) -> bool {
    instance.metadata.contains_key(COPIED_FROM)
}

impl Book {
    /// Registers a copy as its source has it, the override included, unless its client
    /// has come here.
    pub(crate) async fn copy(
        &self,
        migration: &Migration,
        info: &InstanceInfo,
    ) -> Result<(), Answer> {
        let mut registration = translate::registration(info)
            .map_err(|why| Answer::Said(StatusCode::BAD_REQUEST, why))?;
        let (service, id) = (registration.service.clone(), registration.id.clone());
        let named = Named { service, id };
        self.still_a_copy(&named)?;
        if migration.dry_run {
            return Ok(());
        }
        let said = Duration::from_secs(info.lease.duration_secs);
        if said < LEASE {
            let seconds = info.lease.duration_secs.to_string();
            registration.metadata.insert(DURATION.to_owned(), seconds);
        }
        registration.lease = Some(said.max(LEASE));
        // When the migration ends, all of them lapse at once, and are meant to.
        registration.patient = false;
        let from = migration.from.clone();
        registration.metadata.insert(COPIED_FROM.to_owned(), from);
        self.registry.register(registration).await?;
        let forced = (info.overridden != Status::Unknown).then_some(info.overridden);
        if self.detail(&named).await?.forced != forced.map(translate::health) {
            self.force(&named, forced).await?;
        }
        Ok(())
    }

    /// Renews a copy. 404: there is none; 409: it has switched.
    pub(crate) async fn renew_copy(&self, named: Option<&Named>) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        self.still_a_copy(named)?;
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry.renew(service, id).await?;
        Ok(())
    }

    /// Takes a copy away, unless its client has come here.
    pub(crate) async fn cancel_copy(
        &self,
        migration: &Migration,
        named: Option<&Named>,
    ) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        self.still_a_copy(named)?;
        if migration.dry_run {
            return Ok(());
        }
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry
            .deregister(service, id, Source::Client)
            .await?;
        Ok(())
    }

    /// A client that registers between this look and what follows is overwritten; its
    /// next heartbeat is then one of a copy, so that it registers once more.
    fn still_a_copy(&self, named: &Named) -> Result<(), Answer> {
        let known = self.registry.get(&named.service, &named.id);
        if known.is_some_and(|known| !is_copy(&known)) {
            let said = "it has registered with Atoll itself".to_owned();
            return Err(Answer::Said(StatusCode::CONFLICT, said));
        }
        Ok(())
    }
}
