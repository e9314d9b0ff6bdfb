//! Rows of a pass whose activations are halves against f64: each stage on what it was really given, and on weights made anew.

use harness::record::Stop;
use kernels::element::Element;
use kernels::generator::below;
use kernels::model::group::Group;
use kernels::model::probe::{Probe, Seen};
use kernels::model::reference::{self, gelu, half, linear_row, norm, read};
use kernels::model::weights::Linear;
use kernels::model::{Config, HEAD_SIZE};

use crate::lab::finite;
use crate::tensor_parallel::bench::halves;

/// Layers that are looked at.
pub const LAYERS: [u32; 3] = [0, 23, 47];

/// Columns of each product that are checked in a row.
const COLUMNS: u32 = 24;

/// The stages of a layer, in order.
pub const STAGES: [&str; 5] = ["qkv", "attention", "out", "up", "down"];
/// Attention's place among them.
pub const ATTENTION: usize = 1;

/// Largest |found - wanted| of each of [`STAGES`] in a row, over the root mean square of what the stage made
/// there; 1e300 where a number is none.
pub fn errors(config: &Config, seen: &Seen) -> [f64; 5] {
    let (d, ff) = (config.d_model, config.d_ff);
    let affine = reference::affine(config);
    let normed =
        |row: &[f64]| read(config.precision, norm(row, &affine).into_iter().map(half).collect());
    let [before, qkv, attended, middle, inner, after] =
        [&seen.before, &seen.qkv, &seen.attended, &seen.middle, &seen.inner, &seen.after]
            .map(|codes| halves(codes));
    // Of a product: what it is added to, what it reads, what it gave.
    let product =
        |linear, added: Option<&[f64]>, input: &[f64], found: &[f64], change: fn(f64) -> f64| {
            let columns = input.len() as u32;
            let off = chosen(config.seed, seen, linear, found.len() as u32).map(|column| {
                let weight = linear_row(config, (linear, seen.layer), columns, column);
                let sum: f64 = weight.iter().zip(input).map(|(w, x)| w * x).sum();
                let at = column as usize;
                let wanted = change(half(sum + added.map_or(0.0, |added| added[at])));
                (found[at] - wanted).abs()
            });
            // Of a sum the size of what the product adds.
            let added = |at: usize| added.map_or(0.0, |added| added[at]);
            let made: Vec<f64> = found.iter().enumerate().map(|(at, x)| x - added(at)).collect();
            over_size(off.collect(), &made)
        };
    let as_it_is: fn(f64) -> f64 = |x| x;
    let behind_gelu: fn(f64) -> f64 = |x| half(gelu(x));
    let eight = config.precision.is_fp8();
    let contracted = match eight {
        true => read(config.precision, inner.iter().copied().map(behind_gelu).collect()),
        false => inner.clone(),
    };
    let up = if eight { as_it_is } else { behind_gelu };
    debug_assert_eq!((before.len(), inner.len()), (d as usize, ff as usize));
    [
        product(Linear::Qkv, None, &normed(&before), &qkv, as_it_is),
        attention(seen, &qkv, &attended, &halves(&seen.keys), &halves(&seen.values)),
        product(
            Linear::Out,
            Some(&before),
            &read(config.precision, attended.clone()),
            &middle,
            as_it_is,
        ),
        product(Linear::Up, None, &normed(&middle), &inner, up),
        product(Linear::Down, Some(&middle), &contracted, &after, as_it_is),
    ]
}

/// Rows to look at and a head, drawn from a counter on: two rows below `limit`, then `last`.
pub fn drawn(seed: u64, counter: u64, (limit, last): (u32, u32), heads: u32) -> (Vec<u32>, u32) {
    let row = |at: u64| below(seed, counter + at, limit);
    (vec![row(1), row(2), last], below(seed, counter, heads))
}

