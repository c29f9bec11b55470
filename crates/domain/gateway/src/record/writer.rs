//! The task that writes the access log.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_runtime::Stop;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Record, Recorded, json, text};
use crate::config::{AccessLog, LogFormat};

/// Between two batches: long enough to write many lines at once, short enough for
/// somebody who watches the file.
const BATCH_EVERY: Duration = Duration::from_millis(100);

/// Records taken from one worker in one batch, which bounds the batch's memory.
const BATCH_RECORDS_MAX: usize = 4_096;

/// Appends what workers record to the file that `settings` names (`default_path`
/// when it names none) until `stop`, then what is left. Made mode 0600 when it is not
/// there; opened anew when it was moved away (logrotate) or `settings` change.
///
/// To be run by `Tasks::run`; a batch that cannot be written is lost and counted.
pub async fn write(
    recorded: Recorded,
    mut settings: watch::Receiver<AccessLog>,
    default_path: PathBuf,
    stop: Stop,
) {
    let mut queues = recorded.queues.lock().await;
    let mut log = Log::default();
    let mut records = Vec::new();
    loop {
        let stopping = stop.unless(tokio::time::sleep(BATCH_EVERY)).await.is_none();
        let wanted = settings.borrow_and_update().clone();
        loop {
            for queue in queues.iter_mut() {
                let room = records.len() + BATCH_RECORDS_MAX;
                while records.len() < room
                    && let Ok(record) = queue.try_recv()
                {
                    records.push(record);
                }
            }
            if records.is_empty() {
                break;
            }
            let path = wanted.path.as_deref().unwrap_or(&default_path);
            log.append(&records, wanted.format, path, &recorded).await;
            records.clear();
            if !stopping {
                break;
            }
        }
        if stopping {
            return;
        }
    }
}

#[derive(Default)]
struct Log {
    open: Option<Open>,
    lines: String,
    /// Said once, until it works again.
    failing: bool,
}

struct Open {
    file: File,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    /// A batch was cut short within a line.
    torn: bool,
}

impl Log {
    async fn append(
        &mut self,
        records: &[Record],
        format: LogFormat,
        path: &Path,
        recorded: &Recorded,
    ) {
        let line: fn(&Record, &mut String) = match format {
            LogFormat::Off => return,
            LogFormat::Text => text,
            LogFormat::Json => json,
        };
        self.lines.clear();
        for record in records {
            line(record, &mut self.lines);
        }
        match self.write(path).await {
            Ok(()) if self.failing => {
                self.failing = false;
                info!(path = %path.display(), "the access log can be written again");
            }
            Ok(()) => {}
            Err(error) => {
                recorded.metrics.records_dropped.add(records.len() as u64);
                if !self.failing {
                    self.failing = true;
                    warn!(path = %path.display(), %error, "the access log cannot be written");
                }
            }
        }
    }

    async fn write(&mut self, path: &Path) -> io::Result<()> {
        let open = match self.open.take() {
            Some(open) if open.path == path && identity(path).await.ok() == Some(open.identity) => {
                open
            }
            _ => Open::at(path).await?,
        };
        let open = self.open.insert(open);
        if open.torn {
            open.file.write_all(b"\n").await?;
        }
        // Whole again only when all of it is out.
        open.torn = true;
        open.file.write_all(self.lines.as_bytes()).await?;
        open.file.flush().await?;
        open.torn = false;
        Ok(())
    }
}

impl Open {
    async fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .await?;
        let metadata = file.metadata().await?;
        Ok(Self {
            file,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            torn: false,
        })
    }
}

async fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = tokio::fs::metadata(path).await?;
    Ok((metadata.dev(), metadata.ino()))
}
