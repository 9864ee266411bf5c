//! Numbers for people.

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bits a second with a decimal prefix and three digits: `4.70 Gbit/s`.
#[must_use]
pub fn bit_rate(bits_per_second: u64) -> String {
    const PREFIXES: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = bits_per_second as f64;
    let found = PREFIXES.iter().find(|(unit, _)| value >= unit * 0.9995);
    let Some((unit, prefix)) = found else {
        return format!("{bits_per_second} bit/s");
    };
    let scaled = value / unit;
    let digits = match scaled {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$} {prefix}bit/s")
}

/// The share `part / whole` in percent with one digit; `-` of nothing.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { ratio_percent(part as f64 / whole as f64) }
}

/// A share from 0 to 1 in percent with one digit.
#[must_use]
pub fn ratio_percent(ratio: f64) -> String {
    format!("{:.1}%", ratio * 100.0)
}

/// Seconds as `1d 02:03:04`, the days only where there are any.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days == 0 { clock } else { format!("{days}d {clock}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(thousands(value), text);
        }
        for (value, text) in [
            (0, "0 bit/s"),
            (999, "999 bit/s"),
            (1_000, "1.00 kbit/s"),
            (9_996, "10.0 kbit/s"),
            (999_400, "999 kbit/s"),
            (999_600, "1.00 Mbit/s"),
            (4_700_000_000, "4.70 Gbit/s"),
            (123_456_000_000, "123 Gbit/s"),
            (2_000_000_000_000, "2.00 Tbit/s"),
        ] {
            assert_eq!(bit_rate(value), text);
        }
        assert_eq!((percent(1, 3).as_str(), percent(1, 0).as_str()), ("33.3%", "-"));
        assert_eq!((duration(59).as_str(), duration(93_784).as_str()), ("00:00:59", "1d 02:03:04"));
    }
}
