//! Sizes and durations as people write them: `"16KiB"`, `"90d"`, `"1h30m"`.

use std::time::Duration;

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes of a whole number with one of the units `B`, `KiB` (1,024 bytes), `MiB`, `GiB`. `None`: it is none.
///
/// ```
/// # use portcullis::config::parse_size;
/// assert_eq!(parse_size("16KiB"), Some(16_384));
/// assert_eq!(parse_size("16 KB"), None);
/// ```
pub fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = number_and_unit(text)?;
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    count.checked_mul(*factor)
}

/// One or more whole numbers, each with one of the units `ms`, `s`, `m`, `h`, `d`, largest first. `None`: it is none.
///
/// ```
/// # use std::time::Duration;
/// # use portcullis::config::parse_duration;
/// assert_eq!(parse_duration("90d"), Some(Duration::from_secs(90 * 86_400)));
/// assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("5"), None);
/// ```
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut milliseconds = 0_u64;
    let mut last = u64::MAX;
    loop {
        let end = rest
            .char_indices()
            .skip_while(|(_, character)| character.is_ascii_digit())
            .find(|(_, character)| character.is_ascii_digit())
            .map_or(rest.len(), |(index, _)| index);
        let (part, remainder) = rest.split_at_checked(end)?;
        let (count, unit) = number_and_unit(part)?;
        let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
        if *factor >= last {
            return None;
        }
        last = *factor;
        milliseconds = milliseconds.checked_add(count.checked_mul(*factor)?)?;
        if remainder.is_empty() {
            return Some(Duration::from_millis(milliseconds));
        }
        rest = remainder;
    }
}

/// The shortest text that [`parse_size`] reads back.
pub fn format_size(bytes: u64) -> String {
    SIZES
        .iter()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .map_or_else(|| "0B".to_owned(), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// A text that [`parse_duration`] reads back; what is below a millisecond is left out.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in DURATIONS {
        if rest >= factor {
            text += &(rest / factor).to_string();
            text += unit;
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_size_is_refused() {
        for text in
            ["", "1", "MiB", "-1MiB", "1.5MiB", "1MB", "1mib", "1 MiB", "99999999999999999999B", "17179869184GiB"]
        {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "5", "m", "-5m", "5M", "1.5h", "5m1h", "1m1m", "5 m", "1h 30m", "999999999999999999999d", "1w", "1é"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn a_formatted_duration_reads_back(milliseconds: u64) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
