//! Linear layers of learned verifiers, forward and backward, and the product that makes a score.

use super::parameters::Tensors;
use crate::device::{Buffer, Float, Slice};
use crate::error::Result;
use crate::model::weights::{Gradients, Linear, Matrix, Weights};
use crate::ops::matmul::Epilogue;
use crate::ops::matmul_nn::NnEpilogue;
use crate::ops::{matmul, matmul_nn, matmul_tn};

/// Scores that the last product makes: one, and seven that nothing reads, since widths are multiples of 8.
pub(super) const SCORES: usize = 8;

/// `x w^T + bias` of a layer `[out, width]`, so many rows.
pub(super) fn linear<A: Float, C: Float>(
    weights: &Weights<A, Tensors>,
    x: Slice<'_, A>,
    layer: Linear,
    rows: usize,
    out: usize,
) -> Result<Buffer<C>> {
    let mut y = weights.device().alloc::<C>(rows * out)?;
    let epilogue = Epilogue {
        bias: Some(weights.vector(layer.bias)),
        ..Epilogue::default()
    };
    let weight = weights.matrix(layer.weight);
    matmul(x, weight, &epilogue, &mut y, rows, out)?;
    Ok(y)
}

/// The way back through linear layers: weights, and the gradients that are added to.
pub(super) struct Backward<'a, A: Float> {
    pub weights: &'a Weights<A, Tensors>,
    pub gradients: &'a mut Gradients<Tensors>,
}

impl<A: Float> Backward<'_, A> {
    /// Adds the gradients in weight and bias of a layer `[out, width]`, given the one in its output and its input.
    pub fn weight(
        &mut self,
        layer: Linear,
        d_out: Slice<'_, A>,
        input: Slice<'_, A>,
        out: usize,
        width: usize,
    ) -> Result<()> {
        let (d_weight, d_bias) = self.gradients.linear_mut(layer);
        matmul_tn(d_out, input, d_weight, Some(d_bias), out, width)
    }

    /// The gradient in the input of a layer with this weight, so many rows, `width` wide, given the one in its output.
    pub fn input<C: Float>(
        &self,
        weight: Matrix,
        d_out: Slice<'_, A>,
        rows: usize,
        width: usize,
    ) -> Result<Buffer<C>> {
        self.through(weight, d_out, &NnEpilogue::default(), rows, width)
    }

    /// The gradient in what GELU took to make that input.
    pub fn before_gelu(
        &self,
        weight: Matrix,
        d_out: Slice<'_, A>,
        before: Slice<'_, A>,
        rows: usize,
        width: usize,
    ) -> Result<Buffer<A>> {
        let epilogue = NnEpilogue {
            gelu_of: Some(before),
            residual: None,
        };
        self.through(weight, d_out, &epilogue, rows, width)
    }

    fn through<C: Float>(
        &self,
        weight: Matrix,
        d_out: Slice<'_, A>,
        epilogue: &NnEpilogue<'_, A>,
        rows: usize,
        width: usize,
    ) -> Result<Buffer<C>> {
        let mut gradient = self.weights.device().alloc::<C>(rows * width)?;
        let weight = self.weights.matrix(weight);
        matmul_nn(d_out, weight, epilogue, &mut gradient, rows, width)?;
        Ok(gradient)
    }
}
