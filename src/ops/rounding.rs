//! Rounding errors, from which every bound is derived.
//!
//! Notation of Higham, *Accuracy and Stability of Numerical Algorithms*: `u` is the unit roundoff and
//! `g(n) = n u / (1 - n u)` bounds the relative error after `n` roundings.

use crate::device::DeviceKind;

/// How a kind of device rounds.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// Unit roundoff of f32 arithmetic.
    pub u: f64,
    /// Largest relative error of storing an f32 as f16 (normal range).
    pub u16: f64,
    /// Error of division, in units of `u`.
    pub division: f64,
    /// Error of a square root or an inverse square root, in units of `u`.
    pub sqrt: f64,
    /// Error of `exp(x)` is at most `(exp.0 + exp.1 * |x|) * u`, relative.
    pub exp: (f64, f64),
    /// Error of `ln(x)` for `x >= 1` is at most `ln * max(1, ln x) * u`, absolute.
    pub ln: f64,
    /// Error of an intermediate value that a matrix unit takes as f16: relative, and absolute for a subnormal one. Zero
    /// where products of intermediate values take f32.
    pub operand: (f64, f64),
    /// Results below this may be flushed to zero.
    pub tiny: f64,
}

impl Rounding {
    /// The rounding rules of a kind of device.
    ///
    /// * CPU: IEEE 754 to nearest; `exp` within 2 ulp (our own for vectors, see `simd.rs`), `ln` of the standard library within 1.
    /// * CUDA: `.rn` everywhere, but tensor cores do not round each addition to nearest, so `u` is 2^-23;
    ///   `exp(x) = ex2.approx(x * log2 e)` costs about `(4 + 2 |x|)` u; `ln(x) = lg2.approx(x) * ln 2` is off by 2^-22, absolute
    ///   for an `x` below 2 and relative above, and two roundings; operands of tensor cores are f16, to nearest.
    /// * WGSL allows either neighbour (2^-23) and gives division 2.5 ulp, `inverseSqrt` 2 ulp, `exp` 3 + 2 |x| ulp, `log` 2^-21
    ///   below 2 and 3 ulp above;
    ///   packing to f16 may round either way; subnormals may be flushed.
    pub fn of(kind: DeviceKind) -> Self {
        let (to_nearest, either) = (2f64.powi(-24), 2f64.powi(-23));
        let f16_subnormal = 2f64.powi(-24);
        match kind {
            DeviceKind::Cpu => Rounding {
                u: to_nearest,
                u16: 2f64.powi(-11),
                division: 1.0,
                sqrt: 1.0,
                exp: (4.0, 0.0),
                ln: 2.0,
                operand: (0.0, 0.0),
                tiny: f16_subnormal,
            },
            DeviceKind::Cuda => Rounding {
                u: either,
                u16: 2f64.powi(-11),
                division: 1.0,
                sqrt: 1.0,
                exp: (4.0, 2.0),
                ln: 4.0,
                operand: (2f64.powi(-11), 2f64.powi(-25)),
                tiny: f16_subnormal,
            },
            DeviceKind::Wgpu => Rounding {
                u: either,
                u16: 2f64.powi(-10),
                division: 2.5,
                sqrt: 3.0,
                exp: (3.0, 2.0),
                ln: 4.0,
                operand: (0.0, 0.0),
                // Smallest normal f16: anything below may become zero.
                tiny: 2f64.powi(-14),
            },
        }
    }

    /// `g(n) = n u / (1 - n u)`: the relative error after `n` roundings.
    pub fn g(&self, n: usize) -> f64 {
        let nu = n as f64 * self.u;
        nu / (1.0 - nu)
    }

    /// Error of storing `value` (with error `e` already) in an element type of `bytes` bytes.
    pub fn store(&self, value: f64, e: f64, bytes: usize) -> f64 {
        match bytes {
            2 => e + self.u16 * (value.abs() + e) + self.tiny,
            // A flushed f32 subnormal.
            _ => e + f64::from(f32::MIN_POSITIVE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_grows_a_little_faster_than_linearly() {
        let r = Rounding::of(DeviceKind::Cpu);
        assert_eq!(r.g(0), 0.0);
        assert!(r.g(1000) > 1000.0 * r.u && r.g(1000) < 1000.1 * r.u);
    }
}
