//! Readiness of many sockets on one thread: a thin, safe cover over epoll, shared by
//! the load client and the upstream.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// Events fetched at once; more wait for the next round.
const EVENTS_MAX: usize = 256;

/// The other end sends nothing more.
const CLOSED: EventFlags = EventFlags::RDHUP
    .union(EventFlags::HUP)
    .union(EventFlags::ERR);

/// A socket that something happened to.
pub(crate) struct Ready {
    pub(crate) number: usize,
    /// The other end closed: its end comes right behind what can be read, and makes
    /// no edge of its own.
    pub(crate) closed: bool,
}

/// A set of sockets, each with a number of the caller's.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// Reports each time that the socket becomes readable or writable (edges, not
    /// levels: who stops before `WouldBlock` or, while the other end is open, before a
    /// short read is not woken again).
    pub(crate) fn add(&self, socket: impl AsFd, number: usize) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(number as u64);
        Ok(epoll::add(&self.epoll, socket, data, edges)?)
    }

    /// Waits, and puts the sockets that something happened to into `ready`.
    pub(crate) fn wait(
        &mut self,
        ready: &mut Vec<Ready>,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let patience = patience.map(|patience| Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: i64::from(patience.subsec_nanos()),
        });
        self.events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, buffer, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.clear();
        ready.extend(self.events.iter().map(|event| {
            // The struct is packed: fields are copied before they are used.
            let (data, flags) = (event.data, event.flags);
            Ready {
                number: data.u64() as usize,
                closed: flags.intersects(CLOSED),
            }
        }));
        Ok(())
    }
}
