//! Numbers as people read them. Names elsewhere end in their unit (`elapsed_s`, `length_bytes`); these
//! wrappers only write them.

use std::fmt;

/// Bytes in binary units: `43.1 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A count in decimal units: `10.2M`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Count(pub f64);

/// Seconds as `0.4s`, `12s`, `3m20s`, `2h05m`, `4d03h`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        scaled(f, self.0 as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.abs() < 1000.0 && self.0.fract() == 0.0 {
            return write!(f, "{}", self.0);
        }
        scaled(f, self.0, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_finite() || self.0 < 0.0 {
            return f.write_str("?");
        }
        if self.0 < 9.95 {
            return write!(f, "{:.1}s", self.0);
        }
        let seconds = self.0.round() as u64;
        match seconds {
            0..60 => write!(f, "{seconds}s"),
            60..3600 => write!(f, "{}m{:02}s", seconds / 60, seconds % 60),
            3600..86400 => write!(f, "{}h{:02}m", seconds / 3600, seconds / 60 % 60),
            _ => write!(f, "{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
        }
    }
}

/// Three significant digits and the largest unit that keeps the number at 1 or above.
fn scaled(f: &mut fmt::Formatter<'_>, mut value: f64, base: f64, units: &[&str]) -> fmt::Result {
    let mut unit = 0;
    // 999.5 would be written as 1000 in three digits: it belongs to the next unit.
    while value.abs() >= base - 0.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let digits = if value.abs() < 9.995 {
        2
    } else if value.abs() < 99.95 {
        1
    } else {
        0
    };
    write!(f, "{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_people_write() {
        let cases = [
            (Bytes(512).to_string(), "512 B"),
            (Bytes(46_279_297_434).to_string(), "43.1 GiB"),
            (Bytes(1 << 20).to_string(), "1.00 MiB"),
            (Count(999.0).to_string(), "999"),
            (Count(999_900.0).to_string(), "1.00M"),
            (Count(10_200_000.0).to_string(), "10.2M"),
            (Count(0.5).to_string(), "0.50"),
            (Seconds(0.42).to_string(), "0.4s"),
            (Seconds(200.0).to_string(), "3m20s"),
            (Seconds(7500.0).to_string(), "2h05m"),
            (Seconds(f64::INFINITY).to_string(), "?"),
        ];
        for (written, expected) in cases {
            assert_eq!(written, expected);
        }
    }
}
