//! `m = m + (1 - b1) (g - m)`, `v = b2 v + (1 - b2) g^2`, `w = w (1 - rate decay) - rate / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)`
//!
//! One step of AdamW (Loshchilov and Hutter, 2019; decay apart from the gradient) over a flat buffer: all matrices of a model,
//! or all its vectors, in one launch. The gradient is divided by the loss scale and clipped on the way, from a norm
//! ([`mod@super::grad_norm`]) that stays on the device; the weights' copy that products read is written in the same pass.
//!
//! The formula is that of `torch.optim.AdamW`, operation by operation. With `x = fl(..)` for what the host rounds to f32 once,
//! from f64:
//!
//! ```text
//! norm   = sqrt(sum) * gradient_factor
//! clip   = max_norm / (norm + 1e-6) if norm + 1e-6 > max_norm, else 1       as torch.nn.utils.clip_grad_norm_
//! g      = gradient * (gradient_factor * clip)
//! m      = m + fl(1 - b1) * (g - m)
//! v      = fl(b2) * v + (fl(1 - b2) * g) * g
//! w      = w * fl(1 - rate * decay) - (fl(rate / (1 - b1^t)) * m) / (sqrt(v) / fl(sqrt(1 - b2^t)) + eps)
//! ```
//!
//! If the sum of squares is not finite, nothing changes: the step is left out. Cost: 28 bytes per element, 30 with a copy in
//! f16: memory bound everywhere.

mod cpu;
mod gpu;
mod reference;

#[doc(hidden)]
pub use reference::{State, error_bound, reference};

use super::OpSpec;
use super::grad_norm::NORM;
use crate::device::{Cost, Float, Slice, SliceMut, Target};
use crate::error::{Error, Result};

/// Everything under this operator's name.
#[doc(hidden)]
pub const SPEC: OpSpec = OpSpec {
    name: "adamw",
    formula: "w = w (1 - rate decay) - rate m^ / (sqrt(v^) + eps), m and v moving averages of g and g^2",
    kernels: &[gpu::ADAMW],
    ptx: gpu::ADAMW.ptx,
    ptx_variants: gpu::variants,
    wgsl: gpu::ADAMW.wgsl,
    wgsl_variants: || super::in_every_tier(gpu::variants()),
};

/// What a step is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Of this step.
    pub learning_rate: f32,
    /// Of the moving averages of gradients and of their squares. In f64: `1 - 0.999` as f32 is off by 1.3e-5 of itself.
    pub beta: [f64; 2],
    /// Added to the root of the average square.
    pub eps: f32,
    /// Share of a weight that goes per unit of learning rate; 0 for groups that are exempt.
    pub weight_decay: f32,
    /// Number of this step among those made, from 1.
    pub step: u64,
    /// Factor of all gradients: one over the loss scale.
    pub gradient_factor: f32,
    /// Longer gradients are shortened to this; infinity for none.
    pub max_norm: f32,
}

impl Default for AdamW {
    /// The first step with PyTorch's defaults, and gradients clipped to length 1.
    fn default() -> Self {
        AdamW {
            learning_rate: 1e-3,
            beta: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.01,
            step: 1,
            gradient_factor: 1.0,
            max_norm: 1.0,
        }
    }
}

/// The moving averages of gradients and of their squares, as long as the weights; zero at the start.
pub struct Moments<'a> {
    /// Of gradients.
    pub first: SliceMut<'a, f32>,
    /// Of squares.
    pub second: SliceMut<'a, f32>,
}

