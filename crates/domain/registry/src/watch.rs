//! Following the catalogue change by change, with an explicit beginning when
//! changes were missed.

use std::sync::Arc;

use atoll_model::{Catalog, Revision};

use crate::{Change, Registry, RegistryError};

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Forget what you know: this is everything.
    Resync(Arc<Catalog>),
    /// What changed since the last event.
    Changes {
        /// The catalogue's revision after them.
        revision: Revision,
        /// In the order of their revisions; several of one instance may follow.
        changes: Vec<Change>,
    },
}

/// A watcher of the catalogue; made by [`Registry::watch`].
#[derive(Debug)]
pub struct Watch {
    registry: Registry,
    seen: Revision,
    /// Nothing was told yet.
    fresh: bool,
}

impl Watch {
    pub(crate) fn new(registry: Registry, seen: Revision) -> Self {
        Self {
            registry,
            seen,
            fresh: true,
        }
    }

    /// Waits for the next event. Dropping the future loses nothing. A watcher that
    /// comes seldom gets the changes of many revisions at once.
    ///
    /// # Errors
    /// [`RegistryError::Closed`] when the registry stops.
    pub async fn next(&mut self) -> Result<WatchEvent, RegistryError> {
        loop {
            // A revision from the future is of another life: say so, do not wait. Who
            // knows nothing is told everything at once, be it nothing.
            let current = self.registry.current().revision;
            let behind = self.fresh && (self.seen != current || self.seen == Revision(0));
            if !behind {
                self.registry.wait_for(Revision(self.seen.0 + 1)).await?;
            }
            let (changes, catalog) = match self.seen {
                Revision(0) => (None, self.registry.current()),
                seen => self.registry.changes(seen).await?,
            };
            self.fresh = false;
            self.seen = catalog.revision;
            match changes {
                None => return Ok(WatchEvent::Resync(catalog)),
                Some(changes) if changes.is_empty() => {}
                Some(changes) => {
                    return Ok(WatchEvent::Changes {
                        revision: catalog.revision,
                        changes,
                    });
                }
            }
        }
    }
}
