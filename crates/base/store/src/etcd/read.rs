//! Reads of etcd: page by page, as of one revision.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::Revision;

use super::client::{Client, Failure};
use super::mirror::weight;
use super::names::{header_revision, just_after, signed};
use super::stream::{Begin, Stream, Told};
use super::{refused, says, wire};
use crate::{KeyValue, Range, Snapshot, Span, StoreError};

/// Keys in one answer to a read; a long one is read page by page, at one revision.
const PAGE_KEYS: i64 = 1_000;
/// To be told how far history is gone; etcd looks at such watches ten times a second.
const COMPACTED_WAIT: Duration = Duration::from_secs(2);
/// Reads of a long range that begin again when its revision is dropped meanwhile.
const READS_MAX: u32 = 3;

impl Client {
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        match self.stop.is_requested() {
            true => Err(StoreError::Closed),
            false => Ok(()),
        }
    }

    /// See [`crate::Store::read`]; of etcd alone.
    pub(crate) async fn read_range(&self, range: &Range) -> Result<Snapshot, StoreError> {
        self.read_some(range, usize::MAX).await
    }

    /// The same, but no further than the page with which more than so many bytes are
    /// read, as [`weight`] counts them.
    pub(crate) async fn read_some(
        &self,
        range: &Range,
        bytes_max: usize,
    ) -> Result<Snapshot, StoreError> {
        self.check_open()?;
        if matches!(&range.span, Span::Key(key) if key.is_empty()) {
            return Err(StoreError::EmptyKey);
        }
        let mut begun = 0;
        loop {
            begun += 1;
            let failure = match self.read_pages(range, bytes_max).await {
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
    async fn read_pages(&self, range: &Range, bytes_max: usize) -> Result<Snapshot, Failure> {
        let (mut key, range_end) = self.prefix.range(&range.span);
        let mut at = range.at.map_or(0, |at| signed(at.0));
        let mut left = range.limit.map(|limit| signed(limit as u64));
        let mut page = PAGE_KEYS;
        let mut revision = None;
        let mut items: Vec<Arc<KeyValue>> = Vec::new();
        let mut bytes = 0;
        loop {
            let limit = left.map_or(page, |left| left.min(page)).max(1);
            let call = wire::RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit,
                revision: at,
                keys_only: left == Some(0),
            };
            let mut answer = match self.call(call).await {
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
            let found = self.prefix.key_values(&answer.kvs);
            bytes += found.iter().map(|item| weight(item)).sum::<usize>();
            items.extend(found);
            let got = answer.kvs.len();
            left = left.map(|left| left - signed(got as u64));
            let on = answer.more && left != Some(0) && bytes <= bytes_max;
            let last = answer.kvs.last().filter(|_| on);
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

    pub(crate) async fn revision(&self) -> Result<Revision, StoreError> {
        self.probe().await.map_err(refused)
    }

    /// Says up to where history is gone, which etcd tells only to a watch.
    pub(crate) async fn compacted(&self, asked: Revision) -> StoreError {
        let told = async {
            let from = Revision(asked.0.saturating_sub(1));
            let channel = self.current().history.clone();
            let (all, begin) = (Span::all(), Begin::AtPlace);
            let mut stream = Stream::open(self, &all, from, begin, Some(&channel)).await?;
            stream.next(self).await
        };
        let compacted = match tokio::time::timeout(COMPACTED_WAIT, told).await {
            Ok(Ok(Told::Compacted(compacted))) => compacted,
            // It is known that it is gone, if not how far.
            Ok(Ok(Told::Changes(_) | Told::Progress(_)) | Err(_)) | Err(_) => asked,
        };
        StoreError::Compacted { asked, compacted }
    }
}
