//! What a client, or a peer in its name, may do to an instance.

use std::time::{Instant, UNIX_EPOCH};

use atoll_model::{Health, InstanceId, ServiceName};
use atoll_registry::{Detail, Registry, RegistryError, Source, Word};
use atoll_runtime::Clock;
use http::StatusCode;

use crate::answer::Answer;
use crate::copies::is_copy;
use crate::translate::{self, Now};
use crate::wire::{InstanceInfo, Status};

/// The registry and the time: all that the endpoints stand on.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    /// The same moment on both clocks, so that times are told as the same number each
    /// time they are told.
    epoch: (Instant, u64),
}

/// Further apart than this, somebody has set the clock: it is believed.
const CLOCK_SET_MS: u64 = 2_000;

fn wall_ms(clock: &Clock) -> u64 {
    let since = clock.wall().duration_since(UNIX_EPOCH);
    let ms = since.map_or(0, |since| since.as_millis());
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// One instance as it is named in a path.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) service: ServiceName,
    pub(crate) id: InstanceId,
}

impl Named {
    /// `None` when nothing can be called so: then it is not there either.
    pub(crate) fn new(app: &str, id: &str) -> Option<Self> {
        Some(Self {
            service: app.parse().ok()?,
            id: id.parse().ok()?,
        })
    }
}

impl Book {
    pub(crate) fn new(registry: Registry, clock: Clock) -> Self {
        let epoch = (clock.now(), wall_ms(&clock));
        Self {
            registry,
            clock,
            epoch,
        }
    }

    pub(crate) fn now(&self) -> Now {
        let (ms, instant) = (wall_ms(&self.clock), self.clock.now());
        let (began, began_ms) = self.epoch;
        let passed = instant.saturating_duration_since(began).as_millis();
        let expected = began_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let anchor = if ms.abs_diff(expected) < CLOCK_SET_MS {
            self.epoch
        } else {
            (instant, ms)
        };
        Now { ms, anchor }
    }

    pub(crate) async fn detail(&self, named: &Named) -> Result<Detail, RegistryError> {
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry.detail(service, id).await
    }

    /// Registers an instance, or registers it again.
    pub(crate) async fn register(&self, info: &InstanceInfo) -> Result<(), Answer> {
        let registration = translate::registration(info)
            .map_err(|why| Answer::Said(StatusCode::BAD_REQUEST, why))?;
        let (service, id) = (registration.service.clone(), registration.id.clone());
        if let Some(known) = self.registry.get(&service, &id)
            && !is_copy(&known)
            && let (Some(known), Some(given)) = (translate::dirty_ms(&known), info.dirty_ms)
            && known > given
        {
            // Something older than what is known: that stays, and lives on
            // (`AbstractInstanceRegistry.register`).
            self.registry.renew(service, id).await?;
            return Ok(());
        }
        self.registry.register(registration).await?;
        if info.overridden != Status::Unknown {
            let named = Named { service, id };
            self.adopt_override(&named, info.overridden).await?;
        }
        Ok(())
    }

    /// Takes over an override that a client or a peer tells of, unless there is one.
    pub(crate) async fn adopt_override(
        &self,
        named: &Named,
        told: Status,
    ) -> Result<(), RegistryError> {
        if self.detail(named).await?.forced.is_none() {
            self.force(named, Some(told)).await?;
        }
        Ok(())
    }

    /// Renews a lease. `Ok` has the status, and for a peer whose view is old the
    /// instance as it is.
    pub(crate) async fn heartbeat(
        &self,
        named: Option<&Named>,
        dirty_ms: Option<u64>,
        by_peer: bool,
    ) -> Result<Option<InstanceInfo>, Answer> {
        let again = Answer::Bare(StatusCode::NOT_FOUND);
        let Some(named) = named else {
            return Err(again);
        };
        if !by_peer
            && let Some(known) = self.registry.get(&named.service, &named.id)
            && is_copy(&known)
        {
            // Its client has come here: it takes the copy over by registering.
            return Err(again);
        }
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry.renew(service, id).await?;
        let Some(known) = self.registry.get(&named.service, &named.id) else {
            return Err(again);
        };
        if translate::status(&known) == Status::Unknown {
            return Err(again);
        }
        let (Some(given), Some(kept)) = (dirty_ms, translate::dirty_ms(&known)) else {
            return Ok(None);
        };
        if given > kept {
            // It has changed and we have not been told how
            // (`InstanceResource.validateDirtyTimestamp`).
            return Err(again);
        }
        if given < kept && by_peer {
            let detail = self.detail(named).await?;
            return Ok(Some(translate::info(&detail, &self.now())));
        }
        Ok(None)
    }

