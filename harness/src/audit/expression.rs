//! Arithmetic of a note, over intervals: `100 * abs(compiled / eager - 1)`.

use super::interval::Interval;

/// Deeper brackets than this are refused.
const DEEP: usize = 32;

/// Computes an expression; `name` gives the value of a word. `Err` says what is wrong, in words.
pub(crate) fn evaluate(
    text: &str,
    name: &dyn Fn(&str) -> Result<Interval, String>,
) -> Result<Interval, String> {
    let mut parser = Parser { text, at: 0, depth: 0, name };
    let value = parser.sum()?;
    parser.blank();
    match parser.rest().is_empty() {
        true => Ok(value),
        false => Err(format!("{:?} is left over in {text:?}", parser.rest())),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    name: &'a dyn Fn(&str) -> Result<Interval, String>,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, sign: char) -> bool {
        self.blank();
        let there = self.rest().starts_with(sign);
        self.at += if there { sign.len_utf8() } else { 0 };
        there
    }

    fn sum(&mut self) -> Result<Interval, String> {
        let mut value = self.product()?;
        loop {
            if self.eat('+') {
                value = value + self.product()?;
            } else if self.eat('-') {
                value = value - self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<Interval, String> {
        let mut value = self.factor()?;
        loop {
            if self.eat('*') {
                value = value * self.factor()?;
            } else if self.eat('/') {
                value = value / self.factor()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn factor(&mut self) -> Result<Interval, String> {
        self.depth += 1;
        if self.depth > DEEP {
            return Err(format!("{:?} has too many brackets", self.text));
        }
        let value = if self.eat('(') {
            let value = self.sum()?;
            self.close()?;
            value
        } else if self.eat('-') {
            Interval::exact(0.0) - self.factor()?
        } else {
            self.word()?
        };
        self.depth -= 1;
        Ok(value)
    }

    fn close(&mut self) -> Result<(), String> {
        if self.eat(')') { Ok(()) } else { Err(format!("{:?} lacks a bracket", self.text)) }
    }

    /// A number, a name, or a function of sums.
    fn word(&mut self) -> Result<Interval, String> {
        self.blank();
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let rest = self.rest();
        let word = &rest[..rest.find(|c: char| !inside(c)).unwrap_or(rest.len())];
        self.at += word.len();
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let number: f64 = word.parse().map_err(|_| format!("{word:?} is no number"))?;
            return Ok(Interval::exact(number));
        }
        if word.is_empty() {
            return Err(format!("{:?} ends where a value is wanted", self.text));
        }
        if !self.eat('(') {
            return (self.name)(word);
        }
        let mut values = vec![self.sum()?];
        while self.eat(',') {
            values.push(self.sum()?);
        }
        self.close()?;
        let ends = |pick: fn(f64, f64) -> f64| {
            let low = values.iter().map(|v| v.low).reduce(pick).unwrap_or(f64::NAN);
            let high = values.iter().map(|v| v.high).reduce(pick).unwrap_or(f64::NAN);
            Interval::new(low, high)
        };
        match (word, values.len()) {
            ("abs", 1) => Ok(values[0].abs()),
            ("min", _) => Ok(ends(f64::min)),
            ("max", _) => Ok(ends(f64::max)),
            _ => Err(format!("no function {word} of {} values", values.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Result<(f64, f64), &str>) {
        let name = |word: &str| match word {
            "a" => Ok(Interval::new(9.0, 11.0)),
            _ => Err(format!("no {word}")),
        };
        let found = evaluate(text, &name).map(|value| (value.low, value.high));
        assert_eq!(found, expect.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn arithmetic_keeps_what_rounding_leaves_open() {
        check("2 * (a - 1)", Ok((16.0, 20.0)));
        check("100 / 4 - 5 * 2", Ok((15.0, 15.0)));
        check("abs(-a)", Ok((9.0, 11.0)));
        check("max(a, 10)", Ok((10.0, 11.0)));
    }

    #[test]
    fn mistakes_are_said() {
        check("b", Err("no b"));
        check("(1", Err("\"(1\" lacks a bracket"));
        check("1 1", Err("\"1\" is left over in \"1 1\""));
        check("", Err("\"\" ends where a value is wanted"));
        check("pow(1)", Err("no function pow of 1 values"));
    }
}
