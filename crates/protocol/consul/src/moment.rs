//! Points in time as Consul writes them.

/// `2017-03-06T22:07:51Z` (RFC 3339), in UTC, from milliseconds since 1970.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let (date, [hours, minutes, seconds]) = parts(unix_ms);
    format!("{date}T{hours:02}:{minutes:02}:{seconds:02}Z")
}

/// `2017-08-08 02:55:10 +0000 UTC`, as Go prints times.
pub(crate) fn go_time(unix_ms: u64) -> String {
    let (date, [hours, minutes, seconds]) = parts(unix_ms);
    format!("{date} {hours:02}:{minutes:02}:{seconds:02} +0000 UTC")
}

/// The date, and the time of the day.
fn parts(unix_ms: u64) -> (String, [u64; 3]) {
    let seconds = unix_ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March have their leap day last; 719,468 days lie between the
    // first of March of the year 0 and 1970 (Hinnant, "chrono-compatible low-level date
    // algorithms", civil_from_days).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let date = format!("{year:04}-{month:02}-{day:02}");
    (date, [of_day / 3600, of_day / 60 % 60, of_day % 60])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_488_838_071, "2017-03-06T22:07:51Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1000 + 999), text);
        }
        assert_eq!(go_time(1_502_160_910_000), "2017-08-08 02:55:10 +0000 UTC");
    }
}
