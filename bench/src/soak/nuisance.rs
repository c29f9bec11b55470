//! Clients that are no good: they begin and do not end, wait and do not listen, and
//! drop their connections whenever they like.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;

use super::Halt;
use crate::http::{self, Http};
use crate::speak::{Atoll, PATIENCE};

/// Connections that are held at the same time; far fewer than Atoll's limits.
const HELD_MAX: usize = 200;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Nuisance {
    consul: SocketAddr,
    eureka: SocketAddr,
    console: SocketAddr,
    dns: SocketAddr,
    dice: fastrand::Rng,
}

impl Nuisance {
    pub(super) fn new(atoll: &Atoll, dice: fastrand::Rng) -> Result<Self> {
        Ok(Self {
            consul: atoll.at("consul")?,
            eureka: atoll.at("eureka")?,
            console: atoll.at("console")?,
            dns: atoll.at("dns")?,
            dice,
        })
    }

    /// Goes on until `quiet`; gives how many connections it dropped.
    pub(super) fn run(mut self, quiet: &Halt) -> u64 {
        let (mut held, mut dropped) = (Vec::new(), 0);
        while !quiet.is_called() {
            std::thread::sleep(PAUSE);
            // It may be down just now.
            held.extend(self.begin().ok());
            if held.len() > HELD_MAX {
                let which = self.dice.usize(..held.len());
                let socket: TcpStream = held.swap_remove(which);
                drop(socket);
                dropped += 1;
            }
        }
        dropped + held.len() as u64
    }

    fn begin(&mut self) -> Result<TcpStream> {
        let service = format!("soak-{}", self.dice.u32(..40));
        let (at, bytes) = match self.dice.u32(..6) {
            // Waits for a change and is not there when it comes.
            0 | 1 => {
                let path = format!("/v1/health/service/{service}");
                let now =
                    Http::new(self.consul, PATIENCE).ask(&http::request("GET", &path, &[], ""))?;
                let index = now.field("x-consul-index").unwrap_or("1");
                let path = format!("{path}?index={index}&wait=60s");
                (self.consul, http::request("GET", &path, &[], ""))
            }
            // Watches and never reads.
            2 => (self.console, http::request("GET", "/api/v1/watch", &[], "")),
            // Asks for much and takes nothing.
            3 => {
                let fields = [("Accept", "application/json"), ("Accept-Encoding", "gzip")];
                (
                    self.eureka,
                    http::request("GET", "/eureka/apps", &fields, ""),
                )
            }
            // Half a head.
            4 => {
                let ask = http::request("GET", "/eureka/apps", &[("X-Long", "x")], "");
                let part = self.dice.usize(1..ask.len());
                (self.eureka, ask[..part].to_vec())
            }
            // Half a question, with the length of a whole one.
            _ => (self.dns, vec![0, 40, 1, 2, 3]),
        };
        let mut socket = http::connect(at, PATIENCE)?;
        socket.set_nonblocking(true)?;
        socket.write_all(&bytes)?;
        Ok(socket)
    }
}
