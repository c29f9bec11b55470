//! Access control lists: who may do what, as Consul has it since 1.4.
//!
//! Tokens, policies and roles stand in the store under `consul/acl/`. Each process keeps
//! all of them in memory, with the rules already read, and follows the store's changes
//! (`follow`), so that a request is decided without asking anybody. Look next at
//! `rules.rs` and `authority.rs` (what rules come to), `state.rs` (what is kept),
//! `permit.rs` (what each endpoint needs) and `shown.rs` (what is left out of answers).
//!
//! Secrets are kept as they are, as Consul does, which shows them to whoever has
//! `acl:write`; the folder of the store is nobody else's. They are looked up by a keyed
//! hash and then compared in a time that says nothing of them.

pub(crate) mod authority;
mod caller;
mod endpoints;
mod hcl;
mod paths;
mod permit;
mod policies;
mod roles;
pub(crate) mod rules;
mod shown;
mod state;
mod stored;
mod time;
mod tokens;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use atoll_model::Revision;
use atoll_net::guard::same_secret;
use atoll_runtime::Clock;
use atoll_store::{Op, Order, Span, Store, StoreError, Test, Txn};
use http::StatusCode;
use tokio::sync::watch;

pub(crate) use self::caller::{Caller, Who};
pub(crate) use self::endpoints::disabled;
pub(crate) use self::paths::AclPath;
pub(crate) use self::rules::{Access, Resource};
pub(crate) use self::shown::{left_out, sight};
use self::state::State;
use crate::wire::Refusal;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk;

/// Where all of it stands.
const ACL: &str = "consul/acl/";
/// Rewritten with each change: whoever changes anything says at which revision of it.
const MARK: &str = "consul/acl/mark";
/// That the first token was made.
const BOOTSTRAPPED: &str = "consul/acl/bootstrapped";
/// Tokens, by accessor.
const TOKENS: &str = "consul/acl/tokens/";
/// Policies, by id.
const POLICIES: &str = "consul/acl/policies/";
/// Roles, by id.
const ROLES: &str = "consul/acl/roles/";

/// Times that a change is tried while others change something, too.
const ATTEMPTS_MAX: usize = 64;
/// How long a change waits until this process has it in memory. It stands in the store
/// by then: who waits in vain is told so by the next answer only.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);

/// How access is controlled.
#[derive(Clone, PartialEq, Eq)]
pub struct AclSettings {
    /// Whether what no rule speaks of is allowed.
    pub default_allow: bool,
    /// A token that may do everything, from the start (Consul's `initial_management`).
    pub management: Option<String>,
}

impl std::fmt::Debug for AclSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AclSettings")
            .field("default_allow", &self.default_allow)
            .field("management", &self.management.as_ref().map(|_| "<hidden>"))
            .finish()
    }
}

/// All there is, kept current.
pub(crate) struct Acl {
    settings: AclSettings,
    datacenter: String,
    state: RwLock<State>,
    /// The revision up to which `state` has everything.
    seen: watch::Sender<Revision>,
    clock: Clock,
    store: Store,
}

impl Acl {
    /// Reads all there is.
    pub(crate) async fn open(
        settings: AclSettings,
        datacenter: &str,
        store: Store,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let snapshot = store.list(ACL).await?;
        let (default_allow, dc) = (settings.default_allow, datacenter);
        let state = State::of(default_allow, dc, &snapshot.items);
        Ok(Self {
            settings,
            datacenter: datacenter.to_owned(),
            state: RwLock::new(state),
            seen: watch::channel(snapshot.revision).0,
            clock,
            store,
        })
    }

    /// Takes in what changes in the store, whoever changes it. Ends only with an error,
    /// after which what was known goes on to count, as with Consul's `extend-cache`.
    pub(crate) async fn follow(&self) -> Result<(), StoreError> {
        loop {
            let snapshot = self.store.list(ACL).await?;
            let (default_allow, dc) = (self.settings.default_allow, &self.datacenter[..]);
            let state = State::of(default_allow, dc, &snapshot.items);
            *self.write() = state;
            self.seen.send_replace(snapshot.revision);
            let mut watch = self
                .store
                .watch(Span::prefix(ACL), snapshot.revision)
                .await?;
            loop {
                let changes = match watch.next().await {
                    Ok(changes) => changes,
                    Err(error) if error.wants_resync() => break,
                    Err(error) => return Err(error),
                };
                {
                    let mut state = self.write();
                    for event in changes.events.iter() {
                        state.apply(event.key.as_bytes(), event.after.as_deref());
                    }
                    state.index = state.index.max(changes.revision.0);
                }
                self.seen.send_replace(changes.revision);
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy where no rule speaks, as Consul's header has it.
    pub(crate) fn default_policy(&self) -> &'static str {
        match self.settings.default_allow {
            true => "allow",
            false => "deny",
        }
    }

    /// Who has this secret; of none, the anonymous token.
    fn who(&self, secret: &str) -> Option<Who> {
        let state = self.read();
        let management = self.settings.management.as_ref();
        if management.is_some_and(|known| same_secret(secret.as_bytes(), known.as_bytes())) {
            let (accessor, authority) = (stored::MANAGEMENT.into(), state.management());
            return Some(Who {
                accessor,
                authority,
            });
        }
        let token = match secret {
            "" | stored::ANONYMOUS_SECRET => state.anonymous(),
            secret => state.by_secret(secret, self.clock.wall_unix_ms())?,
        };
        Some(Who {
            accessor: token.accessor.clone(),
            authority: state.authority(token),
        })
    }

    /// Waits until the state has what was written at `revision`.
    async fn caught_up(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        let waiting = seen.wait_for(|seen| *seen >= revision);
        if tokio::time::timeout(CAUGHT_UP_WITHIN, waiting)
            .await
            .is_err()
        {
            tracing::warn!("what was changed of ACLs is stored, but not yet in force");
        }
    }

    /// Waits until the index of the state is another than `index`.
    async fn changed(&self, index: u64) {
        let mut seen = self.seen.subscribe();
        // The sender lives as long as we do.
        drop(seen.wait_for(|_| self.read().index != index).await);
    }

    /// Changes something: `make` looks at all there is and says what to write, which is
    /// written if nothing has changed meanwhile, here or elsewhere.
    async fn change<T>(
        &self,
        make: impl Fn(&State) -> Result<(Vec<Op>, T), Refusal>,
    ) -> Result<(T, u64), Refusal> {
        for _ in 0..ATTEMPTS_MAX {
            let mark = self.store.get(MARK).await?;
            let at = mark.map_or(Revision(0), |mark| mark.mod_revision);
            self.caught_up(at).await;
            let (mut ops, made) = make(&self.read())?;
            ops.push(Op::put(MARK, ""));
            let txn = Txn::of(ops).when(MARK, Test::ModRevision(Order::Equal, at));
            let reply = self.store.commit(txn).await?;
            if reply.held {
                self.caught_up(reply.revision).await;
                return Ok((made, reply.revision.0));
            }
        }
        let text = "ACLs are changed by too many at once; try again";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text))
    }
}