/// What a pass made of the rows that a probe looks at.
///
/// Errors: as [`taken`]; of the pass.
pub fn looked(group: &mut Group<'_>, probe: Probe) -> Result<Vec<Seen>, Stop> {
    group.probe(Some(probe))?;
    group.pass()?;
    taken(group)
}

/// What the last pass made of the rows that its probe looked at, which looks no longer.
///
/// Errors: there is no probe, or not every row of [`LAYERS`] was seen.
pub fn taken(group: &mut Group<'_>) -> Result<Vec<Seen>, Stop> {
    let none = || Stop::Error("nothing was looked at".into());
    let probe = group.probe(None)?.ok_or_else(none)?;
    let (seen, wanted) = (probe.seen.len(), LAYERS.len() * probe.rows.len());
    if seen != wanted {
        return Err(Stop::Error(format!("{seen} rows were seen, of {wanted}")));
    }
    Ok(probe.seen)
}

/// Columns of `all`, drawn.
pub(super) fn chosen(
    seed: u64,
    seen: &Seen,
    linear: Linear,
    all: u32,
) -> impl Iterator<Item = u32> {
    let key = seed ^ u64::from(seen.layer) << 32 ^ u64::from(seen.row) << 3 ^ linear as u64;
    (0..u64::from(COLUMNS)).map(move |at| below(key, at, all))
}

/// Root mean square over rows of each row's error: that of |found - wanted| of attention in the head whose keys were
/// read, over the size of what is wanted with the query of head `of`; 1e300 where a number is none. Another head than
/// the one that was read is a planted fault.
pub fn attention_rms(rows: &[Seen], of: u32) -> f64 {
    let square = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>();
    let row = |seen: &Seen| {
        let wanted = attended(of, &halves(&seen.qkv), &halves(&seen.keys), &halves(&seen.values));
        let first = (seen.head * HEAD_SIZE) as usize;
        let found = &halves(&seen.attended)[first..first + HEAD_SIZE as usize];
        let off = square(&mut found.iter().zip(&wanted).map(|(found, wanted)| found - wanted));
        off / square(&mut wanted.iter().copied())
    };
    finite((rows.iter().map(row).sum::<f64>() / rows.len() as f64).sqrt())
}

/// Numbers of the keys and values that are kept of the head that was read, which are not those that they should be: of
/// each row's own, those that E4M3 with a scale of 1 makes of the row's halves, where it holds them at all; of earlier ones,
/// those that an earlier row of the same layer saw.
pub fn codes_apart(rows: &[Seen]) -> usize {
    let differs =
        |one: &[u16], other: &[u16]| one.iter().zip(other).filter(|(x, y)| x != y).count();
    let later =
        |earlier: &Seen, row: &Seen| (row.layer, earlier.row < row.row) == (earlier.layer, true);
    let kept = |earlier: &Seen, row: &Seen| {
        differs(&earlier.keys, &row.keys) + differs(&earlier.values, &row.values)
    };
    let all = rows.iter().flat_map(|earlier| rows.iter().map(move |row| (earlier, row)));
    let lost: usize = all
        .filter(|(earlier, row)| later(earlier, row))
        .map(|(earlier, row)| kept(earlier, row))
        .sum();
    lost + rows.iter().map(own_codes_apart).sum::<usize>()
}

fn own_codes_apart(seen: &Seen) -> usize {
    let (size, width) = (HEAD_SIZE as usize, seen.qkv.len() / 3);
    let wrong = |(code, kept): (&u16, &u16)| {
        let number = Element::F16.decode((*code).into());
        let rounded = Element::E4m3.decode(Element::E4m3.encode(number as f32));
        let wanted = Element::F16.encode(rounded as f32) as u16;
        // 448 is the largest number of E4M3; a number that is none is beyond it too.
        wanted != *kept || number.is_nan() || number.abs() > 448.0
    };
    let apart = |part: usize, kept: &[u16]| {
        let first = part * width + (seen.head as usize) * size;
        let own = seen.qkv[first..first + size].iter();
        own.zip(&kept[kept.len() - size..]).filter(|pair| wrong(*pair)).count()
    };
    apart(1, &seen.keys) + apart(2, &seen.values)
}

