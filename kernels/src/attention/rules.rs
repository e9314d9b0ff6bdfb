//! What the builtin programs say, in plain Rust: an answer for the oracle that reads none of their text.
//!
//! The oracle in f64 is compiled with the same text of a mask or score as the kernel that it judges, so a
//! text that says another thing than its name would pass. Here each rule is written down a second time.

use super::program::Program;

/// What a rule may see: as `Problem` in `program.cuh`.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Which program; one that is none of [`Program::BUILTIN`] sees everything, and changes no score.
    pub program: &'a Program,
    /// Queries of the sequence.
    pub queries: usize,
    /// Keys of the sequence.
    pub keys: usize,
    /// The program's numbers.
    pub numbers: &'a [i32],
    /// The program's parameter.
    pub number: i32,
    /// The program's parameter.
    pub factor: f64,
}

impl Rule<'_> {
    fn is(&self, program: &Program) -> bool {
        self.program.name == program.name
    }

    /// Where a query stands among the keys; the last beside the last.
    fn position(&self, query: usize) -> i64 {
        query as i64 + self.keys as i64 - self.queries as i64
    }

    /// Keys that a query sees, in order.
    pub fn seen(&self, query: usize) -> Vec<usize> {
        let own = self.position(query);
        let number = i64::from(self.number);
        let before = |key: i64| key <= own;
        let of = |key: i64| usize::try_from(key).ok().and_then(|key| self.numbers.get(key));
        let sees = |key: i64| {
            if self.is(&Program::CAUSAL) || self.is(&Program::ALIBI) {
                before(key)
            } else if self.is(&Program::WINDOW) {
                (own - number + 1..=own).contains(&key)
            } else if self.is(&Program::PREFIX) {
                (0..number).contains(&key) || before(key)
            } else if self.is(&Program::DOCUMENTS) {
                before(key) && of(key) == of(own)
            } else if self.is(&Program::DILATED) {
                before(key) && (own - key) % number == 0
            } else if self.is(&Program::BRANCHING) {
                before(key) && self.branches(own, key)
            } else {
                true
            }
        };
        (0..self.keys).filter(|&key| sees(key as i64)).collect()
    }

    /// Kind 0 sees all before it, kind 2 those of its kind and itself, kind 1 from the nearest of kind 2
    /// among so many behind it on, or else from as far back as it looked.
    fn branches(&self, own: i64, key: i64) -> bool {
        let kind = |position: i64| self.numbers[position as usize];
        match kind(own) {
            0 => true,
            2 => key == own || kind(key) == 2,
            _ => {
                let far = own - i64::from(self.number);
                let nearest = (far.max(-1) + 1..=own).rev().find(|&position| kind(position) == 2);
                key >= nearest.unwrap_or(far)
            }
        }
    }

    /// The score of a pair, of q k times the scale.
    fn score(&self, score: f64, head: usize, query: usize, key: usize) -> f64 {
        if self.is(&Program::ALIBI) {
            let slope = f64::from(f32::from_bits(self.numbers[head] as u32));
            return score - slope * (self.position(query) - key as i64) as f64;
        }
        if self.is(&Program::SOFT_CAP) {
            return self.factor * (score / self.factor).tanh();
        }
        score
    }

    /// Output and log-sum-exp of one query over keys and values in rows; zeros and minus infinity where it
    /// sees nothing.
    pub fn attend(
        &self,
        (head, query): (usize, usize),
        q: &[f64],
        keys: &[Vec<f64>],
        values: &[Vec<f64>],
        scale: f64,
    ) -> (Vec<f64>, f64) {
        let seen = self.seen(query);
        let dot = |key: &[f64]| q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>();
        let scores: Vec<f64> =
            seen.iter().map(|&key| self.score(dot(&keys[key]) * scale, head, query, key)).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0; q.len()];
        for (&key, weight) in seen.iter().zip(&weights) {
            for (sum, value) in out.iter_mut().zip(&values[key]) {
                *sum += weight / total * value;
            }
        }
        (out, if seen.is_empty() { f64::NEG_INFINITY } else { top + total.ln() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last of four queries over six keys sees, and the first.
    #[track_caller]
    fn check(program: Program, numbers: &[i32], number: i32, last: &[usize], first: &[usize]) {
        let program = &program;
        let rule = Rule { program, queries: 4, keys: 6, numbers, number, factor: 1.0 };
        assert_eq!((rule.seen(3).as_slice(), rule.seen(0).as_slice()), (last, first));
    }

    #[test]
    fn rules_by_hand() {
        check(Program::PLAIN, &[], 0, &[0, 1, 2, 3, 4, 5], &[0, 1, 2, 3, 4, 5]);
        check(Program::CAUSAL, &[], 0, &[0, 1, 2, 3, 4, 5], &[0, 1, 2]);
        check(Program::WINDOW, &[], 2, &[4, 5], &[1, 2]);
        check(Program::PREFIX, &[], 4, &[0, 1, 2, 3, 4, 5], &[0, 1, 2, 3]);
        check(Program::DILATED, &[], 2, &[1, 3, 5], &[0, 2]);
        check(Program::DOCUMENTS, &[7, 8, 8, 8, 9, 9], 0, &[4, 5], &[1, 2]);
    }

    #[test]
    fn branches_by_hand() {
        let check = |numbers: &[i32], last: &[usize], first: &[usize]| {
            check(Program::BRANCHING, numbers, 3, last, first);
        };
        check(&[0, 2, 0, 1, 1, 0], &[0, 1, 2, 3, 4, 5], &[0, 1, 2]);
        check(&[2, 1, 2, 1, 2, 2], &[0, 2, 4, 5], &[0, 2]);
        // The last looks at 5, 4 and 3, finds one at 4; the first looks at 2, 1 and 0 and finds one at 0.
        check(&[2, 0, 1, 0, 2, 1], &[4, 5], &[0, 1, 2]);
        // The last looks at 5, 4 and 3 and finds none: it sees from one before them on.
        check(&[0, 0, 2, 1, 1, 1], &[2, 3, 4, 5], &[2]);
    }

    #[test]
    fn rows_by_hand() {
        let rule = |program, numbers, factor| Rule {
            program,
            queries: 2,
            keys: 2,
            numbers,
            number: 0,
            factor,
        };
        let (q, k) = ([1.0], [vec![0.0], vec![2.0]]);
        let v = [vec![10.0], vec![20.0]];
        let check = |rule: Rule<'_>, score: f64| {
            let (out, lse) = rule.attend((0, 1), &q, &k, &v, 0.5);
            let weight = score.exp() / (1.0 + score.exp());
            approx::assert_relative_eq!(out[0], 10.0 + 10.0 * weight, epsilon = 1e-12);
            approx::assert_relative_eq!(lse, (1.0 + score.exp()).ln(), epsilon = 1e-12);
        };
        check(rule(&Program::CAUSAL, &[], 0.0), 1.0);
        check(rule(&Program::SOFT_CAP, &[], 2.0), 2.0 * 0.5f64.tanh());
        // A slope of 3 takes 3 from the key before, which leaves the own one 3 higher.
        let slope = [3f32.to_bits() as i32];
        let (out, lse) = rule(&Program::ALIBI, &slope, 0.0).attend((0, 1), &q, &k, &v, 0.5);
        let total = 1f64.exp() + (-3f64).exp();
        approx::assert_relative_eq!(out[0], 10.0 + 10.0 * 1f64.exp() / total, epsilon = 1e-12);
        approx::assert_relative_eq!(lse, total.ln(), epsilon = 1e-12);
        // More queries than keys: the first sees nothing.
        let early = Rule { queries: 4, ..rule(&Program::CAUSAL, &[], 0.0) };
        assert_eq!(early.attend((0, 0), &q, &k, &v, 0.5), (vec![0.0], f64::NEG_INFINITY));
    }
}
