//! Sessions that stand on checks: they end when one of these becomes critical or is gone
//! (reference: Consul's documentation, "Sessions").
//!
//! One task keeps the sessions in mind that stand on more than `serfHealth`, which is
//! always passing, and looks at their checks whenever the catalogue changes. There are few
//! of them; without one a change costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_model::Catalog;
use atoll_store::{Span, StoreError};
use serde_json::Value;
use tokio::sync::watch;
use tracing::info;

use crate::keys::SESSIONS;
use crate::server::Front;
use crate::sessions::id_of;
use crate::stored::{self, Session};
use crate::translate;
use crate::wire::Refusal;

const SERF: &str = "serfHealth";

impl Session {
    fn stands_on_checks(&self) -> bool {
        !self.service_checks.is_empty() || self.node_checks.iter().any(|check| check != SERF)
    }
}

impl Front {
    /// Why a session can not be, in Consul's words; none if it can.
    pub(crate) async fn unfit(&self, session: &Session) -> Result<Option<String>, Refusal> {
        let mut node_checks = session.node_checks.iter().filter(|check| *check != SERF);
        let mut standing = Vec::new();
        if session.node_checks.iter().any(|check| check != SERF) {
            let nodes = self.nodes().await?;
            let mut all = self.all_node_checks(&nodes).await?;
            standing = all.remove(&session.node).unwrap_or_default();
        }
        if let Some(reason) = node_checks.find_map(|check| unfit(check, &standing)) {
            return Ok(Some(reason));
        }
        for check in &session.service_checks {
            let standing = self.service_check(check, &session.node).await?;
            if let Some(reason) = unfit(check, &standing) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// The checks of those instances on a node that have one of this id.
    async fn service_check(&self, check: &str, node: &str) -> Result<Vec<Value>, Refusal> {
        self.view.caught_up(self.registry.current().revision).await;
        let nodes = self.nodes().await?;
        let mut all = Vec::new();
        for (service, id) in self.view.find_check(check) {
            let Ok(detail) = self.registry.detail(service, id).await else {
                continue;
            };
            if self.node_of(&nodes, &detail.instance).name == node {
                all.extend(translate::checks(&detail, node, (0, 0)));
            }
        }
        Ok(all)
    }

    /// Ends sessions whose checks have become critical. Ends itself only with an error.
    pub(crate) async fn watch_session_checks(
        &self,
        mut catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Result<(), Refusal> {
        loop {
            let sessions = self.store.list(SESSIONS).await?;
            let mut standing = BTreeMap::new();
            for kept in &sessions.items {
                remember(&mut standing, id_of(&kept.key), Some(&kept.value));
            }
            let mut watch = self
                .store
                .watch(Span::prefix(SESSIONS), sessions.revision)
                .await?;
            loop {
                catalog.mark_unchanged();
                self.end_unfit(&standing).await?;
                tokio::select! {
                    changes = watch.next() => match changes {
                        Ok(changes) => for event in changes.events.iter() {
                            let after = event.after.as_ref().map(|after| &after.value);
                            remember(&mut standing, id_of(&event.key), after);
                        },
                        Err(StoreError::Lagged { .. } | StoreError::Compacted { .. }) => break,
                        Err(error) => return Err(error.into()),
                    },
                    changed = catalog.changed() => if changed.is_err() {
                        return Ok(());
                    },
                }
            }
        }
    }

    async fn end_unfit(&self, standing: &BTreeMap<String, Session>) -> Result<(), Refusal> {
        for (id, session) in standing {
            let Some(reason) = self.unfit(session).await? else {
                continue;
            };
            if let Some(kept) = self.store.get(format!("{SESSIONS}{id}")).await? {
                info!(session = id, reason, "session ended with its check");
                self.end(&kept).await?;
            }
        }
        Ok(())
    }
}

fn remember(standing: &mut BTreeMap<String, Session>, id: String, kept: Option<&impl AsRef<[u8]>>) {
    let session: Option<Session> = kept.and_then(|kept| stored::read(kept.as_ref()));
    match session.filter(Session::stands_on_checks) {
        Some(session) => drop(standing.insert(id, session)),
        None => drop(standing.remove(&id)),
    }
}

fn unfit(check: &str, standing: &[Value]) -> Option<String> {
    match standing.iter().find(|known| known["CheckID"] == check) {
        None => Some(format!("Missing check '{check}' registration")),
        Some(known) if known["Status"] == "critical" => {
            Some(format!("Check '{check}' is in critical state"))
        }
        Some(_) => None,
    }
}