/// The head whose keys were read.
fn attention(seen: &Seen, qkv: &[f64], outputs: &[f64], keys: &[f64], values: &[f64]) -> f64 {
    let first = (seen.head * HEAD_SIZE) as usize;
    let found = &outputs[first..first + HEAD_SIZE as usize];
    let wanted = attended(seen.head, qkv, keys, values);
    over_size(
        found.iter().zip(wanted).map(|(found, wanted)| (found - wanted).abs()).collect(),
        found,
    )
}

/// What the query of a head makes of the keys and values that were read.
fn attended(of: u32, qkv: &[f64], keys: &[f64], values: &[f64]) -> Vec<f64> {
    let size = HEAD_SIZE as usize;
    let mut wanted = vec![0.0; size];
    for (weight, value) in weights(of, qkv, keys).iter().zip(values.chunks_exact(size)) {
        for (sum, x) in wanted.iter_mut().zip(value) {
            *sum += weight * x;
        }
    }
    wanted
}

/// What the query of a head gives each of the keys that were read; together 1.
pub fn weights(of: u32, qkv: &[f64], keys: &[f64]) -> Vec<f64> {
    let size = HEAD_SIZE as usize;
    let first = (of * HEAD_SIZE) as usize;
    let query = &qkv[first..first + size];
    let scale = (size as f64).sqrt().recip();
    let score = |key: &[f64]| key.iter().zip(query).map(|(k, q)| k * q).sum::<f64>() * scale;
    let scores: Vec<f64> = keys.chunks_exact(size).map(score).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// The largest over the root mean square of `found`.
fn over_size(off: Vec<f64>, found: &[f64]) -> f64 {
    let square = found.iter().map(|x| x * x).sum::<f64>() / found.len() as f64;
    let ratio = off
        .into_iter()
        .fold(0.0, |most: f64, off| if off > most || off.is_nan() { off } else { most })
        / square.sqrt();
    finite(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use kernels::model::Precision;

    const CONFIG: Config = Config {
        layers: 1,
        d_model: 128,
        d_ff: 256,
        vocab: 64,
        seed: 4,
        precision: Precision::F16,
        attention_e4m3: false,
    };

    /// What a right pass would have left of a row whose only key is its own.
    fn right(config: &Config) -> Seen {
        let codes =
            |row: &[f64]| row.iter().map(|x| f16::from_f64(*x).to_bits()).collect::<Vec<_>>();
        let affine = reference::affine(config);
        let product = |linear, input: &[f64], outputs: u32| -> Vec<f64> {
            let input = read(config.precision, input.to_vec());
            (0..outputs)
                .map(|row| {
                    let weight = linear_row(config, (linear, 0), input.len() as u32, row);
                    weight.iter().zip(&input).map(|(w, x)| w * x).sum()
                })
                .collect()
        };
        let halves = |row: Vec<f64>| row.into_iter().map(half).collect::<Vec<_>>();
        let sum =
            |a: &[f64], b: Vec<f64>| a.iter().zip(b).map(|(a, b)| half(a + b)).collect::<Vec<_>>();
        let before: Vec<f64> = (0..128).map(|i| half(f64::from(i % 7) - 3.0)).collect();
        let qkv = halves(product(Linear::Qkv, &halves(norm(&before, &affine)), 384));
        let (keys, values) = (qkv[128..256].to_vec(), qkv[256..].to_vec());
        let middle = sum(&before, product(Linear::Out, &values, 128));
        let up = halves(product(Linear::Up, &halves(norm(&middle, &affine)), 256));
        let behind: Vec<f64> = up.iter().map(|x| half(gelu(*x))).collect();
        let after = sum(&middle, product(Linear::Down, &behind, 128));
        let inner = if config.precision.is_fp8() { &up } else { &behind };
        Seen {
            layer: 0,
            row: 0,
            head: 0,
            before: codes(&before),
            qkv: codes(&qkv),
            keys: codes(&keys),
            values: codes(&values),
            attended: codes(&values),
            middle: codes(&middle),
            inner: codes(inner),
            after: codes(&after),
        }
    }

    #[test]
    fn a_right_row_has_no_error() {
        for precision in [Precision::F16, Precision::E4m3, Precision::WeightsE4m3] {
            let config = Config { precision, ..CONFIG };
            assert_eq!(errors(&config, &right(&config)), [0.0; 5]);
        }
    }

    /// The bound of golden/documented.toml is 0.04.
    #[test]
    fn weights_that_were_not_rounded_to_e4m3_are_seen() {
        let seen = right(&Config { precision: Precision::WeightsE4m3, ..CONFIG });
        let [qkv, attention, out, up, down] = errors(&CONFIG, &seen);
        assert_eq!(attention, 0.0);
        let worst = [qkv, out, up, down].into_iter().fold(0.0, f64::max);
        assert!((0.05..0.3).contains(&worst), "{qkv} {out} {up} {down}");
    }

    #[test]
    fn what_is_kept_is_compared_code_by_code() {
        // Halves of 1 / 3, kept as E4M3 has them: 0.34375.
        let third = f16::from_f64(1.0 / 3.0).to_bits();
        let kept = f16::from_f64(0.343_75).to_bits();
        let mut seen = Seen {
            head: 1,
            qkv: vec![third; 6 * 128],
            keys: vec![kept; 3 * 128],
            values: vec![kept; 3 * 128],
            ..Seen::default()
        };
        assert_eq!(codes_apart(std::slice::from_ref(&seen)), 0);
        seen.keys[3 * 128 - 1] = third;
        seen.values[2 * 128] = third;
        assert_eq!(codes_apart(&[seen.clone()]), 2);
        // 512 is held as 448.
        (seen.keys, seen.values) = (vec![kept; 3 * 128], vec![kept; 3 * 128]);
        seen.qkv[3 * 128] = f16::from_f64(512.0).to_bits();
        seen.keys[2 * 128] = f16::from_f64(448.0).to_bits();
        assert_eq!(codes_apart(&[seen]), 1);
    }

    #[test]
    fn what_an_earlier_row_saw_stays() {
        let seen = |row: u32, layer| Seen {
            layer,
            row,
            qkv: vec![0; 3 * 128],
            keys: vec![0; 128 * (row as usize + 1)],
            values: vec![0; 128 * (row as usize + 1)],
            ..Seen::default()
        };
        let mut rows = [seen(3, 0), seen(1, 0), seen(3, 23)];
        assert_eq!(codes_apart(&rows), 0);
        // Of row 0, which rows 1 and 3 of layer 0 see.
        rows[0].values[5] = 0x3C00;
        assert_eq!(codes_apart(&rows), 1);
        rows[1].values[5] = 0x3C00;
        assert_eq!(codes_apart(&rows), 0);
        rows[2].keys[5] = 0x3C00;
        assert_eq!(codes_apart(&rows), 0);
    }

    #[test]
    fn each_stage_is_seen() {
        let config = CONFIG;
        let wrong = |change: fn(&mut Seen)| {
            let mut seen = right(&config);
            change(&mut seen);
            errors(&config, &seen)
        };
        // 0x3C00 is 1.
        assert!(wrong(|seen| seen.qkv.fill(0x3C00))[0] > 0.1);
        assert!(wrong(|seen| seen.attended[5] ^= 0x4000)[1] > 0.1);
        assert!(wrong(|seen| seen.middle.fill(0x3C00))[2] > 0.1);
        assert!(wrong(|seen| seen.inner.fill(0x3C00))[3] > 0.1);
        assert!(wrong(|seen| seen.after.fill(0x3C00))[4] > 0.1);
        assert_eq!(wrong(|seen| seen.after.fill(0x7E00))[4], 1e300);
    }
}
