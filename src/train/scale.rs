//! The loss scale: a factor that keeps gradients in f16 away from zero, found while training.

use serde::{Deserialize, Serialize};

use crate::device::Precision;

/// The scale of a new training in mixed precision.
const INITIAL: f32 = 65_536.0;

/// Factor after [`INTERVAL`] steps without an overflow.
const GROWTH: f32 = 2.0;

/// Factor after an overflow.
const BACKOFF: f32 = 0.5;

/// Steps without an overflow after which the scale grows.
const INTERVAL: u32 = 2000;

/// A dynamic loss scale as PyTorch's `torch.amp.GradScaler` has it: 2^16 at first, twice that after 2,000 steps without an
/// overflow in a row, half of it after each step with one, which is left out. A power of two, so that it rounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    scale: f32,
    /// Steps since the last overflow or growth.
    good_steps: u32,
    /// Whether it changes.
    dynamic: bool,
}

impl LossScale {
    /// The scale of a new training: dynamic where gradients are f16, 1 for good where they are f32.
    pub fn new(precision: Precision) -> Self {
        let dynamic = precision == Precision::Mixed;
        LossScale {
            scale: if dynamic { INITIAL } else { 1.0 },
            good_steps: 0,
            dynamic,
        }
    }

    /// The factor of the loss.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The factor that undoes it in the gradients.
    pub fn gradient_factor(&self) -> f32 {
        1.0 / self.scale
    }

    /// Takes note of a step: whether its gradients, hence the sum of their squares, were finite. Returns whether the step
    /// counts; one that does not has changed no weight and does not advance the schedule.
    pub fn update(&mut self, finite: bool) -> bool {
        if !self.dynamic {
            return finite;
        }
        if !finite {
            // Here and below: its inverse stays a normal number as well.
            self.scale = (self.scale * BACKOFF).max(2f32.powi(-126));
            self.good_steps = 0;
            return false;
        }
        self.good_steps += 1;
        if self.good_steps == INTERVAL {
            self.good_steps = 0;
            self.scale = (self.scale * GROWTH).min(2f32.powi(126));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_and_backs_off_as_pytorch_does() {
        let mut scale = LossScale::new(Precision::Mixed);
        assert!(!scale.update(false));
        assert_eq!(scale.scale(), 32_768.0);
        for _ in 0..1999 {
            assert!(scale.update(true));
        }
        assert_eq!(scale.scale(), 32_768.0);
        // The count begins again.
        scale.update(false);
        for _ in 0..1999 {
            scale.update(true);
        }
        assert_eq!(scale.scale(), 16_384.0);
        scale.update(true);
        assert_eq!(scale.scale(), 32_768.0);
        assert_eq!(scale.gradient_factor(), 1.0 / 32_768.0);
    }

    #[test]
    fn it_stays_a_number() {
        let mut scale = LossScale::new(Precision::Mixed);
        for _ in 0..2000 * 200 {
            scale.update(true);
        }
        assert_eq!(scale.scale(), 2f32.powi(126));
        assert!(scale.gradient_factor().is_normal());
        for _ in 0..300 {
            scale.update(false);
        }
        assert!(scale.scale().is_normal() && scale.gradient_factor().is_normal());
    }

    #[test]
    fn in_f32_there_is_none() {
        let mut scale = LossScale::new(Precision::F32);
        assert!(!scale.update(false));
        for _ in 0..3000 {
            assert!(scale.update(true));
        }
        assert_eq!(scale.scale(), 1.0);
    }

    #[test]
    fn it_is_kept_whole() {
        let mut scale = LossScale::new(Precision::Mixed);
        scale.update(false);
        scale.update(true);
        let text = serde_json::to_string(&scale).unwrap();
        assert_eq!(serde_json::from_str::<LossScale>(&text).unwrap(), scale);
        assert_eq!(text, r#"{"scale":32768.0,"good_steps":1,"dynamic":true}"#);
    }
}
