//! Colour on a terminal, plain text everywhere else.

/// How text for people is decorated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
}

impl Style {
    pub const PLAIN: Self = Self { colour: false };

    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A number with about `digits` significant digits and thousands separated by commas, as people read
/// it: `1234567.8` is `1,234,568`, `0.04567` is `0.0457`.
pub fn number(value: f64, digits: u32) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let decimals = (digits as i32 - 1 - magnitude).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = grouped(whole);
    if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") }
}

/// A whole number with thousands separated; the mean of several keeps two decimals.
pub fn count(value: f64) -> String {
    if value.fract() == 0.0 { grouped(&format!("{value:.0}")) } else { number(value, 4) }
}

/// Commas between groups of three digits.
fn grouped(whole: &str) -> String {
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |rest| ("-", rest));
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_significant_digits() {
        let cases = [
            (0.0, "0"),
            (0.04567, "0.0457"),
            (161.3042, "161"),
            (1_234_567.8, "1,234,568"),
            (-1234.0, "-1,234"),
            (9.999, "10.00"),
            (f64::INFINITY, "-"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value, 3), text);
        }
    }

    #[test]
    fn whole_counts_have_no_decimals() {
        assert_eq!(count(16384.0), "16,384");
        assert_eq!(count(0.5), "0.5000");
    }

    #[test]
    fn plain_style_leaves_text_alone() {
        assert_eq!(Style::PLAIN.bad("no"), "no");
        assert_eq!(Style { colour: true }.bad("no"), "\x1b[1;31mno\x1b[0m");
    }
}
