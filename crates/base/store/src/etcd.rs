//! The store on etcd: any number of Atoll processes with one set of keys.
//!
//! Every key stands behind a prefix, so that others may use the same etcd. Reads are
//! linearizable. One watch of the whole prefix feeds all watches of this process
//! (`feed`); a second task looks each second whether etcd can be had, which
//! [`Store::standing`] tells, and while it cannot calls fail at once; but what is
//! mirrored ([`Options::mirrored`]) is read as it was last. Start with
//! [`open`]; `client` knows how etcd is asked and what a failure means, `names` how
//! our words become etcd's.
//!
//! The client is tonic with messages written by hand (`wire`) and not the crate
//! etcd-client, which would want protoc on every machine that builds Atoll, and has
//! neither what is known of a failed call nor watches that go on after a break: what
//! is most of this module.
//!
//! What is etcd's and not the embedded store's: a lease lives for whole seconds and
//! at least for etcd's minimum; [`Store::leases`] lists those of the whole cluster,
//! since etcd does not know whose they are; [`Store::compact`] drops the history of
//! the whole cluster; history is dropped only by that and by etcd's own
//! `--auto-compaction-retention`, and a watch may still tell some that others have
//! dropped; in history that is dropped while it is read, an event may lack what was
//! before it.

mod client;
mod cursor;
mod feed;
mod fill;
mod follow;
mod mirror;
mod names;
mod options;
mod read;
mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random, Tasks};
use tokio::sync::watch;
use tonic::Code;
use tracing::warn;

use self::client::{Client, Failure, TOO_LARGE};
use self::cursor::Cursor;
use self::feed::Feed;
use self::fill::Filler;
use self::follow::{Follower, Prober};
use self::mirror::{MIRROR_BYTES_MAX, Mirror};
use self::names::{Prefix, header_revision, lease_id, lease_number, seconds, signed};
pub use self::options::{Address, Login, Options, Tls};
use crate::{
    Answer, Backend, Lease, LeaseId, LeaseState, Op, REQUEST_BYTES_MAX, Range, Snapshot, Span,
    Standing, Store, StoreError, Txn, TxnReply, Watch,
};

/// How long [`open`] waits for etcd, which may be starting beside us.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Pauses meanwhile.
const OPEN_PAUSE_FIRST: Duration = Duration::from_millis(100);
const OPEN_PAUSE_MOST: Duration = Duration::from_secs(1);

/// etcd's longest lease: 9,000,000,000 s (`lease.MaxLeaseTTL`).
const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);

/// Opens the store on etcd. Runs until `tasks` stop.
///
/// # Errors
/// [`StoreError::Open`] for files that cannot be used, [`StoreError::Denied`], and
/// [`StoreError::Unavailable`] when no endpoint answers within ten seconds.
pub async fn open(options: Options, tasks: &Tasks) -> Result<Store, StoreError> {
    let tasks = tasks.group("store");
    let client = Client {
        endpoints: options::endpoints(&options, &tasks).await?,
        current: watch::Sender::new(0),
        login: options.login,
        token: tokio::sync::Mutex::default(),
        standing: watch::Sender::new(Standing::Ready),
        prefix: Prefix::new(&options.prefix),
        stop: tasks.stop_signal(),
    };
    let client = Arc::new(client);
    let at = first_answer(&client).await?;
    let mirrors = options.mirrored.into_iter();
    let mirrors = mirrors.map(|prefix| Mirror::new(prefix, MIRROR_BYTES_MAX));
    let feed = Arc::new(Feed::new(at, mirrors.collect()));
    let stands = watch::Sender::new(false);
    let mut standing = stands.subscribe();
    let prober = Prober {
        client: Arc::clone(&client),
        stands: stands.subscribe(),
        clock: tasks.clock().clone(),
    };
    let follower = Follower {
        client: Arc::clone(&client),
        feed: Arc::clone(&feed),
        stands,
    };
    // Their ends are what the group waits for; there are no results.
    drop(tasks.once("follow", follower.run(tasks.stop_signal())));
    let watching = tokio::time::timeout(OPEN_WAIT, standing.wait_for(|stands| *stands));
    if !matches!(watching.await, Ok(Ok(_))) {
        // Nothing of a store that could not be opened goes on.
        tasks.stop(OPEN_WAIT).await.ok();
        let why = "etcd answers, but opens no watch; see the log";
        return Err(StoreError::Unavailable(why.to_owned()));
    }
    drop(tasks.once("probe", prober.run(tasks.stop_signal())));
    let filler = Filler {
        client: Arc::clone(&client),
        feed: Arc::clone(&feed),
        filled: watch::Sender::new(false),
    };
    let mut filled = filler.filled.subscribe();
    drop(tasks.once("mirror", filler.run(tasks.stop_signal())));
    let filling = tokio::time::timeout(OPEN_WAIT, filled.wait_for(|filled| *filled));
    if !matches!(filling.await, Ok(Ok(_))) {
        // It goes on; who reads from etcd does not need it.
        warn!("not all keys could be read in time that are shown while etcd is away");
    }
    Ok(Store::new(Etcd { client, feed }))
}