/// Makes one step: updates moments and `master`, and writes the weights to `working` too, rounded. `norm` `[8]` is what
/// [`grad_norm`](super::grad_norm()) made of all gradients, this and others.
///
/// # Errors
/// [`Error::Shape`] for sizes that do not fit (a multiple of 8), [`Error::Invalid`] for settings without meaning.
///
/// ```
/// use nearmiss::{Device, ops::{adamw, adamw::{AdamW, Moments}, grad_norm}};
/// let cpu = Device::cpu();
/// let gradient = cpu.upload(&[0.1f32; 8])?;
/// let (mut first, mut second, mut weights) = (cpu.upload(&[0f32; 8])?, cpu.upload(&[0f32; 8])?, cpu.upload(&[1f32; 8])?);
/// let mut norm = cpu.alloc(8)?;
/// grad_norm(&[(&gradient).into()], &mut norm)?;
/// let settings = AdamW { learning_rate: 0.5, weight_decay: 0.0, ..AdamW::default() };
/// let moments = Moments { first: (&mut first).into(), second: (&mut second).into() };
/// adamw::<f32>(&settings, &gradient, &norm, moments, &mut weights, None)?;
/// // The first step is as long as the learning rate, whatever the gradient.
/// assert!((weights.read()?[0] - 0.5).abs() < 1e-6);
/// # Ok::<(), nearmiss::Error>(())
/// ```
pub fn adamw<'a, W: Float>(
    settings: &AdamW,
    gradient: impl Into<Slice<'a, f32>>,
    norm: impl Into<Slice<'a, f32>>,
    moments: Moments<'_>,
    master: impl Into<SliceMut<'a, f32>>,
    working: Option<SliceMut<'_, W>>,
) -> Result<()> {
    let (gradient, norm, master) = (gradient.into(), norm.into(), master.into());
    let device = master.device();
    let check = SPEC.checks(device);
    let n = master.len();
    check.rows("master", &master, 8)?;
    check.holds("gradient", &gradient, n)?;
    check.holds("norm", &norm, NORM)?;
    check.holds("first moment", &moments.first, n)?;
    check.holds("second moment", &moments.second, n)?;
    check.optional("working", &working, n)?;
    let constants = Constants::of(settings)?;
    let copied = working.as_ref().map_or(0, |_| size_of::<W>());
    let cost = Cost {
        flop: 15 * n as u64,
        bytes: (n * (28 + copied)) as u64,
    };
    device.run(SPEC.name, cost, |target| match target {
        Target::Cpu => {
            cpu::adamw(&constants, gradient, norm, moments, master, working);
            Ok(())
        }
        Target::Gpu(gpu) => gpu::adamw(gpu, &constants, gradient, norm, moments, master, working),
    })
}

/// Added to a norm before it is divided by, as `torch.nn.utils.clip_grad_norm_` does.
const NORM_EPS: f32 = 1e-6;

/// What the formula takes, computed in f64 and rounded once.
#[derive(Clone, Copy, Debug)]
struct Constants {
    gradient_factor: f32,
    max_norm: f32,
    /// `1 - b1`.
    rest1: f32,
    beta2: f32,
    /// `1 - b2`.
    rest2: f32,
    /// `1 - rate decay`.
    keep: f32,
    /// `rate / (1 - b1^t)`.
    step_size: f32,
    /// `sqrt(1 - b2^t)`.
    root: f32,
    eps: f32,
}

impl Constants {
    fn of(settings: &AdamW) -> Result<Self> {
        let &AdamW {
            learning_rate,
            beta,
            eps,
            weight_decay,
            step,
            gradient_factor,
            max_norm,
        } = settings;
        let finite = [learning_rate, eps, weight_decay, gradient_factor];
        let positive = |v: f32| v > 0.0;
        if step == 0
            || beta.iter().any(|b| !(0.0..1.0).contains(b))
            || finite.iter().any(|v| !(v.is_finite() && *v >= 0.0))
            || ![gradient_factor, max_norm, eps].into_iter().all(positive)
        {
            return Err(Error::Invalid(format!(
                "adamw: these settings have no meaning: {settings:?}"
            )));
        }
        let (rate, t) = (f64::from(learning_rate), step as f64);
        let [rest1, rest2] = beta.map(|b| 1.0 - b.powf(t));
        Ok(Constants {
            gradient_factor,
            // Kernels need not know infinity.
            max_norm: max_norm.min(f32::MAX),
            rest1: (1.0 - beta[0]) as f32,
            beta2: beta[1] as f32,
            rest2: (1.0 - beta[1]) as f32,
            keep: (1.0 - rate * f64::from(weight_decay)) as f32,
            step_size: (rate / rest1) as f32,
            root: rest2.sqrt() as f32,
            eps,
        })
    }

    /// The factor of the gradients, by the sum of their squares; `None` if the step is to be left out.
    fn factor(&self, sum: f32) -> Option<f32> {
        if !sum.is_finite() {
            return None;
        }
        let norm = sum.sqrt() * self.gradient_factor + NORM_EPS;
        let clip = if norm > self.max_norm {
            self.max_norm / norm
        } else {
            1.0
        };
        Some(self.gradient_factor * clip)
    }
}

#[cfg(test)]
mod tests;
