//! What a weight-only product does with its result on the way out, beside the kernels that do the same alone.

use harness::record::Stop;
use kernels::device::{Buffer, Gpu};
use kernels::model::{Affine, Kernels, Matrix};
use kernels::weightonly::{Out, WeightOnly};

/// Columns of the product, which three parts can share, and columns between a part's rows.
pub const N: u32 = 960;
const PART: u32 = N / 3;
const APART: u32 = 64;
/// Numbers that the sum is with.
const STEP: u64 = 97;

/// A product that is taken once as it is and once with what is done to it.
pub struct Fused<'a> {
    pub gpu: &'a Gpu,
    pub product: &'a WeightOnly,
    pub kernels: &'a Kernels,
    pub activations: &'a Buffer,
    pub weights: &'a Buffer,
    pub scales: Option<&'a Buffer>,
    /// Rows and length of the sums.
    pub sizes: (u32, u32),
}

impl Fused<'_> {
    /// Halves that differ: of three parts whose rows lie apart, of GELU, of a sum in place, of both, and of the norm
    /// on the way in of so few rows as can be; and of GELU beside the product as it is, which must differ.
    ///
    /// Errors: of the driver.
    pub fn unequal(&self) -> Result<(u64, u64), Stop> {
        let plain = self.halves(&self.separate(false, false)?)?;
        let mut unequal = self.parts(&plain)?;
        if WeightOnly::norms(self.sizes) {
            let (wanted, found) = self.normed()?;
            unequal += apart(&wanted, &found);
        }
        for (gelu, sum) in [(true, false), (false, true), (true, true)] {
            let wanted = self.halves(&self.separate(gelu, sum)?)?;
            unequal += apart(&wanted, &self.halves(&self.fused(gelu, sum)?)?);
        }
        Ok((unequal, apart(&plain, &self.halves(&self.fused(true, false)?)?)))
    }

    fn halves(&self, buffer: &Buffer) -> Result<Vec<u16>, Stop> {
        let count = (self.sizes.0 * N) as usize;
        Ok(buffer.read_vec(self.gpu.stream(), count)?)
    }

    /// Halves of a product of normed activations that differ from those without the norm.
    ///
    /// Errors: of the driver; more rows than are normed.
    pub fn without_norm(&self) -> Result<u64, Stop> {
        let plain = self.halves(&self.separate(false, false)?)?;
        Ok(apart(&plain, &self.normed()?.1))
    }

    /// Products of normed activations: normed by a kernel of its own, and on the way in.
    fn normed(&self) -> Result<(Vec<u16>, Vec<u16>), Stop> {
        let (stream, (m, k)) = (self.gpu.stream(), self.sizes);
        let [gain, bias] = [self.numbers(k.into(), 1)?, self.numbers(k.into(), 5)?];
        let affine = Affine { gain: &gain, bias: &bias };
        let between = self.gpu.alloc(2 * u64::from(m) * u64::from(k))?;
        let [to, from] = [&between, self.activations].map(|buffer| Matrix::packed(buffer, k));
        self.kernels.norm(stream, to, from, affine, (m, k))?;
        let [wanted, found] = [self.poisoned()?, self.poisoned()?];
        self.run(&between, &Out::plain(&[Matrix::packed(&wanted, N)]))?;
        let parts = [Matrix::packed(&found, N)];
        self.run(self.activations, &Out { norm: Some(affine), ..Out::plain(&parts) })?;
        Ok((self.halves(&wanted)?, self.halves(&found)?))
    }

    /// Numbers in steps of an eighth, which begin with another one for each `first`.
    fn numbers(&self, count: u64, first: u64) -> Result<Buffer, Stop> {
        let number =
            |at: u64| half::f16::from_f64(((at + first) % STEP) as f64 / 8.0 - 6.0).to_bits();
        let codes: Vec<u16> = (0..count).map(number).collect();
        let buffer = self.gpu.alloc(2 * count)?;
        buffer.write(self.gpu.stream(), 0, &codes)?;
        Ok(buffer)
    }

    /// What is added to, a number for each element.
    fn addend(&self) -> Result<Buffer, Stop> {
        self.numbers(u64::from(self.sizes.0 * N), 0)
    }

    /// Room for a product that nothing has written yet.
    fn poisoned(&self) -> Result<Buffer, Stop> {
        let out = self.gpu.alloc(2 * u64::from(self.sizes.0 * N))?;
        out.poison(self.gpu.stream())?;
        Ok(out)
    }

    fn run(&self, activations: &Buffer, out: &Out<'_>) -> Result<(), Stop> {
        let (m, k) = self.sizes;
        let weights = (self.weights, self.scales);
        let out = Out { early: true, ..*out };
        Ok(self.product.run_into(self.gpu.stream(), activations, weights, &out, (m, N, k))?)
    }

    /// By a kernel for each step.
    fn separate(&self, gelu: bool, sum: bool) -> Result<Buffer, Stop> {
        let (stream, sizes) = (self.gpu.stream(), (self.sizes.0, N));
        let out = self.poisoned()?;
        self.run(self.activations, &Out::plain(&[Matrix::packed(&out, N)]))?;
        if gelu {
            self.kernels.gelu(stream, Matrix::packed(&out, N), sizes)?;
        }
        if !sum {
            return Ok(out);
        }
        let whole = self.addend()?;
        self.kernels.add(stream, Matrix::packed(&whole, N), Matrix::packed(&out, N), sizes)?;
        stream.synchronize()?;
        Ok(whole)
    }

    /// By the product alone.
    fn fused(&self, gelu: bool, sum: bool) -> Result<Buffer, Stop> {
        let out = self.addend()?;
        if !sum {
            out.poison(self.gpu.stream())?;
        }
        let parts = [Matrix::packed(&out, N)];
        self.run(
            self.activations,
            &Out { gelu, addend: sum.then_some(parts[0]), ..Out::plain(&parts) },
        )?;
        Ok(out)
    }

    /// Halves of three parts that differ, and bytes between their rows that were written.
    fn parts(&self, plain: &[u16]) -> Result<u64, Stop> {
        let stream = self.gpu.stream();
        let row = PART + APART;
        let count = u64::from(self.sizes.0 * row);
        let outs = (0..3).map(|_| self.gpu.alloc(2 * count)).collect::<Result<Vec<_>, _>>()?;
        outs.iter().try_for_each(|out| out.poison(stream))?;
        let parts: Vec<_> =
            outs.iter().map(|buffer| Matrix { buffer, first: 0, row: row.into() }).collect();
        self.run(self.activations, &Out::plain(&parts))?;
        let mut unequal = 0;
        for (at, out) in outs.iter().enumerate() {
            let found: Vec<u16> = out.read_vec(stream, count as usize)?;
            let rows = found.chunks(row as usize).zip(plain.chunks(N as usize));
            for (found, wanted) in rows {
                let (found, between) = found.split_at(PART as usize);
                unequal += apart(found, &wanted[at * PART as usize..][..PART as usize]);
                unequal += between.iter().filter(|code| **code != u16::MAX).count() as u64;
            }
        }
        Ok(unequal)
    }
}

fn apart(a: &[u16], b: &[u16]) -> u64 {
    a.iter().zip(b).filter(|(a, b)| a != b).count() as u64
}
