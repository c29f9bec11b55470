//! What `atoll up` shows: on a terminal a picture that is redrawn in place with what
//! happened above it, elsewhere one plain line for each change.
//!
//! A thread of its own writes, since a terminal may be held (Ctrl-S) for ever:
//! everybody else only puts lines into a bounded queue and never waits.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_runtime::{Stop, Tasks, WorkerError};
use rustix::termios::tcgetwinsize;
use tokio::sync::{mpsc, watch};

use super::live::Live;
use super::picture::{Picture, Row};
use crate::paint::{Paint, clip, width};

/// Lines that may wait to be written.
const LINES_WAITING_MAX: usize = 1024;
/// After a change, until the picture is drawn: a burst is one picture.
const GATHER: Duration = Duration::from_millis(50);
/// Between two pictures while something is being built, for its clock.
const TICK: Duration = Duration::from_secs(1);
/// A terminal that does not tell its size.
const SIZE_UNKNOWN: (usize, usize) = (80, 24);

/// Where to say something to whoever started Atoll; clones are the same.
#[derive(Clone)]
pub(crate) struct Screen {
    lines: mpsc::Sender<String>,
    lost: Arc<AtomicU64>,
    live: watch::Sender<Option<Arc<Live>>>,
    paint: Paint,
}

impl Screen {
    /// Starts the thread that writes. `terminal` is whether pictures can be drawn.
    pub(crate) fn start(tasks: &Tasks, terminal: bool, paint: Paint) -> Result<Self, WorkerError> {
        let (lines, said) = mpsc::channel(LINES_WAITING_MAX);
        let (live, known) = watch::channel(None);
        let lost = Arc::new(AtomicU64::new(0));
        let screen = Self {
            lines,
            lost: Arc::clone(&lost),
            live,
            paint,
        };
        tasks.worker("screen", move |stop| {
            let writer = Writer {
                terminal,
                paint,
                lost,
                drawn: Vec::new(),
                shown: Picture::default(),
            };
            writer.run(said, known, stop)
        })?;
        Ok(screen)
    }

    /// Says something; lost, and counted, when too much is waiting to be written.
    pub(crate) fn say(&self, text: impl Into<String>) {
        if self.lines.try_send(text.into()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on, shows what `live` does.
    pub(crate) fn show(&self, live: Arc<Live>) {
        self.live.send_replace(Some(live));
    }

    /// Whether what is said may have colours.
    pub(crate) fn colour(&self) -> bool {
        self.paint.on
    }
}

struct Writer {
    terminal: bool,
    paint: Paint,
    lost: Arc<AtomicU64>,
    /// The picture's lines as they stand on the terminal now.
    drawn: Vec<String>,
    shown: Picture,
}

impl Writer {
    async fn run(
        mut self,
        mut said: mpsc::Receiver<String>,
        mut known: watch::Receiver<Option<Arc<Live>>>,
        stop: Stop,
    ) {
        // Ends by itself when nobody can show it anything any more.
        let live = loop {
            tokio::select! {
                biased;
                Some(line) = said.recv() => self.print(&[line]),
                () = stop.requested() => return self.finish(&mut said),
                changed = known.changed() => match changed {
                    Ok(()) => {
                        if let Some(live) = known.borrow().clone() {
                            break live;
                        }
                    }
                    Err(_) => return self.finish(&mut said),
                },
            }
        };
        let (mut fleet, mut catalog) = (live.fleet.status(), live.registry.catalog());
        self.look(&live);
        loop {
            let building = self.terminal && self.shown.is_building();
            tokio::select! {
                biased;
                () = stop.requested() => break,
                Some(line) = said.recv() => {
                    let mut lines = VecDeque::from([line]);
                    while let Ok(more) = said.try_recv() {
                        lines.push_back(more);
                    }
                    self.print(lines.make_contiguous());
                    continue;
                }
                Ok(()) = fleet.changed() => {}
                Ok(()) = catalog.changed() => {}
                () = tokio::time::sleep(TICK), if building => {}
                else => break,
            }
            tokio::time::sleep(GATHER).await;
            fleet.mark_unchanged();
            catalog.mark_unchanged();
            self.look(&live);
        }
        self.finish(&mut said);
    }

    fn look(&mut self, live: &Live) {
        let now = Picture::of(live);
        let mut lines = now.happened(&self.shown, self.paint);
        if !self.terminal {
            lines.extend(now.changes(&self.shown));
        }
        self.shown = now;
        self.print(&lines);
    }

    /// Writes `lines`, and the picture anew below them.
    fn print(&mut self, lines: &[String]) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut text = self.erased();
        for line in lines {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if lost > 0 {
            text.push_str(&format!(
                "({lost} messages were lost: the output is too slow)\n"
            ));
        }
        if self.terminal {
            let (columns, rows) = size();
            self.drawn = fit(self.shown.draw(self.paint), columns, rows);
            for line in &self.drawn {
                text.push_str(line);
                text.push('\n');
            }
        }
        write(&text);
    }

    /// What takes the picture off the terminal. A terminal that was made narrower has
    /// wrapped its lines.
    fn erased(&mut self) -> String {
        let columns = size().0.max(1);
        let rows: usize = self
            .drawn
            .drain(..)
            .map(|line| width(&line).div_ceil(columns).max(1))
            .sum();
        match rows {
            0 => String::new(),
            rows => format!("\u{1b}[{rows}A\r\u{1b}[J"),
        }
    }

    fn finish(&mut self, said: &mut mpsc::Receiver<String>) {
        said.close();
        let mut lines = Vec::new();
        while let Ok(line) = said.try_recv() {
            lines.push(line);
        }
        self.shown = Picture::default();
        let erased = self.erased();
        write(&erased);
        self.print(&lines);
    }
}

/// At most as many lines as the terminal has, none longer than it is wide.
fn fit(rows: Vec<Row>, columns: usize, height: usize) -> Vec<String> {
    let room = height.saturating_sub(1).max(4);
    let hidden = (rows.len() > room).then(|| rows.len() - (room - 1));
    let shown = rows.len() - hidden.unwrap_or_default();
    let mut lines: Vec<String> = rows
        .into_iter()
        .take(shown)
        .map(|row| clip(&row.0, columns))
        .collect();
    if let Some(hidden) = hidden {
        lines.push(clip(
            &format!("… {hidden} more lines: atoll status"),
            columns,
        ));
    }
    lines
}

/// Columns and rows.
fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => SIZE_UNKNOWN,
    }
}

fn write(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut out = io::stdout().lock();
    // A closed pipe (`atoll up | head`) must not stop the fleet.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Log events become lines on the screen.
impl<'w> tracing_subscriber::fmt::MakeWriter<'w> for Screen {
    type Writer = Event<'w>;

    fn make_writer(&'w self) -> Event<'w> {
        Event {
            screen: self,
            text: Vec::new(),
        }
    }
}

/// One log event on its way.
pub(crate) struct Event<'w> {
    screen: &'w Screen,
    text: Vec<u8>,
}

impl Write for Event<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        self.screen.say(String::from_utf8_lossy(&self.text));
    }
}
