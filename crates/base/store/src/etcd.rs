//! The store on etcd: any number of Atoll processes with one set of keys.
//!
//! Every key stands behind a prefix, so that others may use the same etcd. Reads are
//! linearizable. One watch of the whole prefix feeds all watches of this process
//! (`feed`); a second task looks each second whether etcd can be had, which
//! [`Store::standing`] tells, and while it cannot calls fail at once. Start with
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
mod follow;
mod names;
mod options;
mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;
use atoll_runtime::{Backoff, Random, Tasks};
use tokio::sync::watch;
use tonic::Code;

use self::client::{Client, Failure, TOO_LARGE};
use self::cursor::Cursor;
use self::feed::Feed;
use self::follow::{Follower, Prober};
use self::names::{Prefix, header_revision, just_after, lease_id, lease_number, seconds, signed};
pub use self::options::{Address, Login, Options, Tls};
use self::stream::{Begin, Stream, Told};
use crate::{
    Answer, Backend, KeyValue, Lease, LeaseId, LeaseState, Op, REQUEST_BYTES_MAX, Range, Snapshot,
    Span, Standing, Store, StoreError, Txn, TxnReply, Watch,
};

/// How long [`open`] waits for etcd, which may be starting beside us.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Pauses meanwhile.
const OPEN_PAUSE_FIRST: Duration = Duration::from_millis(100);
const OPEN_PAUSE_MOST: Duration = Duration::from_secs(1);

/// etcd's longest lease: 9,000,000,000 s (`lease.MaxLeaseTTL`).
const TTL_MAX: Duration = Duration::from_secs(9_000_000_000);
/// Keys in one answer to a read; a long one is read page by page, at one revision.
const PAGE_KEYS: i64 = 1_000;
/// To be told how far history is gone; etcd looks at such watches ten times a second.
const COMPACTED_WAIT: Duration = Duration::from_secs(2);
/// Reads of a long range that begin again when its revision is dropped meanwhile.
const READS_MAX: u32 = 3;

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
    let feed = Arc::new(Feed::new(at));
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
    fn check_open(&self) -> Result<(), StoreError> {
        match self.client.stop.is_requested() {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    async fn commit_txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.check_open()?;
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

    async fn read_range(&self, range: &Range) -> Result<Snapshot, StoreError> {
        self.check_open()?;
        if matches!(&range.span, Span::Key(key) if key.is_empty()) {
            return Err(StoreError::EmptyKey);
        }
        let mut begun = 0;
        loop {
            begun += 1;
            let failure = match self.read_pages(range).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(failure) => failure,
            };
            let compacted = says(&failure, "has been compacted");
            match range.at {
                None if compacted && begun < READS_MAX => {}
                Some(asked) if compacted => return Err(self.compacted(asked).await),
                Some(asked) if says(&failure, "is a future revision") => {
                    let current = self.revision().await?;
                    return Err(StoreError::FutureRevision { asked, current });
                }
                _ => return Err(refused(failure)),
            }
        }
    }

    /// All of it as of one revision, in answers that are bounded.
    async fn read_pages(&self, range: &Range) -> Result<Snapshot, Failure> {
        let (mut key, range_end) = self.client.prefix.range(&range.span);
        let mut at = range.at.map_or(0, |at| signed(at.0));
        let mut left = range.limit.map(|limit| signed(limit as u64));
        let mut page = PAGE_KEYS;
        let mut revision = None;
        let mut items: Vec<Arc<KeyValue>> = Vec::new();
        loop {
            let limit = left.map_or(page, |left| left.min(page)).max(1);
            let call = wire::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit,
                revision: at,
                keys_only: left == Some(0),
            };
            let mut answer = match self.client.call(call).await {
                Err(Failure::TooLong) if page > 1 => {
                    page /= 8;
                    continue;
                }
                answer => answer?,
            };
            let now = header_revision(answer.header.as_ref());
            let revision = *revision.get_or_insert(now);
            if at == 0 {
                at = signed(revision.0);
            }
            if left == Some(0) {
                answer.more = !answer.kvs.is_empty();
                answer.kvs.clear();
            }
            items.extend(self.client.prefix.key_values(&answer.kvs));
            let got = answer.kvs.len();
            left = left.map(|left| left - signed(got as u64));
            let last = answer.kvs.last().filter(|_| answer.more && left != Some(0));
            let Some(last) = last else {
                return Ok(Snapshot {
                    revision,
                    items,
                    more: answer.more,
                });
            };
            key = just_after(&last.key);
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.client.probe().await.map_err(refused)
    }

    /// Says up to where history is gone, which etcd tells only to a watch.
    async fn compacted(&self, asked: Revision) -> StoreError {
        let client = &self.client;
        let told = async {
            let from = Revision(asked.0.saturating_sub(1));
            let channel = client.current().history.clone();
            let (all, begin) = (Span::all(), Begin::AtPlace);
            let mut stream = Stream::open(client, &all, from, begin, Some(&channel)).await?;
            stream.next(client).await
        };
        let compacted = match tokio::time::timeout(COMPACTED_WAIT, told).await {
            Ok(Ok(Told::Compacted(compacted))) => compacted,
            // It is known that it is gone, if not how far.
            Ok(Ok(Told::Changes(_) | Told::Progress(_)) | Err(_)) | Err(_) => asked,
        };
        StoreError::Compacted { asked, compacted }
    }

    async fn compact_to(&self, to: Revision) -> Result<(), StoreError> {
        self.check_open()?;
        let call = wire::CompactionRequest {
            revision: signed(to.0),
        };
        match self.client.call(call).await {
            Ok(wire::CompactionResponse {}) => {
                self.feed.note_compacted(to);
                Ok(())
            }
            Err(failure) if says(&failure, "has been compacted") => Err(self.compacted(to).await),
            Err(failure) if says(&failure, "is a future revision") => {
                Err(StoreError::FutureRevision {
                    asked: to,
                    current: self.revision().await?,
                })
            }
            Err(failure) => Err(refused(failure)),
        }
    }

    async fn lease_state(&self, lease: LeaseId) -> Result<LeaseState, StoreError> {
        self.check_open()?;
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
        self.check_open()?;
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
        Box::pin(async move { self.read_range(&range).await })
    }

    fn watch(&self, span: Span, after: Revision) -> Answer<'_, Watch> {
        Box::pin(async move {
            self.check_open()?;
            let (client, feed) = (Arc::clone(&self.client), Arc::clone(&self.feed));
            Ok(Watch::new(Cursor::new(client, feed, span, after)))
        })
    }

    fn compact(&self, to: Revision) -> Answer<'_, ()> {
        Box::pin(self.compact_to(to))
    }

    fn grant(&self, ttl: Duration) -> Answer<'_, Lease> {
        Box::pin(async move {
            self.check_open()?;
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
            self.check_open()?;
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
            self.check_open()?;
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