/// The revision, once etcd answers.
async fn first_answer(client: &Client) -> Result<Revision, StoreError> {
    let mut pauses = Backoff::new(OPEN_PAUSE_FIRST, OPEN_PAUSE_MOST, 0.2);
    let mut random = Random::from_entropy();
    let until = tokio::time::Instant::now() + OPEN_WAIT;
    loop {
        let failure = match client.probe().await {
            Ok(revision) => return Ok(revision),
            Err(failure) => failure,
        };
        if let Failure::Refused(..) = failure {
            return Err(refused(failure));
        }
        let pause = pauses.next(&mut random);
        if tokio::time::Instant::now() + pause >= until {
            return Err(StoreError::Unavailable(format!(
                "etcd did not answer within {} s ({}); start it, or correct the addresses",
                OPEN_WAIT.as_secs(),
                refusal(&failure)
            )));
        }
        if client
            .stop
            .unless(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Err(StoreError::Closed);
        }
    }
}

struct Etcd {
    client: Arc<Client>,
    feed: Arc<Feed>,
}

/// What a failure says to a person.
fn refusal(failure: &Failure) -> String {
    match failure {
        Failure::Refused(_, why) | Failure::Away(why) => why.clone(),
        Failure::Unsure { endpoint, why } => format!("{endpoint}: {why}"),
        Failure::TooLong => "an answer was longer than is read".to_owned(),
    }
}

/// A failure that is not special to one call. The texts are etcd's
/// (`api/v3rpc/rpctypes/error.go`): its codes are too coarse.
fn refused(failure: Failure) -> StoreError {
    match failure {
        Failure::Refused(code, why) => match code {
            Code::PermissionDenied | Code::Unauthenticated => StoreError::Denied(why),
            Code::ResourceExhausted => StoreError::Full(why),
            _ if why.contains("authentication failed")
                || why.contains("user name is empty")
                || why.contains("user name not found")
                || why.contains("revision of auth store") =>
            {
                StoreError::Denied(why)
            }
            _ => StoreError::Unavailable(why),
        },
        Failure::Unsure { endpoint, why } => StoreError::Uncertain {
            what: format!("etcd at {endpoint}"),
            detail: why,
        },
        failure @ (Failure::Away(_) | Failure::TooLong) => {
            StoreError::Unavailable(refusal(&failure))
        }
    }
}

fn says(failure: &Failure, text: &str) -> bool {
    matches!(failure, Failure::Refused(_, why) if why.contains(text))
}

fn is_no_lease(failure: &Failure) -> bool {
    says(failure, "lease not found")
}

