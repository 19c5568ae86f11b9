//! A row of CSV as it grows. A run writes one for every request or step, so that numbers are written
//! by themselves and not through the machinery of `format!`, which takes five times as long.

use std::io::Write as _;

use crate::time::SimDuration;

/// The fields so far, each with the comma before it.
#[derive(Debug, Default)]
pub struct Row {
    bytes: Vec<u8>,
}

impl Row {
    pub const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// The row with its end.
    pub fn line(&mut self) -> &[u8] {
        self.bytes.push(b'\n');
        &self.bytes
    }

    fn separate(&mut self) {
        if !self.bytes.is_empty() {
            self.bytes.push(b',');
        }
    }

    /// A field of our own words, which need no quotes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.separate();
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    pub fn whole(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.separate();
        self.digits(number);
        self
    }

    fn digits(&mut self, number: impl itoa::Integer) {
        self.bytes.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    /// Empty where there is nothing.
    pub fn whole_if(&mut self, number: Option<impl itoa::Integer>) -> &mut Self {
        match number {
            Some(number) => self.whole(number),
            None => self.text(""),
        }
    }

    /// The shortest text that is read back as the same number.
    pub fn number_if(&mut self, number: Option<f64>) -> &mut Self {
        self.separate();
        if let Some(number) = number {
            write!(self.bytes, "{number}").expect("a Vec takes any bytes");
        }
        self
    }

    /// In milliseconds.
    pub fn millis_if(&mut self, span: Option<SimDuration>) -> &mut Self {
        /// 11 days. Up to 15 digits, the shortest text of an f64 is the decimal that it was made of.
        const EXACT: u64 = 1_000_000_000_000_000;
        const NANOS: u64 = 1_000_000;
        let Some(nanos) = span.map(SimDuration::as_nanos) else { return self.text("") };
        if nanos >= EXACT {
            return self.number_if(Some(nanos as f64 / 1e6));
        }
        self.whole(nanos / NANOS);
        let mut rest = nanos % NANOS;
        if rest > 0 {
            self.bytes.push(b'.');
            let mut place = NANOS / 10;
            while rest > 0 {
                self.bytes.push(b'0' + u8::try_from(rest / place).expect("a digit"));
                rest %= place;
                place /= 10;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(fill: impl FnOnce(&mut Row)) -> String {
        let mut row = Row::new();
        fill(&mut row);
        String::from_utf8(row.line().to_vec()).unwrap()
    }

    #[test]
    fn fields_are_separated_and_nothing_is_an_empty_field() {
        let text = written(|row| {
            row.whole(7u64).text("ok").whole_if(None::<u32>).whole(-3).number_if(Some(0.5));
            row.number_if(None).millis_if(None).millis_if(Some(SimDuration::from_nanos(50_000)));
        });
        assert_eq!(text, "7,ok,,-3,0.5,,,0.05\n");
    }

    proptest! {
        #[test]
        fn milliseconds_are_written_as_the_nearest_number_would_be(nanos: u64, shift in 0u32..64) {
            let nanos = nanos >> shift;
            let text = written(|row| {
                row.millis_if(Some(SimDuration::from_nanos(nanos)));
            });
            prop_assert_eq!(text, format!("{}\n", nanos as f64 / 1e6));
        }
    }
}
