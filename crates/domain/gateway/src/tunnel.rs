//! After a 101: bytes both ways, whatever they mean (WebSocket and the like).
//!
//! Each direction reads no more than it has written, and its end is passed on as a
//! half-close. When neither moves for the idle time, both are cut.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::buffer::{Buffer, Buffers};
use crate::timer::{Timer, Wait};
use crate::upstream::{Upstream, poll_read};
use crate::worker::Worker;

/// One direction.
#[derive(Default)]
struct Direction {
    buffer: Option<Buffer>,
    from: usize,
    to: usize,
    ended: bool,
    done: bool,
}

/// Carries bytes until both directions have ended, or nothing moves for `idle`.
pub(crate) async fn run(
    worker: &Worker,
    mut client: TcpStream,
    client_rest: Option<(Buffer, usize, usize)>,
    mut upstream: Box<Upstream>,
    idle: Duration,
) {
    let mut up = Direction::with(client_rest);
    let mut down = Direction::with(upstream.take_rest());
    let upstream = &mut upstream.stream;
    let mut timer = Timer::new(worker.clock.clone());
    let buffers = &worker.buffers;
    let ended: io::Result<()> = poll_fn(|cx| {
        let mut moved = up.poll(cx, &mut client, upstream, buffers)?;
        moved |= down.poll(cx, upstream, &mut client, buffers)?;
        if up.done && down.done {
            return Poll::Ready(Ok(()));
        }
        if moved {
            timer.clear(Wait::Client);
        }
        timer.limit(Wait::Client, idle);
        timer.poll(cx).map(|_| Ok(()))
    })
    .await;
    // An error is an end like any other: both sides see it when the sockets close.
    drop(ended);
}

impl Direction {
    fn with(rest: Option<(Buffer, usize, usize)>) -> Self {
        match rest {
            Some((buffer, from, to)) => Self {
                buffer: Some(buffer),
                from,
                to,
                ..Self::default()
            },
            None => Self::default(),
        }
    }

    /// Moves what can be moved; true if anything was.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        buffers: &Buffers,
    ) -> io::Result<bool> {
        let mut moved = false;
        while !self.done {
            match self.poll_step(cx, source, sink, buffers) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(moved)
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        sink: &mut TcpStream,
        buffers: &Buffers,
    ) -> Poll<io::Result<()>> {
        if let Some(buffer) = &self.buffer {
            let bytes = &buffer.bytes()[self.from..self.to];
            let count = ready!(Pin::new(sink).poll_write(cx, bytes))?;
            self.from += count;
            if self.from == self.to {
                self.buffer = None;
            }
            return Poll::Ready(Ok(()));
        }
        if self.ended {
            ready!(Pin::new(sink).poll_shutdown(cx))?;
            self.done = true;
            return Poll::Ready(Ok(()));
        }
        ready!(source.poll_read_ready(cx))?;
        let mut buffer = buffers.lend();
        let count = ready!(poll_read(source, cx, buffer.bytes_mut()))?;
        if count == 0 {
            self.ended = true;
        } else {
            self.from = 0;
            self.to = count;
            self.buffer = Some(buffer);
        }
        Poll::Ready(Ok(()))
    }
}
