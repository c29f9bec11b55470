//! A client that speaks for many instances in one protocol: it registers new ones at a
//! steady rate, renews each in time, and lets each go in one of the ways in which
//! services go. What it is not answered it tries again, as clients do, or gives up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Halt;
use super::model::Model;
use crate::http::{self, Http};
use crate::speak::{PATIENCE, Protocol, Who};

/// Services over which the instances of all are spread.
const SERVICES: u32 = 40;
/// How long an instance lives, at the most; half of it in the middle.
const LIFE: Duration = Duration::from_secs(40);
/// Between two tries of what was not answered.
const AGAIN: Duration = Duration::from_millis(200);
/// Longest idle wait: new things must be noticed.
const NAP: Duration = Duration::from_millis(20);

/// Of a hundred instances: those that never say that they go.
const VANISH_PERCENT: u32 = 15;
/// Registrations whose connection is dropped before they are whole.
const CUT_PERCENT: u32 = 2;
/// Requests whose answer is not waited for: their connection is dropped.
const DEAF_PERCENT: u32 = 1;
/// Renewals before which the connection is dropped and made anew.
const RECONNECT_PERCENT: u32 = 1;

/// What is to be done next for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Register,
    Renew,
    Leave,
}

/// One instance.
#[derive(Debug)]
struct Life {
    who: Who,
    ends: Instant,
    vanishes: bool,
}

pub(super) struct Worker {
    number: u32,
    protocol: Protocol,
    at: SocketAddr,
    http: Http,
    lease: Duration,
    every: Duration,
    dice: fastrand::Rng,
    model: Arc<Model>,
    born: u64,
    lives: Vec<Option<Life>>,
    free: Vec<usize>,
    due: BinaryHeap<Reverse<(Instant, Deed, usize)>>,
    registered_ms: Vec<f64>,
}

impl Worker {
    pub(super) fn new(
        number: u32,
        protocol: Protocol,
        at: SocketAddr,
        lease: Duration,
        every: Duration,
        dice: fastrand::Rng,
        model: Arc<Model>,
    ) -> Self {
        Self {
            number,
            protocol,
            at,
            http: Http::new(at, PATIENCE),
            lease,
            every,
            dice,
            model,
            born: 0,
            lives: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            registered_ms: Vec::new(),
        }
    }

    /// Goes on until `halt`; from `quiet` on nobody comes or goes. Gives how long each
    /// registration took.
    pub(super) fn run(mut self, quiet: &Halt, halt: &Halt) -> Vec<f64> {
        let mut next = Instant::now() + self.every.mul_f64(self.dice.f64());
        while !halt.is_called() {
            let now = Instant::now();
            if now >= next && !quiet.is_called() {
                next += self.every;
                self.bear(now);
            }
            let Some(Reverse((at, deed, slot))) = self.due.peek().copied() else {
                std::thread::sleep(NAP.min(next.saturating_duration_since(now)));
                continue;
            };
            if at > now {
                let until = if quiet.is_called() { at } else { at.min(next) };
                std::thread::sleep(NAP.min(until.saturating_duration_since(now)));
                continue;
            }
            self.due.pop();
            self.act(deed, slot, quiet.is_called());
        }
        self.registered_ms
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.dice.u32(0..100) < percent
    }

