//! `where` conditions: which combinations of a sweep's values are meant.
//!
//! `engine.tensor-parallel-size * engine.replicas <= gpus and not (model.quantize == "awq")`.
//! Names are scenario keys, in full or by their last word where that is unambiguous, and what
//! follows from the machine: `gpus`, `gpu`, `usd-per-hour`. A hyphen belongs to a name; a minus
//! stands between blanks. A key that a combination does not set is `none`, and equal to nothing
//! else.

use std::ops::Range;

/// What a name or an expression amounts to.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    None,
    Number(f64),
    Text(String),
    Truth(bool),
}

impl Operand {
    const fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::Truth(_) => "true or false",
        }
    }
}

/// What is wrong with a condition, and where in its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub at: Range<usize>,
    pub what: String,
}

impl Fault {
    fn new(at: Range<usize>, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

/// A parsed condition.
#[derive(Clone, Debug)]
pub struct Condition {
    root: Expr,
}

#[derive(Clone, Debug)]
struct Expr {
    at: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Literal(Operand),
    Name(String),
    Not(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    In(Box<Expr>, Vec<Expr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Or,
    And,
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Plus,
    Minus,
    Times,
    Over,
}

impl Condition {
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len() };
        let root = parser.expression(0)?;
        match parser.peek() {
            None => Ok(Self { root }),
            Some(token) => Err(Fault::new(token.at.clone(), "expected `and`, `or` or the end")),
        }
    }

    /// The names in it, each with its place.
    pub fn names(&self) -> Vec<(&str, Range<usize>)> {
        fn walk<'a>(expr: &'a Expr, out: &mut Vec<(&'a str, Range<usize>)>) {
            match &expr.kind {
                Kind::Literal(_) => {}
                Kind::Name(name) => out.push((name, expr.at.clone())),
                Kind::Not(inner) => walk(inner, out),
                Kind::Binary(_, left, right) => {
                    walk(left, out);
                    walk(right, out);
                }
                Kind::In(left, list) => {
                    walk(left, out);
                    list.iter().for_each(|item| walk(item, out));
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// Whether it holds where names have the values that `look_up` gives.
    pub fn holds(&self, look_up: &dyn Fn(&str) -> Operand) -> Result<bool, Fault> {
        truth(&self.root, look_up)
    }
}

fn truth(expr: &Expr, look_up: &dyn Fn(&str) -> Operand) -> Result<bool, Fault> {
    match value(expr, look_up)? {
        Operand::Truth(truth) => Ok(truth),
        Operand::None => Ok(false),
        other => {
            let what = format!("this is {}, not true or false", other.kind());
            Err(Fault::new(expr.at.clone(), what))
        }
    }
}

fn value(expr: &Expr, look_up: &dyn Fn(&str) -> Operand) -> Result<Operand, Fault> {
    Ok(match &expr.kind {
        Kind::Literal(literal) => literal.clone(),
        Kind::Name(name) => look_up(name),
        Kind::Not(inner) => Operand::Truth(!truth(inner, look_up)?),
        Kind::In(left, list) => {
            let left = value(left, look_up)?;
            let mut found = false;
            for item in list {
                found |= value(item, look_up)? == left;
            }
            Operand::Truth(found)
        }
        Kind::Binary(Op::And, left, right) => {
            Operand::Truth(truth(left, look_up)? && truth(right, look_up)?)
        }
        Kind::Binary(Op::Or, left, right) => {
            Operand::Truth(truth(left, look_up)? || truth(right, look_up)?)
        }
        Kind::Binary(op, left, right) => {
            let pair = (value(left, look_up)?, value(right, look_up)?);
            return combine(*op, pair, expr);
        }
    })
}

fn combine(op: Op, pair: (Operand, Operand), expr: &Expr) -> Result<Operand, Fault> {
    match (op, &pair) {
        (Op::Equal, (left, right)) => return Ok(Operand::Truth(left == right)),
        (Op::Unequal, (left, right)) => return Ok(Operand::Truth(left != right)),
        // What is not set is neither less nor more.
        (_, (Operand::None, _) | (_, Operand::None)) => return Ok(Operand::None),
        _ => {}
    }
    let (Operand::Number(left), Operand::Number(right)) = pair else {
        let what = format!("{} and {} have no order", pair.0.kind(), pair.1.kind());
        return Err(Fault::new(expr.at.clone(), what));
    };
    Ok(match op {
        Op::Less => Operand::Truth(left < right),
        Op::AtMost => Operand::Truth(left <= right),
        Op::Greater => Operand::Truth(left > right),
        Op::AtLeast => Operand::Truth(left >= right),
        Op::Plus => Operand::Number(left + right),
        Op::Minus => Operand::Number(left - right),
        Op::Times => Operand::Number(left * right),
        Op::Over => Operand::Number(left / right),
        Op::Or | Op::And | Op::Equal | Op::Unequal => unreachable!("taken care of above"),
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Lexeme {
    Literal(Operand),
    Name(String),
    Op(Op),
    Not,
    In,
    Symbol(char),
}

#[derive(Clone, Debug)]
struct Token {
    at: Range<usize>,
    lexeme: Lexeme,
}

fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    const SYMBOLS: [(&str, Op); 10] = [
        ("==", Op::Equal),
        ("!=", Op::Unequal),
        ("<=", Op::AtMost),
        (">=", Op::AtLeast),
        ("<", Op::Less),
        (">", Op::Greater),
        ("+", Op::Plus),
        ("-", Op::Minus),
        ("*", Op::Times),
        ("/", Op::Over),
    ];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (length, lexeme) = if matches!(c, '"' | '\'') {
            let Some(end) = rest[1..].find(c) else {
                return Err(Fault::new(at..text.len(), "the quote is not closed"));
            };
            (end + 2, Lexeme::Literal(Operand::Text(rest[1..=end].to_owned())))
        } else if c.is_ascii_digit() {
            let length = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_')))
                .unwrap_or(rest.len());
            let number = rest[..length].replace('_', "").parse().map_err(|_| {
                let what = format!("{:?} is not a number", &rest[..length]);
                Fault::new(at..at + length, what)
            })?;
            (length, Lexeme::Literal(Operand::Number(number)))
        } else if c.is_ascii_alphabetic() {
            let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
            let length = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
            (length, word(&rest[..length]))
        } else if let Some((symbol, op)) = SYMBOLS.iter().find(|(s, _)| rest.starts_with(s)) {
            (symbol.len(), Lexeme::Op(*op))
        } else if matches!(c, '(' | ')' | '[' | ']' | ',') {
            (1, Lexeme::Symbol(c))
        } else {
            let what = match c {
                '=' => "to compare, write `==`".to_owned(),
                '&' => "write `and`".to_owned(),
                '|' => "write `or`".to_owned(),
                '!' => "write `not`, or `!=`".to_owned(),
                _ => format!("{c:?} means nothing here"),
            };
            return Err(Fault::new(at..at + c.len_utf8(), what));
        };
        tokens.push(Token { at: at..at + length, lexeme });
        at += length;
    }
    Ok(tokens)
}

fn word(word: &str) -> Lexeme {
    match word {
        "and" => Lexeme::Op(Op::And),
        "or" => Lexeme::Op(Op::Or),
        "not" => Lexeme::Not,
        "in" => Lexeme::In,
        "true" => Lexeme::Literal(Operand::Truth(true)),
        "false" => Lexeme::Literal(Operand::Truth(false)),
        "none" => Lexeme::Literal(Operand::None),
        name => Lexeme::Name(name.to_owned()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next).cloned();
        self.next += usize::from(token.is_some());
        token
    }

    /// How tightly an operator binds its sides.
    const fn strength(op: Op) -> u8 {
        match op {
            Op::Or => 1,
            Op::And => 2,
            Op::Equal | Op::Unequal | Op::Less | Op::AtMost | Op::Greater | Op::AtLeast => 4,
            Op::Plus | Op::Minus => 5,
            Op::Times | Op::Over => 6,
        }
    }

    /// Deeper nesting than this is not a condition that somebody wrote.
    const DEPTH: usize = 4096;

    fn expression(&mut self, weakest: u8) -> Result<Expr, Fault> {
        if self.tokens.len() > Self::DEPTH {
            return Err(Fault::new(0..self.end, "the condition is too long"));
        }
        let mut left = self.operand()?;
        while let Some(token) = self.peek() {
            let (strength, op) = match token.lexeme {
                Lexeme::Op(op) => (Self::strength(op), Some(op)),
                Lexeme::In => (4, None),
                _ => break,
            };
            if strength <= weakest {
                break;
            }
            self.next += 1;
            let kind = match op {
                Some(op) => {
                    let right = self.expression(strength)?;
                    let at = left.at.start..right.at.end;
                    left = Expr { at, kind: Kind::Binary(op, Box::new(left), Box::new(right)) };
                    continue;
                }
                None => self.list()?,
            };
            let at = left.at.start..self.tokens[self.next - 1].at.end;
            left = Expr { at, kind: Kind::In(Box::new(left), kind) };
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expr, Fault> {
        let Some(token) = self.take() else {
            return Err(Fault::new(self.end..self.end, "the condition ends too early"));
        };
        let at = token.at.clone();
        let kind = match token.lexeme {
            Lexeme::Literal(literal) => Kind::Literal(literal),
            Lexeme::Name(name) => Kind::Name(name),
            // Looser than a comparison: `not a == b` denies the whole of it.
            Lexeme::Not => Kind::Not(Box::new(self.expression(3)?)),
            Lexeme::Op(Op::Minus) => {
                let zero = Expr { at: at.clone(), kind: Kind::Literal(Operand::Number(0.0)) };
                Kind::Binary(Op::Minus, Box::new(zero), Box::new(self.expression(6)?))
            }
            Lexeme::Symbol('(') => {
                let inner = self.expression(0)?;
                self.close(')', &at)?;
                return Ok(inner);
            }
            _ => return Err(Fault::new(at, "expected a name, a number or text")),
        };
        Ok(Expr { at, kind })
    }

    fn list(&mut self) -> Result<Vec<Expr>, Fault> {
        let open = self.take();
        let Some(Token { at, lexeme: Lexeme::Symbol('[') }) = open else {
            let at = open.map_or(self.end..self.end, |token| token.at);
            return Err(Fault::new(at, "after `in` comes a list, as in [1, 2]"));
        };
        let mut items = Vec::new();
        loop {
            items.push(self.expression(0)?);
            if !matches!(self.peek(), Some(Token { lexeme: Lexeme::Symbol(','), .. })) {
                break;
            }
            self.next += 1;
        }
        self.close(']', &at)?;
        Ok(items)
    }

    fn close(&mut self, symbol: char, open: &Range<usize>) -> Result<(), Fault> {
        match self.take() {
            Some(Token { lexeme: Lexeme::Symbol(found), .. }) if found == symbol => Ok(()),
            _ => Err(Fault::new(open.clone(), format!("`{symbol}` is missing"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look_up(name: &str) -> Operand {
        match name {
            "tp" => Operand::Number(4.0),
            "gpus" => Operand::Number(8.0),
            "model.quantize" => Operand::Text("awq".into()),
            "on" => Operand::Truth(true),
            _ => Operand::None,
        }
    }

    #[test]
    fn conditions_mean_what_they_say() {
        let cases = [
            ("tp <= gpus", true),
            ("tp * 2 == gpus and on", true),
            ("tp + 2 * 2 == gpus", true),
            ("gpus - tp - 4 == 0", true),
            ("not tp == gpus", true),
            ("not (tp < gpus) or false", false),
            ("model.quantize in [\"gptq\", 'awq']", true),
            ("tp in [1, 2]", false),
            ("absent < 3", false),
            ("absent == none and tp != none", true),
            ("-4 < -tp + 1", true),
            ("on or tp == 1 and false", true),
        ];
        for (text, want) in cases {
            let condition = Condition::parse(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(condition.holds(&look_up), Ok(want), "{text}");
        }
    }

    #[test]
    fn faults_point_at_their_place() {
        let cases = [
            ("tp = 4", 3..4, "write `==`"),
            ("tp <", 4..4, "too early"),
            ("(tp < 4", 0..1, "`)` is missing"),
            ("tp < 4 gpus", 7..11, "expected `and`"),
            ("tp in 4", 6..7, "a list"),
            ("tp < 4x", 5..7, "not a number"),
            ("'tp", 0..3, "not closed"),
            ("tp && on", 3..4, "`and`"),
        ];
        for (text, at, what) in cases {
            let fault = Condition::parse(text).unwrap_err();
            assert_eq!(fault.at, at, "{text}");
            assert!(fault.what.contains(what), "{text}: {}", fault.what);
        }
        let texts = Condition::parse("model.quantize < 3").unwrap();
        assert_eq!(texts.holds(&look_up).unwrap_err().at, 0..18);
        let number = Condition::parse("tp and on").unwrap();
        assert!(number.holds(&look_up).unwrap_err().what.contains("not true or false"));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parser(text in "[a-z0-9 .<>=!()\\[\\],+*/'\"-]{0,60}|\\PC{0,20}") {
            if let Ok(condition) = Condition::parse(&text) {
                let _ = condition.holds(&look_up);
            }
        }
    }
}
