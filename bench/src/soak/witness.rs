//! Who looks: lists by each protocol in turn, and a watcher that is pushed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

use super::Halt;
use super::model::Model;
use crate::http::{self, Chunks, Http};
use crate::page::print;
use crate::speak::{Atoll, PATIENCE, Protocol};
use crate::upstream::head_end;

/// Between two lists.
const PAUSE: Duration = Duration::from_millis(700);
/// How long the watcher waits for the next bytes before it looks whether to go on.
const GLANCE: Duration = Duration::from_millis(500);

pub(super) struct Witness {
    clients: Vec<(Protocol, Http)>,
    next: usize,
    model: Arc<Model>,
}

impl Witness {
    pub(super) fn new(atoll: &Atoll, model: Arc<Model>) -> Result<Self> {
        let clients = Protocol::ALL.map(|protocol| {
            let at = atoll.speaks(protocol)?;
            Ok((protocol, Http::new(at, PATIENCE)))
        });
        let clients = clients.into_iter().collect::<Result<_>>()?;
        Ok(Self {
            clients,
            next: 0,
            model,
        })
    }

    /// One list by the next protocol, compared with the model.
    pub(super) fn look(&mut self) {
        std::thread::sleep(PAUSE);
        self.next += 1;
        let number = self.next % self.clients.len();
        self.list(number);
    }

    fn list(&mut self, number: usize) -> Option<BTreeSet<String>> {
        let (protocol, client) = &mut self.clients[number];
        let protocol = *protocol;
        let asked = Instant::now();
        // It may be down just now.
        let answer = client
            .ask(&protocol.list())
            .ok()
            .filter(|answer| answer.status == 200)?;
        let came = Instant::now();
        match protocol.listed(&answer.body) {
            Ok(mut list) => {
                // Consul's clients see Consul itself as a service.
                list.remove("consul");
                self.model.compare(protocol, &list, asked, came);
                Some(list.into_keys().collect())
            }
            Err(error) => {
                self.model
                    .wrong(format!("the list of {}: {error:#}", protocol.name()));
                None
            }
        }
    }

    /// Looks until all protocols tell the same list twice; gives it.
    pub(super) fn settle(&mut self, patience: Duration) -> Option<BTreeSet<String>> {
        let began = Instant::now();
        let mut agreed = None;
        while began.elapsed() < patience {
            let lists = [0, 1, 2].map(|number| self.list(number));
            let same = lists[0].is_some() && lists.iter().all(|list| *list == lists[0]);
            let [list, ..] = lists;
            if same && list == agreed {
                return agreed;
            }
            agreed = list.filter(|_| same);
            std::thread::sleep(PAUSE);
        }
        None
    }
}

/// What a watcher was told.
#[derive(Debug, Default)]
pub(super) struct Watched {
    services: BTreeMap<String, BTreeSet<String>>,
    pub(super) ids: BTreeSet<String>,
    pub(super) events: u64,
    pub(super) resyncs: u64,
    revision: u64,
}

/// Follows the catalogue as a client of the admin API does, and comes again where it
/// was when Atoll goes away.
pub(super) fn watch(at: SocketAddr, halt: &Halt) -> Watched {
    let mut watched = Watched::default();
    while !halt.is_called() {
        // It went away, or is not back yet: again from there.
        if watched.follow(at, halt).is_err() {
            std::thread::sleep(GLANCE / 10);
        }
    }
    watched.ids = watched.services.values().flatten().cloned().collect();
    watched
}

impl Watched {
    fn follow(&mut self, at: SocketAddr, halt: &Halt) -> Result<()> {
        let mut socket = http::connect(at, PATIENCE)?;
        let path = format!("/api/v1/watch?since={}", self.revision);
        std::io::Write::write_all(&mut socket, &http::request("GET", &path, &[], ""))?;
        socket.set_read_timeout(Some(GLANCE))?;
        let (mut raw, mut text, mut buffer) = (Vec::new(), Vec::new(), vec![0; 64 * 1024]);
        let (mut chunks, mut headed) = (Chunks::default(), false);
        loop {
            let count = match socket.read(&mut buffer) {
                Ok(0) => anyhow::bail!("it ended"),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if halt.is_called() {
                        return Ok(());
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            raw.extend_from_slice(&buffer[..count]);
            if !headed {
                let Some(end) = head_end(&raw) else {
                    continue;
                };
                raw.drain(..end);
                headed = true;
            }
            chunks.take(&raw, &mut text)?;
            raw.clear();
            while let Some(end) = memchr::memmem::find(&text, b"\n\n") {
                let event: Vec<u8> = text.drain(..end + 2).collect();
                self.take(&event);
            }
        }
    }

    fn take(&mut self, event: &[u8]) {
        let text = String::from_utf8_lossy(event);
        let data = text.lines().find_map(|line| line.strip_prefix("data: "));
        // Comments keep the connection alive.
        let Some(data) = data else {
            return;
        };
        let Ok(value) = serde_json::from_str::<Value>(data) else {
            print(&format!("the watcher cannot read {data}"));
            return;
        };
        self.events += 1;
        self.revision = value["revision"].as_u64().unwrap_or(0);
        if value["resync"] == true {
            self.resyncs += 1;
            self.services.clear();
        }
        for service in value["services"].as_array().into_iter().flatten() {
            let name = service["name"].as_str().unwrap_or_default().to_owned();
            let ids = service["instances"].as_array().into_iter().flatten();
            let ids = ids.filter_map(|one| Some(one["id"].as_str()?.to_owned()));
            self.services.insert(name, ids.collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_keeps_what_it_is_told() {
        let mut watched = Watched::default();
        watched.take(b":\n\n");
        watched.take(b"id: 3\ndata: {\"revision\":3,\"resync\":true,\"services\":[{\"name\":\"a\",\"instances\":[{\"id\":\"1\"},{\"id\":\"2\"}]}]}\n\n");
        watched.take(b"id: 4\ndata: {\"revision\":4,\"services\":[{\"name\":\"a\",\"instances\":[{\"id\":\"2\"}]}]}\n\n");
        assert_eq!(watched.services["a"], BTreeSet::from(["2".to_owned()]));
        assert_eq!(
            (watched.events, watched.resyncs, watched.revision),
            (2, 1, 4)
        );
    }
}