impl Etcd {
    async fn commit_txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.client.check_open()?;
        txn.check()?;
        let puts = || txn.then.iter().chain(&txn.otherwise);
        let leases = || {
            puts().filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete(_) | Op::Get(_) => None,
            })
        };
        // To etcd it means none.
        if let Some(none) = leases().find(|lease| lease.0 == 0) {
            return Err(StoreError::LeaseNotFound(none));
        }
        let failure = match self.client.call(self.client.prefix.txn(&txn)).await {
            Ok(answer) => return self.client.prefix.txn_reply(&answer),
            Err(failure) => failure,
        };
        if says(&failure, TOO_LARGE) {
            // With the prefix and what is put around it, it is above the limit.
            let bytes = REQUEST_BYTES_MAX + 1;
            return Err(StoreError::TooLarge { bytes });
        }
        if is_no_lease(&failure) {
            // etcd does not say which.
            for lease in leases() {
                if let Err(error @ StoreError::LeaseNotFound(_)) = self.lease_state(lease).await {
                    return Err(error);
                }
            }
        }
        Err(refused(failure))
    }

    /// From etcd; while it is away, or as soon as it is while we ask, from the mirror.
    /// Never from that while it counts as there: nobody would know.
    async fn read_or_recall(&self, range: &Range) -> Result<Snapshot, StoreError> {
        let reading = self.client.read_range(range);
        if range.at.is_some() || !self.feed.mirrors(&range.span) {
            return reading.await;
        }
        let mut standing = self.client.standing.subscribe();
        let mut away = async || {
            let away = standing.wait_for(|standing| *standing != Standing::Ready);
            match &*away.await.ok()? {
                Standing::Away { why, .. } => Some(why.clone()),
                Standing::Ready => None,
            }
        };
        tokio::select! {
            // It knows as well when etcd is away, and whether the store is open.
            biased;
            read = reading => match read {
                Err(StoreError::Unavailable(why)) if self.is_away() => self.recall(range, why),
                read => read,
            },
            Some(why) = away() => self.recall(range, why),
        }
    }

    fn is_away(&self) -> bool {
        *self.client.standing.borrow() != Standing::Ready
    }

    fn recall(&self, range: &Range, why: String) -> Result<Snapshot, StoreError> {
        let recalled = self.feed.recall(range);
        recalled.ok_or(StoreError::Unavailable(why))
    }

    async fn compact_to(&self, to: Revision) -> Result<(), StoreError> {
        self.client.check_open()?;
        let call = wire::CompactionRequest {
            revision: signed(to.0),
        };
        match self.client.call(call).await {
            Ok(wire::CompactionResponse {}) => {
                self.feed.note_compacted(to);
                Ok(())
            }
            Err(failure) if says(&failure, "has been compacted") => {
                Err(self.client.compacted(to).await)
            }
            Err(failure) if says(&failure, "is a future revision") => {
                Err(StoreError::FutureRevision {
                    asked: to,
                    current: self.client.revision().await?,
                })
            }
            Err(failure) => Err(refused(failure)),
        }
    }

    async fn lease_state(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.client.check_open()?;
        let call = wire::LeaseTimeToLiveRequest {
            id: lease_number(lease),
            keys: true,
        };
        let answer = match self.client.call(call).await {
            Err(failure) if is_no_lease(&failure) => return Err(StoreError::LeaseNotFound(lease)),
            answer => answer.map_err(refused)?,
        };
        // -1 is none; at 0 it is ending, and a keep-alive would come too late.
        if answer.ttl <= 0 {
            return Err(StoreError::LeaseNotFound(lease));
        }
        let keys = answer.keys.iter();
        let mut keys: Vec<_> = keys
            .filter_map(|key| self.client.prefix.without(key))
            .collect();
        keys.sort();
        Ok(LeaseState {
            lease: Lease {
                id: lease,
                ttl: seconds(answer.granted_ttl),
            },
            remaining: seconds(answer.ttl),
            keys,
        })
    }

    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        self.client.check_open()?;
        let ask = wire::LeaseKeepAliveRequest {
            id: lease_number(lease),
        };
        let answer = self.client.call_stream(wire::KEEP_ALIVE_PATH, ask).await;
        let answer: wire::LeaseKeepAliveResponse = match answer {
            Err(failure) if is_no_lease(&failure) => return Err(StoreError::LeaseNotFound(lease)),
            answer => answer.map_err(refused)?,
        };
        if answer.ttl <= 0 {
            return Err(StoreError::LeaseNotFound(lease));
        }
        Ok(Lease {
            id: lease_id(answer.id),
            ttl: seconds(answer.ttl),
        })
    }
}

impl Backend for Etcd {
    fn commit(&self, txn: Txn) -> Answer<'_, TxnReply> {
        Box::pin(self.commit_txn(txn))
    }

    fn read(&self, range: Range) -> Answer<'_, Snapshot> {
        Box::pin(async move { self.read_or_recall(&range).await })
    }

    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch> {
        Box::pin(async move {
            self.client.check_open()?;
            let (client, feed) = (Arc::clone(&self.client), Arc::clone(&self.feed));
            Ok(Watch::new(Cursor::new(client, feed, span, after)))
        })
    }

    fn compact(&self, to: Revision) -> Answer<'_, ()> {
        Box::pin(self.compact_to(to))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        Box::pin(async move {
            self.client.check_open()?;
            if ttl < Duration::from_millis(1) || ttl > TTL_MAX {
                return Err(StoreError::BadTtl);
            }
            let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let call = wire::LeaseGrantRequest { ttl: signed(whole) };
            let granted = self.client.call(call).await.map_err(refused)?;
            Ok(Lease {
                id: lease_id(granted.id),
                ttl: seconds(granted.ttl),
            })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, Lease> {
        Box::pin(self.renew(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, Revision> {
        Box::pin(async move {
            self.client.check_open()?;
            let call = wire::LeaseRevokeRequest {
                id: lease_number(lease),
            };
            match self.client.call(call).await {
                Ok(answer) => Ok(header_revision(answer.header.as_ref())),
                Err(failure) if is_no_lease(&failure) => Err(StoreError::LeaseNotFound(lease)),
                Err(failure) => Err(refused(failure)),
            }
        })
    }

    fn lease(&self, lease: LeaseId) -> Answer<'_, LeaseState> {
        Box::pin(self.lease_state(lease))
    }

    fn leases(&self) -> Answer<'_, Vec<LeaseId>> {
        Box::pin(async move {
            self.client.check_open()?;
            let answer = self.client.call(wire::LeaseLeasesRequest {}).await;
            let answer = answer.map_err(refused)?;
            let mut ids: Vec<_> = answer.leases.iter().map(|one| lease_id(one.id)).collect();
            ids.sort();
            Ok(ids)
        })
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.client.standing.subscribe()
    }
}
