//! Being one of the processes that share a store: a key that hangs on a lease. While it
//! is there, what belongs to this process is cared for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_runtime::{Backoff, Random, Stop};
use atoll_store::{LeaseId, Op, Store, StoreError, Txn, Value};
use tracing::{info, warn};

use crate::state::shared::Member;
use crate::stored;

/// A process that is silent for this long is gone: Consul's default is 10 s as well
/// (serf's suspicion on a LAN, about).
const TTL: Duration = Duration::from_secs(10);
/// Between two signs of life; three may be lost.
const ALIVE_EVERY: Duration = Duration::from_millis(2_500);
/// Pauses after failures.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Membership {
    pub(crate) store: Store,
    pub(crate) name: Member,
    /// Its key.
    pub(crate) key: String,
    lease: Mutex<LeaseId>,
    /// Held while joining again: two leases would leave the key on the one that ends.
    joining: tokio::sync::Mutex<()>,
}

impl Membership {
    /// Joins under a new name: what a former life of this process owned is nobody's.
    pub(crate) async fn join(store: Store, random: &mut Random) -> Result<Arc<Self>, StoreError> {
        let name: Member = format!("{:016x}", random.bits()).into();
        let lease = store.grant(TTL).await?.id;
        let membership = Self {
            store,
            key: stored::member(&name),
            name,
            lease: Mutex::new(lease),
            joining: tokio::sync::Mutex::default(),
        };
        let txn = Txn::of([membership.sign_of_life()]);
        membership.store.commit(txn).await?;
        Ok(Arc::new(membership))
    }

    pub(crate) fn lease(&self) -> LeaseId {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes our key again, which changes nothing and makes a revision.
    pub(crate) fn sign_of_life(&self) -> Op {
        Op::put_leased(&self.key[..], Value::from(""), self.lease())
    }

    /// Joins again after this lease has ended: others may care by now for what was ours.
    pub(crate) async fn join_again(&self, ended: LeaseId) -> Result<(), StoreError> {
        let _one = self.joining.lock().await;
        if self.lease() != ended {
            return Ok(());
        }
        let lease = self.store.grant(TTL).await?.id;
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
        let txn = Txn::of([self.sign_of_life()]);
        self.store.commit(txn).await?;
        info!("joined the shared store again");
        Ok(())
    }

    /// Gives signs of life until told to stop.
    pub(crate) async fn live(self: Arc<Self>, stop: Stop) {
        let mut random = Random::from_entropy();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST, 0.2);
        let mut pause = ALIVE_EVERY;
        while stop.unless(tokio::time::sleep(pause)).await.is_some() {
            let lease = self.lease();
            let lives = match self.store.keep_alive(lease).await {
                Err(StoreError::LeaseNotFound(_)) => {
                    warn!("the shared store took this process for gone");
                    self.join_again(lease).await
                }
                lives => lives.map(drop),
            };
            pause = match lives {
                Ok(()) => {
                    backoff.reset();
                    ALIVE_EVERY
                }
                // That the store is away is said elsewhere.
                Err(_) => backoff.next(&mut random),
            };
        }
    }

    /// Leaves, so that others need not wait to care for what was ours.
    pub(crate) async fn leave(&self) {
        if let Err(error) = self.store.revoke(self.lease()).await {
            warn!(%error, "not signed off from the shared store: others notice in 10 s");
        }
    }
}