    /// Takes an instance away.
    pub(crate) async fn cancel(&self, named: Option<&Named>) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry
            .deregister(service, id, Source::Client)
            .await?;
        Ok(())
    }

    /// Overrides a status; it also renews.
    pub(crate) async fn override_status(
        &self,
        named: Option<&Named>,
        wanted: Option<&str>,
    ) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        self.detail(named).await?;
        let wanted = wanted.and_then(Status::from_word).ok_or_else(|| {
            let said = "value: UP, DOWN, STARTING, OUT_OF_SERVICE or UNKNOWN".to_owned();
            Answer::Said(StatusCode::INTERNAL_SERVER_ERROR, said)
        })?;
        // UNKNOWN is how the protocol says that nothing is overridden.
        let forced = (wanted != Status::Unknown).then_some(wanted);
        self.force(named, forced).await?;
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry.renew(service, id).await?;
        Ok(())
    }

    /// Takes an override back; `next` is what the instance is to be from then on.
    pub(crate) async fn remove_override(
        &self,
        named: Option<&Named>,
        next: Option<&str>,
    ) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        let detail = self.detail(named).await?;
        let next = match next.filter(|word| !word.is_empty()) {
            None => Status::Unknown,
            Some(word) => Status::from_word(word).ok_or_else(|| {
                let said = format!("value: `{word}` is no status");
                Answer::Said(StatusCode::INTERNAL_SERVER_ERROR, said)
            })?,
        };
        self.force(named, None).await?;
        let (service, id) = (named.service.clone(), named.id.clone());
        // Where checks tell how it is, nobody else's word may stay in their way.
        if next != Status::Unknown && detail.checks.is_empty() {
            let word = Word::Own {
                health: translate::health(next),
                note: String::new(),
            };
            self.registry
                .report_health(service.clone(), id.clone(), word)
                .await?;
        }
        self.registry.renew(service, id).await?;
        Ok(())
    }

    /// Adds to the metadata of an instance that was registered here.
    pub(crate) async fn add_metadata(
        &self,
        named: Option<&Named>,
        pairs: &[(String, String)],
    ) -> Result<(), Answer> {
        let named = named.ok_or(Answer::Bare(StatusCode::NOT_FOUND))?;
        let detail = self.detail(named).await?;
        if !translate::is_ours(&detail.instance) {
            let said = "registered by other means than Eureka: change it there".to_owned();
            return Err(Answer::Said(StatusCode::CONFLICT, said));
        }
        let now = self.now();
        let mut info = translate::info(&detail, &now);
        for (at, (key, value)) in pairs.iter().enumerate() {
            let first = !pairs[..at].iter().any(|(before, _)| before == key);
            if first {
                info.metadata.insert(key.clone(), value.clone());
            }
        }
        // What is forced on it is not its own word; that is not told here, so an
        // instance under an override keeps what it registered with.
        let mut registration = translate::registration(&info)
            .map_err(|why| Answer::Said(StatusCode::BAD_REQUEST, why))?;
        if detail.forced.is_some() {
            registration.health = detail.own.unwrap_or(Health::Passing);
        }
        self.registry.register(registration).await?;
        Ok(())
    }

    pub(crate) async fn force(
        &self,
        named: &Named,
        status: Option<Status>,
    ) -> Result<(), RegistryError> {
        let word = Word::Forced(status.map(translate::health));
        let (service, id) = (named.service.clone(), named.id.clone());
        self.registry.report_health(service, id, word).await?;
        Ok(())
    }
}
