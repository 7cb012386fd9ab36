//! `strftime` of a wall-clock time without a zone, as Python's `datetime.now().strftime` prints it in the C locale.

use std::fmt::Write as _;

/// A local wall-clock time; the layout is that of `sluice_text.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CivilTime {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    pub microsecond: i32,
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl CivilTime {
    pub fn is_valid(&self) -> bool {
        (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && (0..24).contains(&self.hour)
            && (0..60).contains(&self.minute)
            && (0..62).contains(&self.second)
            && (0..1_000_000).contains(&self.microsecond)
    }

    /// Days since 1970-01-01 in the Gregorian calendar.
    fn days(year: i32, month: i32, day: i32) -> i64 {
        let (year, month) = if month <= 2 { (i64::from(year) - 1, month + 12) } else { (i64::from(year), month) };
        let era = year.div_euclid(400);
        let of_era = year.rem_euclid(400);
        let of_year = (153 * (i64::from(month) - 3) + 2) / 5 + i64::from(day) - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
    }

    /// 0 is Sunday.
    fn weekday(&self) -> usize {
        (Self::days(self.year, self.month, self.day) + 4).rem_euclid(7) as usize
    }

    /// 1 is the first of January.
    fn day_of_year(&self) -> i64 {
        Self::days(self.year, self.month, self.day) - Self::days(self.year, 1, 1) + 1
    }

    /// ISO 8601 year and week.
    fn iso_week(&self) -> (i32, i64) {
        let monday_based = (self.weekday() as i64 + 6) % 7;
        let thursday = Self::days(self.year, self.month, self.day) - monday_based + 3;
        let mut year = self.year;
        if thursday < Self::days(year, 1, 1) {
            year -= 1;
        } else if thursday >= Self::days(year + 1, 1, 1) {
            year += 1;
        }
        (year, (thursday - Self::days(year, 1, 1)) / 7 + 1)
    }
}

/// Two or more digits, with glibc's flags: `-` no padding, `_` spaces.
fn digits(out: &mut String, number: i64, width: usize, flag: Option<char>, pad: char) {
    let pad = if flag == Some('_') {
        ' '
    } else if flag == Some('0') {
        '0'
    } else {
        pad
    };
    let text = number.to_string();
    if flag != Some('-') {
        for _ in text.len()..width {
            out.push(pad);
        }
    }
    out.push_str(&text);
}

/// Formats `time`; what is no directive is copied.
pub fn format(time: &CivilTime, pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let Some(mut directive) = chars.next() else {
            out.push('%');
            break;
        };
        let mut flag = None;
        if matches!(directive, '-' | '_' | '0' | '^' | '#') {
            flag = Some(directive);
            match chars.next() {
                Some(next) => directive = next,
                None => {
                    out.push('%');
                    out.push(directive);
                    break;
                }
            }
        }
        let start = out.len();
        let hour12 = i64::from((time.hour + 11) % 12 + 1);
        let weekday = time.weekday();
        let month_name = MONTHS[(time.month - 1) as usize];
        match directive {
            'a' => out.push_str(&DAYS[weekday][..3]),
            'A' => out.push_str(DAYS[weekday]),
            'b' | 'h' => out.push_str(&month_name[..3]),
            'B' => out.push_str(month_name),
            'C' => digits(&mut out, i64::from(time.year / 100), 2, flag, '0'),
            'd' => digits(&mut out, i64::from(time.day), 2, flag, '0'),
            'e' => digits(&mut out, i64::from(time.day), 2, flag, ' '),
            'f' => digits(&mut out, i64::from(time.microsecond), 6, None, '0'),
            'g' => digits(&mut out, i64::from(time.iso_week().0 % 100), 2, flag, '0'),
            'G' => digits(&mut out, i64::from(time.iso_week().0), 1, flag, '0'),
            'H' => digits(&mut out, i64::from(time.hour), 2, flag, '0'),
            'I' => digits(&mut out, hour12, 2, flag, '0'),
            'j' => digits(&mut out, time.day_of_year(), 3, flag, '0'),
            'k' => digits(&mut out, i64::from(time.hour), 2, flag, ' '),
            'l' => digits(&mut out, hour12, 2, flag, ' '),
            'm' => digits(&mut out, i64::from(time.month), 2, flag, '0'),
            'M' => digits(&mut out, i64::from(time.minute), 2, flag, '0'),
            'n' => out.push('\n'),
            'p' => out.push_str(if time.hour < 12 { "AM" } else { "PM" }),
            'P' => out.push_str(if time.hour < 12 { "am" } else { "pm" }),
            'S' => digits(&mut out, i64::from(time.second), 2, flag, '0'),
            't' => out.push('\t'),
            'u' => digits(&mut out, (weekday as i64 + 6) % 7 + 1, 1, flag, '0'),
            'U' => digits(&mut out, (time.day_of_year() + 6 - weekday as i64) / 7, 2, flag, '0'),
            'V' => digits(&mut out, time.iso_week().1, 2, flag, '0'),
            'w' => digits(&mut out, weekday as i64, 1, flag, '0'),
            'W' => digits(&mut out, (time.day_of_year() + 6 - (weekday as i64 + 6) % 7) / 7, 2, flag, '0'),
            'y' => digits(&mut out, i64::from(time.year % 100), 2, flag, '0'),
            'Y' => digits(&mut out, i64::from(time.year), 1, flag, '0'),
            'z' | 'Z' => {}
            'c' => out.push_str(&format(time, "%a %b %e %H:%M:%S %Y")),
            'D' | 'x' => out.push_str(&format(time, "%m/%d/%y")),
            'F' => {
                let _ = write!(out, "{}-{:02}-{:02}", time.year, time.month, time.day);
            }
            'r' => out.push_str(&format(time, "%I:%M:%S %p")),
            'R' => out.push_str(&format(time, "%H:%M")),
            'T' | 'X' => out.push_str(&format(time, "%H:%M:%S")),
            '%' => out.push('%'),
            other => {
                out.push('%');
                out.extend(flag);
                out.push(other);
            }
        }
        if flag == Some('^') {
            let upper = out[start..].to_uppercase();
            out.replace_range(start.., &upper);
        }
    }
    out
}
