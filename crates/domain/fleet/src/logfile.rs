//! A bounded file of output: the current half and the one before.
//!
//! `users-1.log` grows to half of the bound, is renamed to `users-1.log.1` in place of
//! the older half, and begins anew. A disk that is full or gone costs the file, never
//! the service: it is said once and the lines go on in memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::fs::{self, File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tracing::warn;

use crate::output::LogStream;

pub(crate) struct LogFile {
    path: PathBuf,
    half_bytes: u64,
    written: u64,
    /// `None` after a failure.
    file: Option<File>,
    pending: Vec<u8>,
    /// The last time and how it is written: lines of one chunk share it.
    time: (SystemTime, String),
}

impl LogFile {
    /// Opens it to append.
    pub(crate) async fn open(path: &Path, bytes_max: u64) -> Self {
        let mut log = Self {
            path: path.to_owned(),
            half_bytes: (bytes_max / 2).max(1),
            written: 0,
            file: None,
            pending: Vec::new(),
            time: (SystemTime::UNIX_EPOCH, timestamp(SystemTime::UNIX_EPOCH)),
        };
        match log.append().await {
            Ok((file, written)) => (log.file, log.written) = (Some(file), written),
            Err(error) => log.give_up(&error),
        }
        log
    }

    async fn append(&self) -> std::io::Result<(File, u64)> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).await?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(&self.path).await?;
        let written = file.metadata().await?.len();
        Ok((file, written))
    }

    /// Adds a line to what the next flush writes: time, stream, text.
    pub(crate) fn add(&mut self, at: SystemTime, stream: LogStream, text: &str) {
        if self.file.is_none() {
            return;
        }
        if self.time.0 != at {
            self.time = (at, timestamp(at));
        }
        let (at, stream) = (&self.time.1, stream.as_str());
        // Writing to a vector cannot fail.
        drop(writeln!(self.pending, "{at} {stream} {text}"));
    }

    /// Writes what was added.
    pub(crate) async fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Err(error) = self.write().await {
            self.give_up(&error);
        }
        self.pending.clear();
    }

    async fn write(&mut self) -> std::io::Result<()> {
        let bytes = self.pending.len() as u64;
        if self.written > 0 && self.written + bytes > self.half_bytes {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            fs::rename(&self.path, &older).await?;
            let (file, written) = self.append().await?;
            (self.file, self.written) = (Some(file), written);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&self.pending).await?;
            file.flush().await?;
            self.written += bytes;
        }
        Ok(())
    }

    fn give_up(&mut self, error: &std::io::Error) {
        let path = self.path.display();
        warn!(%path, %error, "output cannot be written, it is kept in memory only");
        self.file = None;
    }
}

/// RFC 3339 in UTC with milliseconds; times before 1970 are shown as 1970.
fn timestamp(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (seconds, ms) = (since.as_secs(), since.subsec_millis());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Days to a date in the Gregorian calendar, counted in eras of 400 years that
    // begin on 1 March (H. Hinnant, "chrono-compatible low-level date algorithms").
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799_999, "2024-02-28T23:59:59.999Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ];
        for (ms, expected) in table {
            assert_eq!(
                timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
                expected
            );
        }
    }
}
