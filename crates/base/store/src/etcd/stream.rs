//! One watch at etcd: its messages, put together to whole revisions.

use std::collections::VecDeque;
use std::time::Duration;

use atoll_model::Revision;
use tonic::Streaming;
use tonic::transport::Channel;

use super::client::{Client, explain, says_wants_login};
use super::names::{Prefix, header_revision, revision, signed};
use super::wire;
use crate::{Changes, Event, Span};

/// Until etcd says that it has begun.
const OPEN_DEADLINE: Duration = Duration::from_secs(3);

pub(crate) struct Stream {
    answers: Streaming<wire::WatchResponse>,
    begun: Revision,
    gather: Gather,
}

/// What a watch tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// Whole revisions, in order, each once.
    Changes(VecDeque<Changes>),
    /// Nothing changed up to here.
    Progress(Revision),
    /// The history after its place is gone, up to here.
    Compacted(Revision),
}

/// From where etcd is asked to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At the place itself, whose changes are skipped. Where history is dropped, etcd
    /// keeps the puts of the last dropped revision but not its deletions, and gives
    /// them as if they were all. Asked for a revision that we have seen, it refuses
    /// whenever something that we have not may be missing.
    AtPlace,
    /// After the place, which is the present: such a watch is told of changes at once,
    /// while etcd looks for one that lies back only ten times a second. Only right if
    /// [`Stream::begun`] shows that it still was the present then.
    AfterPlace,
}

impl Stream {
    /// Watches `span` after `at`, at the endpoint that is asked first.
    ///
    /// # Errors
    /// What to tell a person.
    pub(crate) async fn open(
        client: &Client,
        span: &Span,
        at: Revision,
        begin: Begin,
        channel: Option<&Channel>,
    ) -> Result<Self, String> {
        let (key, range_end) = client.prefix.range(span);
        let start_revision = match begin {
            // 0 would be the present.
            Begin::AtPlace => signed(at.0).max(1),
            Begin::AfterPlace => signed(at.0).saturating_add(1),
        };
        let create = wire::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: true,
            prev_kv: true,
            fragment: true,
        };
        let create = wire::WatchRequest {
            request_union: Some(wire::WatchRequestUnion::Create(create)),
        };
        let endpoint = client.current();
        let channel = channel.unwrap_or(&endpoint.calls);
        let opened = async {
            let answers = client.stream(channel, wire::WATCH_PATH, &create).await;
            let mut answers = answers.map_err(|trouble| trouble.explain())?;
            let first = receive(&mut answers, client).await?;
            // etcd says so before it says anything else.
            if !first.created {
                return Err("etcd began the watch without saying so".to_owned());
            }
            Ok((answers, first))
        };
        let (answers, first) = match tokio::time::timeout(OPEN_DEADLINE, opened).await {
            Ok(opened) => opened.map_err(|why| format!("{}: {why}", endpoint.name))?,
            Err(_) => {
                return Err(format!(
                    "{}: the watch was not opened in time",
                    endpoint.name
                ));
            }
        };
        Ok(Self {
            answers,
            begun: header_revision(first.header.as_ref()),
            gather: Gather {
                prefix: client.prefix.clone(),
                at,
                revision: Revision::default(),
                events: Vec::new(),
            },
        })
    }

    /// The revision of its member when it began.
    pub(crate) fn begun(&self) -> Revision {
        self.begun
    }

    /// What is told next. May be dropped while waiting without losing anything.
    ///
    /// # Errors
    /// The stream is over; what to tell a person.
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Told, String> {
        loop {
            let answer = receive(&mut self.answers, client).await?;
            if answer.compact_revision > 0 {
                return Ok(Told::Compacted(revision(answer.compact_revision)));
            }
            if answer.events.is_empty() && !answer.fragment {
                // Only sent to a watch that has been told everything; it comes in
                // order with the events (etcd's `watchableStore.progress`).
                let at = header_revision(answer.header.as_ref());
                return Ok(Told::Progress(self.gather.progress(at)));
            }
            let whole = self.gather.take(&answer);
            if !whole.is_empty() {
                return Ok(Told::Changes(whole));
            }
        }
    }
}