    /// A new instance, whose registration is due at once.
    fn bear(&mut self, now: Instant) {
        self.born += 1;
        let host = self.dice.u32(1..0x00ff_ffff);
        let who = Who {
            service: format!("soak-{}", self.dice.u32(0..SERVICES)),
            id: format!("{}-{}-{}", self.protocol.name(), self.number, self.born),
            at: SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | host)), 8080),
            lease: self.lease,
        };
        if self.percent(CUT_PERCENT) {
            self.cut(&who);
            return;
        }
        let life = Life {
            who,
            ends: now + LIFE.mul_f64(self.dice.f64()),
            vanishes: self.percent(VANISH_PERCENT),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.lives.push(None);
            self.lives.len() - 1
        });
        self.lives[slot] = Some(life);
        self.due.push(Reverse((now, Deed::Register, slot)));
    }

    /// Sends a part of a registration and drops the connection.
    fn cut(&mut self, who: &Who) {
        let request = self.protocol.register(who);
        self.model.registers(self.protocol, who, false);
        self.model.count(|tally| tally.cut += 1);
        let part = self.dice.usize(1..request.len());
        if let Ok(mut socket) = http::connect(self.at, PATIENCE) {
            // Atoll may be down, which is as good.
            drop(socket.write_all(&request[..part]));
        }
    }

    fn act(&mut self, deed: Deed, slot: usize, quiet: bool) {
        let Some(life) = &self.lives[slot] else {
            return;
        };
        let (who, over) = (life.who.clone(), Instant::now() >= life.ends && !quiet);
        let vanishes = life.vanishes;
        match deed {
            Deed::Register => self.register(&who, slot),
            Deed::Renew if over && vanishes => {
                self.model.count(|tally| tally.vanished += 1);
                self.forget(slot);
            }
            Deed::Renew if over => self.leave(&who, slot),
            Deed::Renew => self.renew(&who, slot),
            Deed::Leave => self.leave(&who, slot),
        }
    }

    fn forget(&mut self, slot: usize) {
        self.lives[slot] = None;
        self.free.push(slot);
    }

    fn later(&mut self, after: Duration, deed: Deed, slot: usize) {
        self.due.push(Reverse((Instant::now() + after, deed, slot)));
    }

    /// When the next renewal, or the end, is due.
    fn next_renewal(&mut self, slot: usize) {
        let pause = self
            .lease
            .div_f64(3.0)
            .mul_f64(0.75 + self.dice.f64() / 2.0);
        self.later(pause, Deed::Renew, slot);
    }

    /// The status of the answer; `None` when there was none, or nobody waited for it.
    fn ask(&mut self, request: &[u8]) -> Option<u16> {
        if self.percent(DEAF_PERCENT) {
            self.http.close();
            if let Ok(mut socket) = http::connect(self.at, PATIENCE) {
                drop(socket.write_all(request));
            }
            return None;
        }
        match self.http.ask(request) {
            // It says that it did not do it, or not durably.
            Ok(answer) if answer.status >= 500 => None,
            Ok(answer) => {
                if !matches!(answer.status, 200 | 204 | 404) {
                    let (name, status) = (self.protocol.name(), answer.status);
                    self.model
                        .wrong(format!("{name} answers {status}: {}", answer.text()));
                }
                Some(answer.status)
            }
            Err(_) => None,
        }
    }

    fn register(&mut self, who: &Who, slot: usize) {
        let sent = Instant::now();
        self.model.registers(self.protocol, who, true);
        match self.ask(&self.protocol.register(who)) {
            Some(200 | 204) => {
                self.model.acknowledged(&who.id, sent);
                self.model.count(|tally| tally.registered += 1);
                self.registered_ms.push(sent.elapsed().as_secs_f64() * 1e3);
                self.next_renewal(slot);
            }
            Some(_) | None => {
                self.model.unanswered(&who.id);
                // Half of them try again, as clients do; the others are gone.
                if self.dice.bool() {
                    self.later(AGAIN, Deed::Register, slot);
                } else {
                    self.forget(slot);
                }
            }
        }
    }

    fn renew(&mut self, who: &Who, slot: usize) {
        if self.percent(RECONNECT_PERCENT) {
            self.http.close();
        }
        let sent = Instant::now();
        self.model.renews(&who.id);
        match self.ask(&self.protocol.renew(who)) {
            Some(404) => {
                self.model.is_unknown(self.protocol, &who.id);
                self.model.unanswered(&who.id);
                self.later(Duration::ZERO, Deed::Register, slot);
            }
            Some(_) => {
                self.model.acknowledged(&who.id, sent);
                self.model.count(|tally| tally.renewed += 1);
                self.next_renewal(slot);
            }
            None => {
                self.model.unanswered(&who.id);
                self.later(AGAIN, Deed::Renew, slot);
            }
        }
    }

    fn leave(&mut self, who: &Who, slot: usize) {
        self.model.leaves(&who.id);
        match self.ask(&self.protocol.leave(who)) {
            // What was not answered before may have been done.
            Some(_) => {
                self.model.left(&who.id);
                self.forget(slot);
            }
            None => {
                self.model.unanswered(&who.id);
                if self.dice.bool() {
                    self.later(AGAIN, Deed::Leave, slot);
                } else {
                    self.forget(slot);
                }
            }
        }
    }
}
