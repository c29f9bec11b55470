//! Moments as Consul writes them in tokens: RFC 3339.

const DAY_S: u64 = 86_400;

/// Milliseconds since 1970, in UTC.
pub(crate) fn shown(ms: u64) -> String {
    let (days, second) = (ms / 1000 / DAY_S, ms / 1000 % DAY_S);
    // Days count from March of year 0, so that a leap day is a year's last (H. Hinnant,
    // "chrono-compatible low-level date algorithms", `civil_from_days`).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year_of_era + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let millis = ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Reads what stands for a moment since 1970, with any offset; fractions of a second are
/// cut to milliseconds.
pub(crate) fn parsed(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| plain)
    };
    let is = |at: usize, any: &[u8]| text.as_bytes().get(at).is_some_and(|b| any.contains(b));
    let formed = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_of = [
        31,
        28 + i64::from(leap),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let most = *days_of.get(usize::try_from(month - 1).ok()?)?;
    if !formed || !(1..=most).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let digits = format!("{:0<3}", fraction.get(..end.min(3))?);
        millis = digits.parse::<i64>().ok().filter(|_| end > 0)?;
        rest = fraction.get(end..)?;
    }
    let offset_minutes = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.get(..1)? {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            let at = text.len() - rest.len();
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if rest.len() != 6 || !is(at + 3, b":") || hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 60 + minutes)
        }
    };
    let before = (0..year).fold(-719_528, |days, year| {
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        days + 365 + i64::from(leap)
    });
    let months: i64 = days_of.iter().take(usize::try_from(month - 1).ok()?).sum();
    let days = before + months + day - 1;
    let minutes = (days * 24 + hour) * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1000 + millis).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_540_398_326_921, "2018-10-24T16:25:26.921Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(shown(ms), text);
            assert_eq!(parsed(text), Some(ms), "{text}");
        }
        assert_eq!(
            parsed("2018-10-24T12:25:26.921933-04:00"),
            Some(1_540_398_326_921)
        );
        assert_eq!(parsed("2018-10-24T18:25:26+02:00"), Some(1_540_398_326_000));
        for wrong in [
            "",
            "2018-10-24",
            "2018-02-29T00:00:00Z",
            "2018-10-24T24:00:00Z",
            "2018-10-24T12:25:26",
            "2018-10-24T12:25:26.Z",
            "2018-10-24T12:25:26+0200",
            "2018-13-24T12:25:26Z",
            "1969-12-31T23:59:59Z",
            "2018-10-24T12:25:26+02:00x",
            "+018-10-24T12:25:26Z",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..253_402_300_800_000) {
            prop_assert_eq!(parsed(&shown(ms)), Some(ms));
        }

        #[test]
        fn no_text_makes_reading_panic(text in ".{0,40}", near in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.+é0-9:Z-]{0,9}") {
            parsed(&text);
            parsed(&near);
        }
    }
}