/// The next message, unless it says that the watch is over for another reason than
/// that its history is.
async fn receive(
    answers: &mut Streaming<wire::WatchResponse>,
    client: &Client,
) -> Result<wire::WatchResponse, String> {
    let answer = answers.message().await;
    let answer = answer.map_err(|status| explain(&status))?;
    let answer = answer.ok_or("etcd ended the watch")?;
    if answer.canceled && answer.compact_revision == 0 {
        if says_wants_login(&answer.cancel_reason) {
            client.forget(None).await;
        }
        return Err(format!("etcd refuses the watch: {}", answer.cancel_reason));
    }
    Ok(answer)
}

/// Puts the events of a revision together: a large one comes in several messages,
/// several small ones in one.
struct Gather {
    prefix: Prefix,
    /// The last revision that was told, or that the watch began after.
    at: Revision,
    /// That of `events`.
    revision: Revision,
    /// Of a revision of which more may come.
    events: Vec<Event>,
}

impl Gather {
    fn take(&mut self, answer: &wire::WatchResponse) -> VecDeque<Changes> {
        let mut whole = VecDeque::new();
        for event in &answer.events {
            let Some((revision, event)) = self.prefix.event(event) else {
                continue;
            };
            if revision <= self.at {
                continue;
            }
            if revision != self.revision {
                whole.extend(self.close());
                self.revision = revision;
            }
            self.events.push(event);
        }
        if !answer.fragment {
            whole.extend(self.close());
        }
        whole
    }

    fn progress(&mut self, at: Revision) -> Revision {
        self.at = self.at.max(at);
        self.at
    }

    fn close(&mut self) -> Option<Changes> {
        if self.events.is_empty() {
            return None;
        }
        let mut events = std::mem::take(&mut self.events);
        // etcd gives them in the order in which they were done.
        events.sort_by(|a, b| a.key.cmp(&b.key));
        self.at = self.revision;
        Some(Changes {
            revision: self.revision,
            events: events.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fragment: bool, events: &[(i64, &str)]) -> wire::WatchResponse {
        let event = |(at, key): &(i64, &str)| wire::Event {
            kind: wire::EventType::Put as i32,
            kv: Some(wire::KeyValue {
                key: format!("p/{key}").into_bytes().into(),
                mod_revision: *at,
                ..Default::default()
            }),
            prev_kv: None,
        };
        wire::WatchResponse {
            fragment,
            events: events.iter().map(event).collect(),
            ..Default::default()
        }
    }

    /// The revisions that are whole after each message, as `5:a,b`.
    fn check(messages: &[wire::WatchResponse], expected: &[&str]) {
        let mut gather = Gather {
            prefix: Prefix::new("p"),
            at: Revision(4),
            revision: Revision::default(),
            events: Vec::new(),
        };
        let shown = messages.iter().map(|message| {
            let whole = gather.take(message);
            let whole = whole.iter().map(|changes| {
                let keys = changes.events.iter();
                let keys = keys.map(|event| String::from_utf8_lossy(&event.key).into_owned());
                format!(
                    "{}:{}",
                    changes.revision.0,
                    keys.collect::<Vec<_>>().join(",")
                )
            });
            whole.collect::<Vec<_>>().join(" ")
        });
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn several_revisions_in_one_message_are_told_apart() {
        let one = message(false, &[(5, "b"), (5, "a"), (6, "a"), (9, "c")]);
        check(&[one], &["5:a,b 6:a 9:c"]);
    }

    #[test]
    fn a_revision_in_several_messages_is_told_when_it_is_whole() {
        let messages = [
            message(true, &[(5, "c"), (6, "b")]),
            message(true, &[(6, "d")]),
            message(false, &[(6, "a")]),
            message(false, &[(7, "a")]),
        ];
        check(&messages, &["5:c", "", "6:a,b,d", "7:a"]);
    }

    #[test]
    fn what_was_told_before_is_skipped() {
        let again = message(false, &[(3, "a"), (4, "b"), (5, "c")]);
        check(&[again.clone(), again], &["5:c", ""]);
    }

    #[test]
    fn keys_of_others_are_skipped() {
        let mut foreign = message(false, &[(5, "a")]);
        foreign.events[0].kv.as_mut().unwrap().key = "q/a".into();
        check(&[foreign], &[""]);
    }
}
